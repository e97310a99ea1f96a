package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/weir-iot/weir/gateway/config"
)

var (
	yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")
	docLink   = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
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
	blocks := 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range yamlBlock.FindAllStringSubmatch(string(text), -1) {
			blocks++
			dir := t.TempDir()
			block := strings.ReplaceAll(m[1], "${file:cloud.password}", "secret")
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
