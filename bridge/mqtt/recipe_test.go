package mqtt_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
)

// The recipe of docs/uplinks/mqtt.md, as it stands there, drops what a lost link made come twice, also
// when it is itself started again in between.
func TestRecipe(t *testing.T) {
	for _, tool := range []string{"python3", "mosquitto_sub"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed (apt-get install python3 mosquitto-clients): the recipe is not tried", tool)
		}
	}
	page, err := os.ReadFile("../../docs/uplinks/mqtt.md")
	if err != nil {
		t.Fatal(err)
	}
	recipe := regexp.MustCompile("(?s)```python\n(.*?)```").FindSubmatch(page)
	command := regexp.MustCompile(`mosquitto_sub (-V 5 .* -F %J) \|`).FindSubmatch(page)
	if recipe == nil || command == nil {
		t.Fatal("the page has no recipe")
	}
	dir := t.TempDir()
	script := filepath.Join(dir, "consumer.py")
	if err := os.WriteFile(script, recipe[1], 0o600); err != nil {
		t.Fatal(err)
	}

	m := bridgetest.StartMosquitto(t)
	host, port, _ := net.SplitHostPort(m.Addr)
	args := strings.Fields(strings.NewReplacer("broker.example.com", host+" -p "+port, "'", "").Replace(string(command[1])))
	if text, err := exec.Command("mosquitto_sub", append(args, "-E")...).CombinedOutput(); err != nil { // only subscribes
		t.Fatalf("%v\n%s", err, text)
	}
	all := bridgetest.Collect(t, m.Addr, "plant1/#")
	link := bridgetest.NewProxy(t, m.Addr)
	far := newSink(t, link.Addr(), "5", lively)
	p := bridgetest.RunPump(t, far)

	n := 0
	for range 3 {
		out, stop := subscribe(t, args) // its session is kept
		before := len(all.Arrivals())
		bridgetest.Until(t, "the link is up", func() bool { return p.Status().Up })
		link.LoseAnswers()
		for range 20 {
			n++
			p.Log.Append(&gateway.Event{Topic: "plant1/" + strconv.Itoa(n%2), Payload: []byte(strconv.Itoa(n)), Accepted: time.Now()})
		}
		bridgetest.Until(t, "they have arrived once", func() bool { return len(all.Arrivals()) >= before+20 })
		link.Cut()
		link.Heal()
		bridgetest.Until(t, "all are delivered", func() bool { return p.Status().Delivered == uint64(n) })
		bridgetest.Until(t, "all have arrived twice", func() bool { return len(all.Arrivals()) >= before+40 })
		bridgetest.Until(t, "the subscriber has them", func() bool { return out.lines() >= 40 })
		stop()
		consume := exec.Command("python3", script)
		consume.Dir, consume.Stdin = dir, bytes.NewReader(out.bytes())
		if text, err := consume.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	}
	show := exec.Command("python3", "-c", "import sqlite3\nfor r in sqlite3.connect('readings.db').execute('SELECT id, topic, payload FROM readings ORDER BY rowid'): print(*r)")
	show.Dir = dir
	got, err := show.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, got)
	}
	var want strings.Builder
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&want, "test-gw/e1-%d plant1/%d %d\n", i, i%2, i)
	}
	if string(got) != want.String() {
		t.Errorf("the table has\n%s\nnot\n%s", got, want.String())
	}
}

// output is a file that a process writes.
type output struct{ file string }

func (o output) bytes() []byte {
	b, _ := os.ReadFile(o.file)
	return b
}

func (o output) lines() int { return bytes.Count(o.bytes(), []byte("\n")) }

// subscribe runs mosquitto_sub until stop is called.
func subscribe(t *testing.T, args []string) (out output, stop func()) {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("mosquitto_sub", args...)
	cmd.Stdout, cmd.Stderr = f, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	stop = func() {
		if !ended {
			ended = true
			cmd.Process.Signal(syscall.SIGTERM)
			cmd.Wait()
		}
	}
	t.Cleanup(stop)
	return output{f.Name()}, stop
}
