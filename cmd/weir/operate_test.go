package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
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
	codeBlock = regexp.MustCompile("(?sm)^```(\\w*)\n(.*?)^```$") // of a language, or commands
	anyID     = regexp.MustCompile(`plant1-gw7/[a-z]{8}-[0-9]+`)
)

// pair is a gateway, plant1-gw7, and a second one as the far end of its uplink, cloud. The far end takes
// only plant1/oven/temperature until it is started with the role all.
type pair struct {
	t          *testing.T
	dir        string
	far, near  string // config files
	farMQTT    string
	nearHTTP   string
	farProcess *process
	weir       *process
}

func newPair(t *testing.T) *pair {
	p := &pair{t: t, dir: t.TempDir(), farMQTT: freePort(t), nearHTTP: freePort(t)}
	p.far = p.write("far/weir.yaml", fmt.Sprintf(`gateway: {id: far, data_dir: data}
listeners: {mqtt: {address: %q}, http: {address: %q}}
roles:
  some: {publish: ["plant1/oven/temperature"]}
  all: {publish: ["#"]}
`, p.farMQTT, freePort(t)))
	p.write("password", "secret\n")
	p.near = p.write("near/weir.yaml", fmt.Sprintf(`gateway: {id: plant1-gw7, data_dir: data}
listeners: {mqtt: {address: %q}, http: {address: %q}}
uplinks: {cloud: {sink: mqtt, url: "mqtt://%s", username: gw, password: secret}}
routes: {telemetry: {topics: ["plant1/#"], uplink: cloud, limit: {events: 150}}}
`, freePort(t), p.nearHTTP, p.farMQTT))
	return p
}

func (p *pair) write(name, text string) string {
	file := filepath.Join(p.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return file
}

// sh runs a line in the pair's directory.
func (p *pair) sh(line string) (string, error) {
	cmd := exec.Command("sh", "-c", line)
	cmd.Dir = p.dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// startFar starts the far end, again if it runs, with another role for the gateway.
func (p *pair) startFar(role string) {
	p.t.Helper()
	if p.farProcess != nil {
		if err := p.farProcess.stop(); err != nil {
			p.t.Fatal(err)
		}
	}
	if out, err := p.sh("weir -c " + p.far + " user add gw --role " + role + " < password"); err != nil {
		p.t.Fatalf("%v: %s", err, out)
	}
	p.farProcess = startProcess(p.t, "weir", "-c", p.far, "run")
	if err := waitListening("tcp", p.farMQTT); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pair) start() {
	p.t.Helper()
	p.weir = startProcess(p.t, "weir", "-c", p.near, "run")
	if err := waitListening("unix", filepath.Join(p.dir, "near", "data", socketName)); err != nil {
		p.t.Fatal(err)
	}
}

// bury publishes n events that the far end will not take, and waits until all are dead letters.
func (p *pair) bury(n int) (letters []web.DeadLetter) {
	p.t.Helper()
	for range n {
		resp, err := http.Post("http://"+p.nearHTTP+"/api/publish", "application/json", strings.NewReader(`{"topic":"plant1/oven/note","payload":1}`))
		if err != nil {
			p.t.Fatal(err)
		}
		resp.Body.Close()
	}
	for end := time.Now().Add(startTimeout); len(letters) < n; pause(p.t.Context(), 20*time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("%d dead letters of %d", len(letters), n)
		}
		get(p.t, "http://"+p.nearHTTP+"/api/dead", &letters)
	}
	return letters
}

// TestOperatePage runs every command of docs/operate.md, in order, on a gateway that has dead letters and whose
// far end takes them now.
func TestOperatePage(t *testing.T) {
	page, err := os.ReadFile("../../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	p := newPair(t)
	p.startFar("some")
	p.start()
	if out, err := p.sh("weir -c " + p.near + " pub plant1/oven/temperature 21.5"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	letters := p.bury(3)
	p.startFar("all")

	commands := 0
	for _, block := range codeBlock.FindAllStringSubmatch(string(page), -1) {
		if block[1] != "" { // what a command shows
			continue
		}
		for line := range strings.Lines(block[2]) {
			line = anyID.ReplaceAllString(strings.TrimSpace(line), letters[0].ID)
			rest, ok := strings.CutPrefix(line, "weir ")
			if !ok {
				t.Errorf("%q is no command of weir", line)
				continue
			}
			commands++
			out, err := p.sh("weir -c " + p.near + " " + rest)
			if over := strings.Contains(out, "is over already"); err != nil && !(strings.HasPrefix(rest, "replay cancel") && over) {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
		}
	}
	if commands < 16 {
		t.Errorf("%d commands on the page; there are more", commands)
	}
	if r := account(t, p.nearHTTP, "now"); r.Delivered != 4 || r.Dead != 0 {
		t.Errorf("%+v", r)
	}
}

// TestRetryKilled sends dead letters again while weir is killed again and again: the ledger adds up after each
// kill, and in the end each has been delivered, once by the ledger.
func TestRetryKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	const all = 400
	p := newPair(t)
	p.startFar("some")
	p.start()
	p.bury(all)
	p.startFar("all")
	rng := rand.New(rand.NewPCG(1, 0))
	kills, inTheMidst, before := 0, 0, account(t, p.nearHTTP, "now")
	for end := time.Now().Add(2 * startTimeout); before.Dead > 0; {
		if time.Now().After(end) {
			t.Fatalf("after %d kills: %+v", kills, before)
		}
		p.sh("weir -c " + p.near + " queue dead retry --all cloud --wait 1ms")
		pause(t.Context(), time.Duration(rng.IntN(1200))*time.Millisecond)
		p.weir.kill()
		kills++
		p.start()
		now := account(t, p.nearHTTP, "now")
		if now.Delivered+now.Dead != all || now.Queued != 0 || now.Delivered < before.Delivered {
			t.Errorf("after kill %d: %+v, and before it %+v", kills, now, before)
		}
		if now.Dead > 0 && now.Dead < before.Dead {
			inTheMidst++
		}
		before = now
	}
	var letters []web.DeadLetter
	if get(t, "http://"+p.nearHTTP+"/api/dead", &letters); len(letters) != 0 || before.Delivered != all {
		t.Errorf("%d dead letters, %+v", len(letters), before)
	}
	if inTheMidst == 0 {
		t.Error("no kill was in the midst of it")
	}
	t.Logf("%d kills, %d of them with a part of it done", kills, inTheMidst)
}
