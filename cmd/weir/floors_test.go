package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"sort"
	"strings"
	"testing"
)

const module = "github.com/weir-iot/weir"

// floor tells on which floor of the house a package lives; see gateway/doc.go.
func floor(path string) (n int, known bool) {
	rel := strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
	first, _, _ := strings.Cut(rel, "/")
	switch {
	case rel == "gateway":
		return 0, true
	case rel == "gateway/auth", rel == "gateway/child", rel == "devices/codec", rel == "devices/serial/port", rel == "bridge/dial", rel == "bridge/cloudevents":
		return 1, true
	case rel == "devices", rel == "bridge":
		return 3, true
	case first == "gateway", first == "devices", first == "bridge", first == "store":
		return 2, true
	case first == "cmd", first == "firmware-sim":
		return 4, true
	}
	return 0, false
}

// testOnly are packages made for tests. They may look at what they test, and no
// program may import them.
func testOnly(path string) bool {
	last := path[strings.LastIndex(path, "/")+1:]
	return last == "storetest" || last == "devicetest" || last == "bridgetest"
}

// within tells whether two packages are rooms of one flat: a package and what lies
// below it, such as bridge/web and bridge/web/dashboard.
func within(a, b string) bool {
	return strings.HasPrefix(b, a+"/") || strings.HasPrefix(a, b+"/")
}

type pkg struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Module     *struct{ Path string }
}

func listPackages(t *testing.T) map[string]pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", "-json=ImportPath,Standard,Imports,Module", module+"/...").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	pkgs := map[string]pkg{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs[p.ImportPath] = p
	}
}

func TestImportsOnlyGoDown(t *testing.T) {
	for path, p := range listPackages(t) {
		if !strings.HasPrefix(path, module) || testOnly(path) {
			continue
		}
		from, known := floor(path)
		if !known {
			t.Errorf("%s has no place in the house; see gateway/doc.go", path)
			continue
		}
		for _, imp := range p.Imports {
			if !strings.HasPrefix(imp, module) {
				continue
			}
			to, _ := floor(imp)
			switch {
			case testOnly(imp):
				t.Errorf("%s imports %s, which is for tests only", path, imp)
			case from == 2 && to == 2 && !within(path, imp):
				t.Errorf("%s imports its sibling %s: siblings never meet; let cmd/weir/wire.go hand in a function", path, imp)
			case to > from:
				t.Errorf("%s (floor %d) imports %s (floor %d): imports only go down; put the interface where it is used", path, from, imp, to)
			case to == from && from < 2 && path != imp:
				t.Errorf("%s imports %s on the same floor", path, imp)
			}
		}
	}
}

func TestWordsNeedNoTechnology(t *testing.T) {
	pkgs := listPackages(t)
	for _, imp := range pkgs[module+"/gateway"].Imports {
		if !pkgs[imp].Standard {
			t.Errorf("gateway imports %s: floor 0 holds the words and uses the standard library only", imp)
		}
	}
}

// Each third-party client lives in one package, so that replacing one touches one room.
func TestOneRoomPerThirdPartyModule(t *testing.T) {
	users := map[string]map[string]bool{}
	pkgs := listPackages(t)
	for path, p := range pkgs {
		if !strings.HasPrefix(path, module) || testOnly(path) {
			continue
		}
		for _, imp := range p.Imports {
			m := pkgs[imp].Module
			// The x modules are extensions of the standard library.
			if m == nil || m.Path == module || strings.HasPrefix(m.Path, "golang.org/x/") {
				continue
			}
			if users[m.Path] == nil {
				users[m.Path] = map[string]bool{}
			}
			users[m.Path][path] = true
		}
	}
	for mod, by := range users {
		if len(by) > 1 {
			var names []string
			for name := range by {
				names = append(names, strings.TrimPrefix(name, module+"/"))
			}
			sort.Strings(names)
			t.Errorf("%s is imported by %s: one package imports each third-party client", mod, strings.Join(names, " and "))
		}
	}
}
