package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// browser is a page in a headless Chromium, driven by the DevTools protocol.
type browser struct {
	t    *testing.T
	conn *websocket.Conn
	id   int
}

// newBrowser starts Chromium with one empty page of the given size in CSS pixels.
func newBrowser(t *testing.T, width, height int) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed (.ci/deps installs it on Debian)")
	}
	cmd := exec.Command(path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
		"--remote-debugging-port=0", fmt.Sprintf("--window-size=%d,%d", width, height),
		"--user-data-dir="+t.TempDir(), "about:blank")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // its own group: Chromium is many processes
		cmd.Wait()
	})
	var devtools string
	lines := bufio.NewScanner(stderr)
	for devtools == "" && lines.Scan() {
		if _, at, ok := strings.Cut(lines.Text(), "DevTools listening on ws://"); ok {
			devtools, _, _ = strings.Cut(at, "/")
		}
	}
	if devtools == "" {
		t.Fatal("chromium ended before it listened")
	}
	go func() {
		for lines.Scan() {
		}
	}()

	resp, err := http.Get("http://" + devtools + "/json/list")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var targets []struct {
		Type string
		URL  string `json:"webSocketDebuggerUrl"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&targets); err != nil {
		t.Fatal(err)
	}
	for _, target := range targets {
		if target.Type == "page" {
			conn, _, err := websocket.DefaultDialer.Dial(target.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			return &browser{t: t, conn: conn}
		}
	}
	t.Fatal("chromium has no page")
	return nil
}

// call runs one DevTools method and decodes its result into v, if not nil.
func (b *browser) call(method string, params map[string]any, v any) error {
	b.id++
	if err := b.conn.WriteJSON(map[string]any{"id": b.id, "method": method, "params": params}); err != nil {
		return err
	}
	for {
		var msg struct {
			ID     int
			Result json.RawMessage
			Error  *struct{ Message string }
		}
		b.conn.SetReadDeadline(time.Now().Add(startTimeout))
		if err := b.conn.ReadJSON(&msg); err != nil {
			return err
		}
		switch {
		case msg.ID != b.id: // an event
			continue
		case msg.Error != nil:
			return errors.New(msg.Error.Message)
		case v == nil:
			return nil
		}
		return json.Unmarshal(msg.Result, v)
	}
}

func (b *browser) open(url string) {
	b.t.Helper()
	if err := b.call("Page.navigate", map[string]any{"url": url}, nil); err != nil {
		b.t.Fatalf("open %s: %v", url, err)
	}
}

// eval returns the value of a JavaScript expression; it may be a promise.
func (b *browser) eval(expr string) string {
	b.t.Helper()
	var out struct {
		Result           struct{ Value any }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	err := b.call("Runtime.evaluate", map[string]any{"expression": expr, "returnByValue": true, "awaitPromise": true}, &out)
	if err == nil && out.ExceptionDetails != nil {
		err = errors.New(out.ExceptionDetails.Exception.Description)
	}
	if err != nil {
		b.t.Fatalf("%s: %v", expr, err)
	}
	return fmt.Sprint(out.Result.Value)
}

// wait returns when the JavaScript condition holds.
func (b *browser) wait(condition string) {
	b.t.Helper()
	for end := time.Now().Add(startTimeout); b.eval("!!("+condition+")") != "true"; {
		if time.Now().After(end) {
			b.screenshot("timeout")
			b.t.Fatalf("the page did not come to %s; it shows:\n%s", condition, b.eval("document.body.innerText"))
		}
		time.Sleep(20 * time.Millisecond) // between two looks; the look decides
	}
}

// screenshot writes what the page shows to NAME.png among the test's artifacts.
func (b *browser) screenshot(name string) []byte {
	b.t.Helper()
	var shot struct{ Data string }
	if err := b.call("Page.captureScreenshot", map[string]any{"format": "png"}, &shot); err != nil {
		b.t.Fatal(err)
	}
	png, err := base64.StdEncoding.DecodeString(shot.Data)
	if err != nil {
		b.t.Fatal(err)
	}
	file := filepath.Join(b.t.ArtifactDir(), name+".png")
	if err := os.WriteFile(file, png, 0o644); err != nil {
		b.t.Fatal(err)
	}
	b.t.Logf("screenshot: %s", file)
	return png
}
