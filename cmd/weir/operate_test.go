package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/web"
)

var (
	codeBlock = regexp.MustCompile("(?s)```\n(.*?)```")
	anyID     = regexp.MustCompile(`plant1-gw7/[a-z]{8}-[0-9]+`)
)

// TestOperatePage runs every command of docs/operate.md, in order, on a gateway that has dead letters and whose
// far end, a second weir, takes them now.
func TestOperatePage(t *testing.T) {
	page, err := os.ReadFile("../../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	farMQTT, nearHTTP := freePort(t), freePort(t)
	far := write("far/weir.yaml", fmt.Sprintf(`gateway: {id: far, data_dir: data}
listeners: {mqtt: {address: %q}, http: {address: %q}}
roles:
  some: {publish: ["plant1/oven/temperature"]}
  all: {publish: ["#"]}
`, farMQTT, freePort(t)))
	write("password", "secret\n")
	near := write("near/weir.yaml", fmt.Sprintf(`gateway: {id: plant1-gw7, data_dir: data}
listeners: {mqtt: {address: %q}, http: {address: %q}}
uplinks: {cloud: {sink: mqtt, url: "mqtt://%s", username: gw, password: secret}}
routes: {telemetry: {topics: ["plant1/#"], uplink: cloud}}
`, freePort(t), nearHTTP, farMQTT))
	sh := func(line string) (string, error) {
		cmd := exec.Command("sh", "-c", line)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	must := func(line string) {
		t.Helper()
		if out, err := sh(line); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
	startFar := func(role string) *process {
		must("weir -c " + far + " user add gw --role " + role + " < password")
		p := startProcess(t, "weir", "-c", far, "run")
		if err := waitListening("tcp", farMQTT); err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := startFar("some")
	startProcess(t, "weir", "-c", near, "run")
	if err := waitListening("unix", filepath.Join(dir, "near", "data", socketName)); err != nil {
		t.Fatal(err)
	}
	for _, topic := range []string{"temperature", "note", "note", "note"} {
		must("weir -c " + near + " pub plant1/oven/" + topic + " 1")
	}
	var letters []web.DeadLetter
	for end := time.Now().Add(startTimeout); len(letters) < 3; pause(t.Context(), 20*time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d dead letters", len(letters))
		}
		get(t, "http://"+nearHTTP+"/api/dead", &letters)
	}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	startFar("all")

	commands := 0
	for _, block := range codeBlock.FindAllStringSubmatch(string(page), -1) {
		for line := range strings.Lines(block[1]) {
			line = anyID.ReplaceAllString(strings.TrimSpace(line), letters[0].ID)
			rest, ok := strings.CutPrefix(line, "weir ")
			if !ok {
				t.Errorf("%q is no command of weir", line)
				continue
			}
			commands++
			out, err := sh("weir -c " + near + " " + rest)
			if over := strings.Contains(out, "is over already"); err != nil && !(strings.HasPrefix(rest, "replay cancel") && over) {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
		}
	}
	if commands < 16 {
		t.Errorf("%d commands on the page; there are more", commands)
	}
	var l web.Ledger
	get(t, "http://"+nearHTTP+"/api/ledger", &l)
	if r := l.Routes[0]; l.Unaccounted != 0 || r.Delivered != 4 || r.Dead != 0 {
		t.Errorf("%+v", l)
	}
}
