package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weir-iot/weir/devices"
	"github.com/weir-iot/weir/gateway/config"
)

// TestMain can also be the gateway that demo starts.
func TestMain(m *testing.M) {
	switch os.Getenv("SIM_TEST_GATEWAY") {
	case "":
		os.Exit(m.Run())
	case "taken":
		fmt.Fprintln(os.Stderr, "time=now level=INFO msg=hidden\nweir: the port is in use by mosquitto (pid 1): stop it")
		os.Exit(1)
	}
	if len(os.Args) != 4 || os.Args[1] != "--config" || os.Args[3] != "run" {
		fmt.Fprintln(os.Stderr, "weir: called with", os.Args)
		os.Exit(2)
	}
	cfg, err := config.Load(os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	l, err := net.Listen("tcp", cfg.Listeners.MQTT.Address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	fmt.Println("MQTT on", l.Addr())
	<-told
	fmt.Println("stopped")
}

// buffer is a bytes.Buffer for two goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) { // polling
		if time.Now().After(limit) {
			t.Fatal("waited in vain for ", what)
		}
	}
}

func TestDemo(t *testing.T) {
	dir := t.TempDir()
	// The user has changed the port, and that stays.
	mine := "listeners: {mqtt: {address: \"127.0.0.1:0\"}}\n"
	file := filepath.Join(dir, "weir.yaml")
	if err := os.WriteFile(file, []byte(mine), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SIM_TEST_GATEWAY", "serve")
	var out, errOut buffer
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	code := make(chan int, 1)
	go func() { code <- command(ctx, []string{"demo", "--weir", os.Args[0], "--dir", dir}, &out, &errOut) }()
	waitFor(t, "the demo", func() bool { return strings.Contains(out.String(), "Ctrl-C stops both") })
	if _, err := os.Stat(filepath.Join(dir, "tty", "scale")); err != nil {
		t.Error(err)
	}
	cancel()
	if got := <-code; got != 0 || errOut.String() != "" {
		t.Errorf("exit code %d, %s", got, errOut.String())
	}
	for _, want := range []string{"MQTT on 127.0.0.1:", "  boiler ", "weir.log", "stopped\n", "scale       sent "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if now, err := os.ReadFile(file); err != nil || string(now) != mine {
		t.Errorf("the configuration is now %q, %v", now, err)
	}
}

func TestDemoSaysWhatTheGatewaySays(t *testing.T) {
	t.Setenv("SIM_TEST_GATEWAY", "taken")
	dir := t.TempDir()
	var out, errOut buffer
	code := command(t.Context(), []string{"demo", "--weir", os.Args[0], "--dir", dir}, &out, &errOut)
	want := fmt.Sprintf("weir: the port is in use by mosquitto (pid 1): stop it\nfirmware-sim: the gateway ended (exit status 1); its configuration is %s, its log %s\n",
		short(filepath.Join(dir, "weir.yaml")), short(filepath.Join(dir, "weir.log")))
	if code != 1 || errOut.String() != want || out.String() != "" {
		t.Errorf("exit code %d\n%s\nwant\n%s\nout %s", code, errOut.String(), want, out.String())
	}
	if log, err := os.ReadFile(filepath.Join(dir, "weir.log")); err != nil || !strings.Contains(string(log), "msg=hidden") {
		t.Errorf("log %q, %v", log, err)
	}
}

// The configuration that demo writes is one that the gateway takes, whole.
func TestDemoConfiguration(t *testing.T) {
	dir := t.TempDir()
	cfg, err := demoSettings(filepath.Join(dir, "weir.yaml"), filepath.Join(dir, "tty"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := devices.New(devices.Options{Sections: cfg.Devices, Buses: cfg.Buses, Site: cfg.Gateway.Site})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(s.Status()); n != 8 || cfg.Gateway.DataDir != filepath.Join(dir, "data") {
		t.Errorf("%d devices, data in %s", n, cfg.Gateway.DataDir)
	}
}

func TestRunKeepsALedger(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "ledger")
	var out, errOut buffer
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	code := make(chan int, 1)
	go func() {
		code <- command(ctx, []string{"run", "--mqtt", "", "--tty-dir", dir, "--only", "co2", "--rate", "100", "--ledger", file}, &out, &errOut)
	}()
	waitFor(t, "the port", func() bool { _, err := os.Stat(filepath.Join(dir, "co2")); return err == nil })
	f, err := os.OpenFile(filepath.Join(dir, "co2"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if got := <-code; got != 0 || !strings.Contains(out.String(), "co2         sent ") {
		t.Errorf("exit code %d\n%s%s", got, out.String(), errOut.String())
	}
	if data, err := os.ReadFile(file); err != nil || !strings.Contains(string(data), `{"topic":"demo/co2","seq":1,"qos":0,"via":"serial",`) {
		t.Errorf("ledger %q, %v", data, err)
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		said string
	}{
		{"", 2, "firmware-sim simulates devices"},
		{"fly", 2, "firmware-sim simulates devices"},
		{"run -h", 0, "-tty-dir directory"},
		{"run --fly", 2, "flag provided but not defined: -fly"},
		{"run now", 2, `unexpected argument "now"`},
		{"run --only boilr", 1, `firmware-sim: there is no device "boilr"; there is boiler, `},
		{"chaos -h", 0, "or the run was too quiet to prove anything"},
		{"chaos --for 0s", 2, "for, clients and rate are greater than 0"},
		{"chaos --far away", 2, "far is own or mosquitto"},
		{"chaos --script /no/such/script", 1, "firmware-sim: open /no/such/script"},
		{"load --clients 0", 2, "clients and rate are greater than 0"},
		{"demo --weir /no/such/weir --dir " + t.TempDir(), 1, "firmware-sim: start the gateway: "},
	} {
		var out, errOut buffer
		if code := command(t.Context(), strings.Fields(c.args), &out, &errOut); code != c.code || !strings.Contains(errOut.String(), c.said) {
			t.Errorf("%s: exit code %d, want %d\n%s", c.args, code, c.code, errOut.String())
		}
	}
}

func TestLoadSaysWhatWasNotAnswered(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close() // nobody is there
	var out, errOut buffer
	code := command(t.Context(), []string{"load", "--mqtt", address, "--clients", "1", "--for", "100ms", "--drain", "10ms"}, &out, &errOut)
	if code != 1 || !strings.Contains(errOut.String(), "messages are not acknowledged") || !strings.Contains(out.String(), "0 messages sent, 0 acknowledged") {
		t.Errorf("exit code %d\n%s%s", code, out.String(), errOut.String())
	}
}
