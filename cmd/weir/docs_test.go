package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway/config"
)

var (
	yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")
	// Secrets that are base64 in one place are so in all.
	secretFile = regexp.MustCompile(`\$\{file:[^}]*\}`)
	tlsFile    = regexp.MustCompile(`(ca|cert|key)_file: \S+`)
	docLink    = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
)

// What the README and the docs tell people to put into weir.yaml is valid, and what they
// link to is there.
func TestDocs(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	uplinks, err := filepath.Glob("../../docs/uplinks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	pages = append(pages, uplinks...)
	// What a page names is there: a file's text, a certificate and its key.
	authority := bridgetest.NewAuthority(t)
	cert, key := authority.ClientFiles("gw")
	files := map[string]string{"ca_file": authority.File, "cert_file": cert, "key_file": key}
	blocks := 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range yamlBlock.FindAllStringSubmatch(string(text), -1) {
			blocks++
			dir := t.TempDir()
			block := secretFile.ReplaceAllString(m[1], "c2VjcmV0")
			block = tlsFile.ReplaceAllStringFunc(block, func(line string) string {
				name, _, _ := strings.Cut(line, ":")
				return name + ": " + files[name]
			})
			if strings.Contains(block, "0.0.0.0") { // the page says that a user comes first
				block += "users: {u: {password_hash: \"$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNo\"}}\n"
			}
			file := filepath.Join(dir, "weir.yaml")
			if err := os.WriteFile(file, []byte(block), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg, err := config.Load(file)
			if err == nil {
				err = checkParts(cfg)
			}
			if err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
		for _, m := range docLink.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			}
		}
	}
	if blocks < 4 {
		t.Errorf("found %d configs in the docs; there are more", blocks)
	}
}
