package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/devices/serial/pty"
	"github.com/weir-iot/weir/firmware-sim/fault"
	"github.com/weir-iot/weir/firmware-sim/sim"
	"github.com/weir-iot/weir/firmware-sim/sim/mqttclient"
	"github.com/weir-iot/weir/gateway"
)

// chaos is what happens in TestNothingLost. An outage lasts over several kills, so that weir is also
// killed in the midst of one.
const chaos = `
every 2s~1500ms kill 150ms
every 11s~4s    stop 4s
every 7s~3s     stall 3s
every 3s~2s     cut
`

const chaosFor = 50 * time.Second

// TestNothingLost is the promise, whole: devices publish at QoS 1 and 2 and send serial
// lines; the uplink is a real mosquitto; weir is killed again and again, mosquitto stopped
// and started, the link between them stalls. In the end every event that was acknowledged is
// at the far end, in order per topic; no id named two events and no event has two ids but
// those a device itself made; and a browser stream that came back after every kill saw no
// gap and no event twice. What make chaos does, firmware-sim/chaos, knows more faults and no browser.
func TestNothingLost(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	far := bridgetest.StartMosquitto(t)
	link, err := fault.Listen(far.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { link.Close() })
	ttys := t.TempDir()
	ports := []string{filepath.Join(ttys, "a"), filepath.Join(ttys, "b")}
	weir := startRig(t, fmt.Sprintf(`devices:
  a: {driver: serial, port: %s, format: key=value}
  b: {driver: serial, port: %s, format: {csv: [seq, _]}}
uplinks:
  far: {sink: mqtt, url: "mqtt://%s", keep_alive: 2s, ack_timeout: 2s}
routes:
  all: {topics: ["#"], uplink: far}
`, ports[0], ports[1], link.Addr()))

	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	t.Cleanup(func() { stop(); readers.Wait() })

	farEnd := readFar(t, far.Addr)
	browser := &streamReader{url: "http://" + weir.http + "/events?topic=%23", seen: map[string]bool{}, live: make(chan struct{})}
	readers.Go(func() { browser.run(ctx) })
	<-browser.live

	ledger, stopLoad := weir.load(40, 0)
	sending, stopSending := context.WithCancel(ctx)
	defer stopSending()
	for i, port := range ports {
		readers.Go(func() { sendLines(t, sending, ledger, port, i) })
	}

	script, err := fault.Parse(chaos)
	if err != nil {
		t.Fatal(err)
	}
	verbs := link.Verbs()
	verbs["stop"] = fault.Verb{Begin: func(string) error { far.Stop(); return nil }, End: far.Start}
	verbs["kill"] = fault.Verb{Begin: func(string) error { weir.kill(); return nil }, End: weir.start}
	begin, happened := time.Now(), map[string]int{}
	err = script.Run(ctx, 1, chaosFor, verbs, func(s fault.Step) {
		if s.Begin {
			happened[s.Rule.Verb]++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	// That a kill falls between a sync and its answer is luck, so it is tried until it does.
	for more := 0; more < 60 && ledger.Check(farEnd.all()).Explained == 0; more++ {
		verbs["kill"].Begin("")
		verbs["kill"].End()
		pause(ctx, time.Duration(200+37*(more%10))*time.Millisecond)
	}
	stopSending()
	stopLoad()

	// Everything has to arrive; how long that takes is not the promise.
	var report sim.Report
	var missing, unseen []string
	for end := time.Now().Add(2 * startTimeout); ; {
		arrived := farEnd.all()
		report, missing, unseen = ledger.Check(arrived), farEnd.without(browser.all()), browser.without(arrived)
		if len(report.Lost) == 0 && len(missing) == 0 && len(unseen) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Errorf("%d events that the browser saw never arrived, such as %v", len(missing), missing[:min(len(missing), 5)])
			t.Errorf("%d events that arrived the browser never saw, such as %v", len(unseen), unseen[:min(len(unseen), 5)])
			break
		}
		pause(ctx, 50*time.Millisecond)
	}
	for _, problem := range farEnd.problems() {
		t.Error(problem)
	}
	for _, problem := range browser.problems() {
		t.Error(problem)
	}
	if err := report.Err(); err != nil {
		t.Error(err)
	}
	t.Logf("%v, %v; the browser saw %d events over %d connections\n%v",
		time.Since(begin).Round(time.Second), happened, len(browser.all()), browser.connections, &report)
	if happened["kill"] < 20 || report.Acked < 1000 || report.Explained == 0 || report.Repeats == 0 {
		t.Error("the run was too quiet to prove anything")
	}
	weir.end()
}

// pause lets the programs run for a while: the run itself is what is tested.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// sendLines is a serial device that numbers its lines, and puts garbage between them.
func sendLines(t *testing.T, ctx context.Context, ledger *sim.Ledger, port string, i int) {
	line, err := pty.Open(port)
	if err != nil {
		t.Error(err)
		return
	}
	defer line.Close()
	topic := []string{"plant1/a/seq", "plant1/b/seq"}[i]
	for seq := uint64(1); ctx.Err() == nil; seq++ {
		ledger.Sent("serial", topic, seq, 0, false)
		format := []string{"seq=%d\n", "%d;x\r\n"}[i]
		line.Write(fmt.Appendf(nil, format, seq)) // while weir is away, a line is lost
		if seq%50 == 0 {
			line.Write([]byte("\x00\xff\x13 noise\n"))
		}
		pause(ctx, 50*time.Millisecond)
	}
}

// farReader is what has arrived upstream.
type farReader struct {
	t        *testing.T
	mu       sync.Mutex
	arrivals []sim.Received
	ids      map[string]bool
	wrong    []string
}

// readFar reads everything from the broker at address until the test ends.
func readFar(t *testing.T, address string) *farReader {
	t.Helper()
	f := &farReader{t: t}
	c := mqttclient.New(mqttclient.Options{
		Address: address, ClientID: "far-reader", Version: mqttclient.V5, Received: f.received, BackoffMax: 200 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-over })
	if _, err := c.Subscribe(ctx, mqttclient.Sub{Filter: "#", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	return f
}

// report waits until all that ledger says is acknowledged has arrived, and tells what is wrong with it.
func (f *farReader) report(ledger *sim.Ledger) *sim.Report {
	f.t.Helper()
	var r sim.Report
	for end := time.Now().Add(4 * startTimeout); ; pause(f.t.Context(), 50*time.Millisecond) {
		if r = ledger.Check(f.all()); len(r.Lost) == 0 || time.Now().After(end) {
			break
		}
	}
	if err := r.Err(); err != nil {
		f.t.Error(err)
	}
	for _, problem := range f.problems() {
		f.t.Error(problem)
	}
	return &r
}

func (f *farReader) received(m *mqttclient.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id, ok := m.Property("weir-id")
	if !ok {
		f.wrong = append(f.wrong, fmt.Sprintf("%s arrived without an id", m.Topic))
		return
	}
	if f.ids == nil {
		f.ids = map[string]bool{}
	}
	f.ids[id] = true
	if strings.HasSuffix(m.Topic, "/status") { // the gateway's own word; it has no number
		return
	}
	r, err := sim.ParseReceived(m.Topic, m.Payload, id)
	if err != nil {
		f.wrong = append(f.wrong, err.Error())
	}
	f.arrivals = append(f.arrivals, r)
}

func (f *farReader) all() []sim.Received {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.arrivals[:len(f.arrivals):len(f.arrivals)]
}

func (f *farReader) without(ids []string) (missing []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		if !f.ids[id] {
			missing = append(missing, id)
		}
	}
	return missing
}

func (f *farReader) problems() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wrong
}

// streamReader is a browser: it reads /events and comes back where it was.
type streamReader struct {
	url  string
	live chan struct{} // closed when it has its first position

	mu          sync.Mutex
	position    string
	offset      uint64
	seen        map[string]bool
	order       []string
	wrong       []string
	connections int
}

func (s *streamReader) run(ctx context.Context) {
	for ctx.Err() == nil {
		s.read(ctx)
		pause(ctx, 20*time.Millisecond)
	}
}

func (s *streamReader) read(ctx context.Context) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		s.fail("%v", err)
		return
	}
	if s.position != "" {
		req.Header.Set("Last-Event-ID", s.position)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return // weir is away
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		s.fail("the stream answered %s", resp.Status)
		return
	}
	s.mu.Lock()
	s.connections++
	s.mu.Unlock()
	var id, name, data string
	for lines := bufio.NewReader(resp.Body); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSuffix(line, "\n")
		switch field, value, _ := strings.Cut(line, ": "); field {
		case "":
			s.event(id, name, data)
			id, name, data = "", "", ""
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			data = value
		}
	}
}

func (s *streamReader) event(id, name, data string) {
	if id != "" {
		if s.position == "" {
			close(s.live)
		}
		s.position = id
	}
	if name == "gap" {
		s.fail("the stream has a gap: %s", data)
	}
	if data == "" || name != "" {
		return
	}
	var face gateway.Face
	if err := json.Unmarshal([]byte(data), &face); err != nil {
		s.fail("the stream sent %q: %v", data, err)
		return
	}
	at, err := gateway.ParsePosition(id)
	if err != nil {
		s.fail("%v", err)
	}
	s.mu.Lock()
	before, twice := s.offset, s.seen[face.ID]
	s.seen[face.ID], s.offset = true, at.Offset
	s.order = append(s.order, face.ID)
	s.mu.Unlock()
	if twice {
		s.fail("the stream sent %s twice", face.ID)
	}
	if at.Offset <= before {
		s.fail("the stream sent offset %d after %d", at.Offset, before)
	}
}

func (s *streamReader) fail(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.wrong) < 20 {
		s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
	}
}

func (s *streamReader) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.order[:len(s.order):len(s.order)]
}

func (s *streamReader) without(arrivals []sim.Received) (unseen []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range arrivals {
		if !s.seen[a.ID] {
			unseen = append(unseen, a.ID)
		}
	}
	return unseen
}

func (s *streamReader) problems() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wrong
}
