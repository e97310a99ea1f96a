// Package config reads weir.yaml. It is strict, because a gateway stands where nobody
// looks: a key it does not know, a value it would have to guess at, or a file that
// says two things is an error with file, line, column, the line itself and, where
// there is one, the cure.
//
//	weir.yaml, conf.d/*.yaml
//	     │ parse.go    YAML to a tree of nodes that know their places
//	     │ tree.go     the files merged into one
//	     │ secret.go   ${file:…} and ${env:…} filled in
//	     ▼ decode.go   nodes to Go values, strictly
//	   Config          checked as a whole (check.go)
//
// Sections of devices and uplinks stay undecoded until the driver or sink that owns
// them asks; errors found then have their places all the same.
package config
