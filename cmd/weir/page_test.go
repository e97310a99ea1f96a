package main

import (
	"bytes"
	"fmt"
	"image/png"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestPage is what "make run" shows: firmware-sim starts weir and simulated devices on MQTT
// and serial lines, and the page in Chromium shows values that move, also after a restart of
// all of it, with the history from before.
func TestPage(t *testing.T) {
	b := newBrowser(t, 1280, 900)
	weir, err := exec.LookPath("weir")
	if err != nil {
		t.Fatal(err)
	}
	sim := filepath.Join(t.TempDir(), "firmware-sim")
	if out, err := exec.Command("go", "build", "-o", sim, module+"/firmware-sim").CombinedOutput(); err != nil {
		t.Fatalf("build firmware-sim: %v\n%s", err, out)
	}
	// The demo keeps a config that is there; this one differs from its own in the ports.
	dir, mqtt, page := t.TempDir(), freePort(t), freePort(t)
	conf := fmt.Sprintf(`gateway: {id: demo, site: demo, data_dir: data}
listeners:
  mqtt: {address: %q}
  http: {address: %q}
devices:
  scale: {driver: serial, port: %s/tty/scale, format: {regex: '^(?P<weight>[-0-9.]+) kg$'}, measurements: {weight: {unit: kg}}}
  weather: {driver: serial, port: %[3]s/tty/weather, format: key=value}
`, mqtt, page, dir)
	if err := os.WriteFile(filepath.Join(dir, "weir.yaml"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	demo := startProcess(t, sim, "demo", "--weir", weir, "--dir", dir)
	if err := waitListening("tcp", page); err != nil {
		t.Fatal(err)
	}

	b.open("http://" + page + "/")
	b.wait(`document.querySelector('#state')?.dataset.state === 'live'`)
	value := func(label string) string {
		return fmt.Sprintf(`[...document.querySelectorAll('#cards .row')].find(r => r.innerText.includes(%q))?.querySelector('.value')?.innerText`, label)
	}
	// One device on a serial line, one on MQTT: each value is there, and then another.
	for _, label := range []string{"weight", "temperature"} {
		b.wait(value(label))
		before := b.eval(value(label))
		b.wait(fmt.Sprintf("%s !== %q", value(label), before))
	}
	b.wait(`document.querySelectorAll('#devices li').length >= 2`)
	b.wait(`Number(document.querySelector('#rate').innerText) > 0`)
	b.eval(`[...document.querySelectorAll('#cards .row')].find(r => r.innerText.includes('weight')).click()`)
	b.wait(`!document.querySelector('#chart').hidden && /weight/.test(document.querySelector('#chart-topic').innerText)`)
	b.wait(`document.querySelector('#stats').innerText.trim()`)
	shot := b.screenshot("page")
	if colours := countColours(t, shot); colours < 20 {
		t.Errorf("the screenshot has %d colours; the page looks blank", colours)
	}

	// A clean and quick stop; then everything again, and the page goes on by itself.
	begin := time.Now()
	if err := demo.stop(); err != nil {
		t.Error(err)
	}
	t.Logf("stopped in %v", time.Since(begin).Round(time.Millisecond))
	b.wait(`document.querySelector('#state').dataset.state !== 'live'`)
	startProcess(t, sim, "demo", "--weir", weir, "--dir", dir)
	if err := waitListening("tcp", page); err != nil {
		t.Fatal(err)
	}
	b.wait(`document.querySelector('#state').dataset.state === 'live'`)
	resp, err := http.Get("http://" + page + "/api/history?topic=demo/scale/weight&limit=5000")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	body.ReadFrom(resp.Body)
	if !bytes.Contains(body.Bytes(), []byte(`"topic":"demo/scale/weight"`)) {
		t.Errorf("after the restart the history is %.300s", body.Bytes())
	}
	b.screenshot("page-after-restart")
}

func countColours(t *testing.T, shot []byte) int {
	img, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[[3]uint32]bool{}
	for y := img.Bounds().Min.Y; y < img.Bounds().Max.Y; y += 3 {
		for x := img.Bounds().Min.X; x < img.Bounds().Max.X; x += 3 {
			r, g, b, _ := img.At(x, y).RGBA()
			seen[[3]uint32{r, g, b}] = true
		}
	}
	return len(seen)
}
