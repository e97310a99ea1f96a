package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/weir-iot/weir/firmware-sim/fault"

	"github.com/weir-iot/weir/firmware-sim/sim/mqttclient"
)

// farEnd is where the gateway sends to.
type farEnd interface {
	address() string
	// still tells whether no more comes behind the n-th arrival unless the gateway sends.
	still(n int) bool
	problem() error
	close()
}

// taker writes down in this process what the gateway sends, before it acknowledges.
type taker struct{ mqttclient.Taker }

func startTaker(r *record) (farEnd, error) {
	t := &taker{mqttclient.Taker{Take: r.take}}
	return t, t.Start()
}

func (t *taker) address() string { return t.Addr() }
func (t *taker) still(int) bool  { return true }
func (t *taker) problem() error  { return t.Problem() }
func (t *taker) close()          { t.Close() }

// mosquitto is the real one, with a subscriber who writes down what comes.
type mosquitto struct {
	at     string
	cmd    *exec.Cmd
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu    sync.Mutex
	seen  int
	since time.Time
}

func startMosquitto(dir string, r *record) (farEnd, error) {
	program, err := exec.LookPath("mosquitto")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/mosquitto"); err != nil {
			return nil, fmt.Errorf("the far end: %w", err)
		}
	}
	m := &mosquitto{}
	if m.at, err = fault.FreeAddress("tcp"); err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(m.at)
	conf := filepath.Join(dir, "mosquitto.conf")
	text := "listener " + port + " 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_queued_bytes 0\n"
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return nil, err
	}
	m.cmd = exec.Command(program, "-c", conf)
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := m.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the far end: %w", err)
	}
	c := mqttclient.New(mqttclient.Options{Address: m.at, ClientID: "chaos", Version: mqttclient.V5, Received: r.take})
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.work.Go(func() { c.Run(ctx) })
	within, done := context.WithTimeout(ctx, startLimit)
	defer done()
	if _, err := c.Subscribe(within, mqttclient.Sub{Filter: "#", QoS: 1}); err != nil {
		m.close()
		return nil, fmt.Errorf("subscribe at the far end: %w", err)
	}
	return m, nil
}

func (m *mosquitto) address() string { return m.at }

// still: mosquitto has acknowledged before its subscriber gets it, so a silence has to do.
func (m *mosquitto) still(n int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n != m.seen || m.since.IsZero() {
		m.seen, m.since = n, time.Now()
	}
	return time.Since(m.since) > 3*time.Second
}

func (m *mosquitto) problem() error {
	if m.cmd.Process.Signal(syscall.Signal(0)) != nil {
		return errors.New("mosquitto has ended")
	}
	return nil
}

func (m *mosquitto) close() {
	m.cancel()
	m.work.Wait()
	m.cmd.Process.Kill()
	m.cmd.Wait()
}
