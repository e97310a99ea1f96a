package nats_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
)

const page = "../../docs/uplinks/nats.md"

// fromDocs is the file of that name as the page shows it: "`name`:" on a line, and a fenced block.
func fromDocs(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)`" + regexp.QuoteMeta(name) + "`[^\n]*:\n\n```[a-z]+\n(.*?)```\n").FindSubmatch(text)
	if block == nil {
		t.Fatalf("%s does not show %s", page, name)
	}
	return string(block[1])
}

// fromConf returns the server options of a file that the page shows, with pairs of what stands there
// and what this machine has instead. Each must stand there.
func fromConf(t *testing.T, name, store string, pairs ...string) *server.Options {
	t.Helper()
	text := fromDocs(t, name)
	pairs = append(pairs, "/var/lib/nats", store)
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("%s has no %q", name, pairs[i])
		}
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(strings.NewReplacer(pairs...).Replace(text)), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := server.ProcessConfigFile(path)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	o.NoSigs, o.NoLog = true, true
	return o
}

// streamFromDocs is a stream that the page shows.
func streamFromDocs(t *testing.T, name string) (c jetstream.StreamConfig) {
	t.Helper()
	if err := json.Unmarshal([]byte(fromDocs(t, name)), &c); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return c
}
