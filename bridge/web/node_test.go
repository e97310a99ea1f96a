package web

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// npmPackages are installed for the test from the npm registry, or npm's cache.
var npmPackages = []string{"centrifuge@5.8.0", "ws@8.18.0"}

// nodeDir returns a directory with copies of files in which node runs modules, or skips.
func nodeDir(t *testing.T, files ...string) string {
	t.Helper()
	version, err := exec.Command("node", "--version").Output()
	major, _, _ := strings.Cut(strings.TrimPrefix(string(version), "v"), ".")
	if n, _ := strconv.Atoi(major); err != nil || n < 20 {
		t.Skipf("node 20 or newer is not installed (%s)", strings.TrimSpace(string(version)))
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte(`{"private":true,"type":"module"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(file)), text, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func npmInstall(t *testing.T, dir string) {
	t.Helper()
	npm := exec.Command("npm", append([]string{"install", "--prefer-offline", "--no-audit", "--no-fund", "--ignore-scripts"}, npmPackages...)...)
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		t.Skipf("npm cannot install %v: %v\n%s", npmPackages, err, out)
	}
}

// What the page makes of payloads, names and numbers.
func TestDashboardModel(t *testing.T) {
	node := exec.Command("node", "model.mjs")
	node.Dir = nodeDir(t, "testdata/model.mjs", "dashboard/model.js", "dashboard/chart.js")
	if out, err := node.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// relay is a TCP relay whose connections can be cut, as a bad network cuts them.
type relay struct {
	ln     net.Listener
	to     string
	copies sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
}

func newRelay(t *testing.T, to string) *relay {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{ln: ln, to: to}
	r.copies.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", r.to)
			if err != nil {
				c.Close()
				continue
			}
			r.mu.Lock()
			r.conns = append(r.conns, c, far)
			r.mu.Unlock()
			for _, pair := range [][2]net.Conn{{c, far}, {far, c}} {
				r.copies.Go(func() {
					io.Copy(pair[0], pair[1])
					pair[0].Close()
					pair[1].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		ln.Close()
		r.cut()
		r.copies.Wait()
	})
	return r
}

func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	r.conns = nil
}

// An unmodified centrifuge-js sees every event once and in order over cut connections,
// restarts of the gateway and a new epoch; and it is told when something is missing.
func TestCentrifugeJS(t *testing.T) {
	dir := nodeDir(t, "testdata/centrifuge.mjs")
	npmInstall(t, dir)
	l := newFakeLog("e1")
	s := serve(t, l)
	r := newRelay(t, s.addr)

	node := exec.Command("node", "centrifuge.mjs", "ws://"+r.ln.Addr().String()+"/connection/websocket")
	node.Dir = dir
	node.Stderr = os.Stderr
	stdin, err := node.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := node.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	overdue := time.AfterFunc(60*time.Second, func() { node.Process.Kill() })
	t.Cleanup(func() {
		overdue.Stop()
		stdin.Close()
		node.Wait()
	})
	type said struct {
		Value         *int
		Topic         string
		Subscribed    bool
		WasRecovering bool
		Recovered     bool
		Epoch         string
		History       []int
		Published     any
		Error         int
		Unsubscribed  *int
	}
	lines := bufio.NewScanner(stdout)
	// until reads what the client says up to the line that stop wants; values must
	// count on from next.
	next := 0
	until := func(stop func(said) bool) said {
		t.Helper()
		for lines.Scan() {
			var m said
			if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
				t.Fatalf("%s: %v", lines.Text(), err)
			}
			if m.Value != nil {
				if *m.Value != next || m.Topic != "a/x" {
					t.Fatalf("got %s, want value %d", lines.Text(), next)
				}
				next++
			}
			if stop(m) {
				return m
			}
		}
		t.Fatalf("node ended, or said nothing for too long; next was %d", next)
		return said{}
	}
	value := func(n int) func(said) bool { return func(m said) bool { return m.Value != nil && *m.Value == n } }
	subscribed := func(m said) bool { return m.Subscribed }

	if m := until(subscribed); m.WasRecovering || m.Epoch != "e1" {
		t.Fatalf("first subscribed: %+v", m)
	}
	published := 0
	put := func(n int) int {
		l.put("a/x", published, n)
		published += n
		return published - 1
	}
	until(value(put(10)))

	for range 20 { // cut while events come, and miss some
		var publishing sync.WaitGroup
		publishing.Go(func() { put(40) })
		r.cut()
		publishing.Wait()
		until(value(put(3)))
	}
	for _, epoch := range []string{"e1", "e2", "e2"} {
		s.stop()
		put(7)
		l = l.restart(epoch)
		s = serveOn(t, l, s.addr)
		if m := until(subscribed); !m.WasRecovering || !m.Recovered || m.Epoch != epoch {
			t.Fatalf("after the restart: %+v", m)
		}
		until(value(put(5)))
	}

	ask := func(command string, done func(said) bool) said {
		t.Helper()
		if _, err := fmt.Fprintln(stdin, command); err != nil {
			t.Fatal(err)
		}
		return until(done)
	}
	if m := ask("history", func(m said) bool { return m.History != nil }); fmt.Sprint(m.History) != fmt.Sprint([]int{published - 1, published - 2, published - 3}) {
		t.Errorf("history: %v", m.History)
	}
	ask("publish", func(m said) bool { return m.Published != nil })
	if e := l.entries[len(l.entries)-1]; e.Topic != "b/x" || string(e.Payload) != `{"from":"js"}` {
		t.Errorf("published %+v", e)
	}
	isError := func(m said) bool { return m.Error != 0 }
	if m := ask("presence", isError); m.Error != cfNotAvailable {
		t.Errorf("presence: %d", m.Error)
	}
	if m := ask("rpc", isError); m.Error != cfNotAvailable {
		t.Errorf("rpc: %d", m.Error)
	}

	// What was lost is told: the history is trimmed while the client is away.
	s.stop()
	put(30)
	l = l.restart("e2")
	keep := l.entries[len(l.entries)-5].Offset
	l.oldest = keep
	missing := l.data(len(l.entries)-5) - 1 // without b/x
	serveOn(t, l, s.addr)
	if m := until(subscribed); !m.WasRecovering || m.Recovered {
		t.Fatalf("after the trim: %+v", m)
	}
	next = missing
	until(value(put(1)))
	ask("unsubscribe", func(m said) bool { return m.Unsubscribed != nil })
}
