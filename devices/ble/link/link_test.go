package link

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/firmware-sim/hci"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var strap = [6]byte{0xc0, 0x11, 0x22, 0x33, 0x44, 0x55}

// rig is a host and a controller with a heart rate strap around.
type rig struct {
	*Host
	ctl    *hci.Controller
	strap  *hci.Peripheral
	rate   *hci.Characteristic
	note   *hci.Characteristic
	mu     sync.Mutex
	events [][]byte
}

func newRig(t *testing.T, extended bool) *rig {
	t.Helper()
	r := &rig{ctl: &hci.Controller{Address: [6]byte{1, 2, 3, 4, 5, 6}, Extended: extended}}
	r.rate = &hci.Characteristic{UUID: 0x2a37, Properties: 0x10, Value: []byte{0, 60}}
	r.note = &hci.Characteristic{UUID: 0xff01, Properties: 0x0a, Value: []byte(strings.Repeat("a long text ", 30))}
	r.strap = &hci.Peripheral{
		Addr: strap, Random: true, RSSI: -60, Every: 5 * time.Millisecond, Data: hci.BTHome(1, 20), Response: hci.Name("strap"),
		Services: []hci.Service{
			{UUID: 0x180f, Characteristics: []*hci.Characteristic{{UUID: 0x2a19, Properties: 0x12, Value: []byte{87}}}},
			{UUID: 0x180d, Characteristics: []*hci.Characteristic{r.rate, {UUID: 0x2a39, Properties: 0x08}}},
			{UUID: 0xff00, Characteristics: []*hci.Characteristic{r.note, {UUID: 0xff02, Properties: 0x20, Value: []byte{1}}, {UUID: 0xff03, Properties: 2, Error: 0x05}}},
		},
	}
	r.ctl.Add(r.strap)
	ours, theirs := hci.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { r.ctl.Serve(ctx, theirs) })
	r.Host = New(ours, func(event []byte) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.events = append(r.events, append([]byte(nil), event...))
	})
	t.Cleanup(func() {
		r.Close()
		cancel()
		serving.Wait()
	})
	return r
}

func (r *rig) started(t *testing.T) *rig {
	t.Helper()
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) connect(t *testing.T) *Peer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	p, err := r.Connect(ctx, Addr{strap, 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Greet(ctx); err != nil {
		t.Fatal(err)
	}
	return p
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

func both(t *testing.T, test func(t *testing.T, extended bool)) {
	t.Run("bluetooth 4", func(t *testing.T) { test(t, false) })
	t.Run("bluetooth 5", func(t *testing.T) { test(t, true) })
}

func TestScan(t *testing.T) {
	both(t, func(t *testing.T, extended bool) {
		r := newRig(t, extended).started(t)
		eventually(t, "no events", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(r.events) > 10
		})
		if r.Address != r.ctl.Address || r.Extended() != extended {
			t.Errorf("%x, extended %v", r.Address, r.Extended())
		}
		r.ctl.Deaf()
		if err := r.Rescan(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, before, _ := r.Heard()
		eventually(t, "deaf after a new scan", func() bool { _, now, _ := r.Heard(); return now > before+5 })
	})
}

func TestGATT(t *testing.T) {
	both(t, func(t *testing.T, extended bool) {
		r := newRig(t, extended).started(t)
		ctx := t.Context()
		for round := range 3 { // an address of the other kind in between must not matter
			p := r.connect(t)
			list, err := p.Discover(ctx)
			if err != nil || len(list) != 6 {
				t.Fatalf("%d characteristics, %v", len(list), err)
			}
			by := map[uint16]Characteristic{}
			for _, c := range list {
				by[uint16(c.UUID[2])<<8|uint16(c.UUID[3])] = c
			}
			if b, err := p.Read(ctx, by[0x2a19].Handle); err != nil || len(b) != 1 || b[0] != 87 {
				t.Errorf("battery %v, %v", b, err)
			}
			if b, err := p.Read(ctx, by[0xff01].Handle); err != nil || len(b) != len(r.note.Value) {
				t.Errorf("%d bytes of text, %v", len(b), err)
			}
			var refused Error
			if _, err := p.Read(ctx, by[0xff03].Handle); !errors.As(err, &refused) || refused != 5 || !strings.Contains(err.Error(), "paired") {
				t.Errorf("a value that needs pairing: %v", err)
			}
			if _, err := p.Read(ctx, by[0x2a37].Handle); err == nil {
				t.Error("a value that cannot be read was")
			}
			if err := p.Write(ctx, by[0x2a39].Handle, []byte{1}, false); err != nil {
				t.Error(err)
			}
			if err := p.Write(ctx, by[0x2a39].Handle, make([]byte, 600), false); err == nil {
				t.Error("600 bytes were written")
			}
			told := make(chan []byte, 10)
			p.Notify(func(handle uint16, value []byte) {
				if handle == by[0x2a37].Handle || handle == by[0xff02].Handle {
					told <- value
				}
			})
			for _, c := range []Characteristic{by[0x2a37], by[0xff02]} { // notify and indicate
				if err := p.Subscribe(ctx, c); err != nil {
					t.Fatal(err)
				}
				select {
				case <-told:
				case <-time.After(5 * time.Second):
					t.Fatal("told nothing")
				}
			}
			if err := p.Subscribe(ctx, by[0xff01]); err == nil {
				t.Error("subscribed to what does not tell")
			}
			// A value of exactly one packet is read with one request more, which may be refused.
			r.ctl.Change(func() { r.note.Value = make([]byte, 184) })
			if b, err := p.Read(ctx, by[0xff01].Handle); err != nil || len(b) != 184 {
				t.Errorf("%d bytes, %v", len(b), err)
			}
			if round == 1 { // the device goes
				r.ctl.Change(func() { r.strap.Random = true })
				r.ctl.Remove(r.strap)
				<-p.Gone()
				if _, err := p.Read(ctx, 1); err == nil {
					t.Error("read from a device that is gone")
				}
				r.ctl.Add(r.strap)
			}
			p.Close()
			eventually(t, "still connected", func() bool { return r.ctl.Connections() == 0 })
			r.ctl.Change(func() { r.note.Value = []byte(strings.Repeat("a long text ", 30)) })
		}
		eventually(t, "does not scan again", r.ctl.Scanning)
	})
}

// TestDeadlines: every call ends in time, whatever the device does not do.
func TestDeadlines(t *testing.T) {
	r := newRig(t, false).started(t)
	within := func(what string, do func(context.Context) error) {
		t.Helper()
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if err := do(ctx); err == nil {
			t.Errorf("%s worked", what)
		}
		if took := time.Since(began); took > 1200*time.Millisecond {
			t.Errorf("%s took %v", what, took)
		}
	}
	r.ctl.Change(func() { r.strap.Unreachable = true })
	within("connect", func(ctx context.Context) error {
		_, err := r.Connect(ctx, Addr{strap, 1})
		return err
	})
	waiting := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := r.Connect(ctx, Addr{strap, 1})
		waiting <- err
	}()
	eventually(t, "it does not connect", func() bool { return r.ctl.Commands(leCreateConnection) == 2 })
	if err := r.Rescan(t.Context()); err != nil { // which the controller would refuse now
		t.Errorf("scan while it connects: %v", err)
	}
	if err := <-waiting; !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	r.ctl.Change(func() { r.strap.Unreachable = false })
	for what, do := range map[string]func(context.Context, *Peer) error{
		"discover": func(ctx context.Context, p *Peer) error { _, err := p.Discover(ctx); return err },
		"read":     func(ctx context.Context, p *Peer) error { _, err := p.Read(ctx, 3); return err },
		"write":    func(ctx context.Context, p *Peer) error { return p.Write(ctx, 3, nil, false) },
		"subscribe": func(ctx context.Context, p *Peer) error {
			return p.Subscribe(ctx, Characteristic{Handle: 3, Last: 9, Properties: CanNotify})
		},
	} {
		r.ctl.Change(func() { r.strap.Silent = false })
		p := r.connect(t)
		r.ctl.Change(func() { r.strap.Silent = true })
		within(what, func(ctx context.Context) error { return do(ctx, p) })
		<-p.Gone() // for its late answer could be taken for another's
		p.Close()
		eventually(t, "still connected", func() bool { return r.ctl.Connections() == 0 })
	}
	// The connection is over for us also if the controller does not end it.
	r.ctl.Change(func() { r.strap.Silent = false })
	p := r.connect(t)
	r.ctl.Change(func() { r.strap.Silent = true })
	r.ctl.LoseAnswers(disconnect, true)
	within("read", func(ctx context.Context) error { _, err := p.Read(ctx, 3); return err })
	<-p.Gone()
	// A controller that loses an answer.
	r.ctl.LoseAnswers(0x1009, true)
	if err := r.Ask(t.Context()); !errors.Is(err, ErrMute) {
		t.Errorf("an answer that was lost: %v", err)
	}
	r.ctl.LoseAnswers(0x1009, false)
	if err := r.Ask(t.Context()); err != nil {
		t.Errorf("and the next: %v", err)
	}
	r.ctl.Mute()
	within("ask a mute controller", func(ctx context.Context) error { return r.Ask(ctx) })
}

// TestAsked: what a device asks of its host is answered, and a flood of it is not.
func TestAsked(t *testing.T) {
	r := newRig(t, false).started(t)
	r.connect(t)
	for _, pdu := range [][]byte{
		{0x12, 1, 8, 0, 6, 0, 6, 0, 0, 0, 100, 0}, // its own timing
		{0x02, 2, 4, 0, 0, 0, 0, 0},               // a channel of BR/EDR
	} {
		r.ctl.Inject(append([]byte{2, 0x40, 0x20, byte(len(pdu) + 4), 0, byte(len(pdu)), 0, 5, 0}, pdu...))
	}
	eventually(t, "it does not have its timing", func() bool { return r.ctl.Commands(leConnectionUpdate) == 1 })
	for range 200 {
		r.ctl.Inject([]byte{2, 0x40, 0x20, 7, 0, 3, 0, 4, 0, 0x02, 23, 0}) // the length of packets
		r.ctl.Inject([]byte{2, 0x40, 0x20, 6, 0, 2, 0, 6, 0, 0x0b, 1})     // to pair
	}
	if err := r.Ask(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestBroken(t *testing.T) {
	r := newRig(t, false).started(t)
	r.ctl.Change(func() { r.strap.Every = 0 })
	for range maxGarbage - 1 { // as much as is borne
		r.ctl.Inject([]byte{0x04, 0x3e, 9, 1})
	}
	r.ctl.Say(r.strap, hci.BTHome(2, 20))
	if err := r.Ask(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range maxGarbage {
		r.ctl.Inject([]byte{0x77})
	}
	<-r.Done()
	if err := r.Err(); !strings.Contains(err.Error(), "garbage") {
		t.Error(err)
	}
	r = newRig(t, false).started(t)
	r.ctl.Inject([]byte{0x04, 0x10, 1, 7})
	<-r.Done()
	if err := r.Err(); !errors.Is(err, errHardware) {
		t.Error(err)
	}
	r = newRig(t, false).started(t)
	p := r.connect(t)
	r.ctl.Vanish()
	<-r.Done()
	<-p.Gone()
}

// answersOf plays a device that answers with what nonsense makes of an answer, and calls everything.
func hostile(t *testing.T, nonsense func(request []byte) []byte) {
	r := newRig(t, false).started(t)
	p := r.connect(t)
	r.ctl.Change(func() { r.strap.Nonsense = nonsense })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	p.Discover(ctx)
	p.Read(ctx, 3)
	p.Write(ctx, 3, []byte{1}, false)
	p.Subscribe(ctx, Characteristic{Handle: 3, Last: 0xffff, Properties: CanNotify})
	p.Close()
}

// TestHostile: what go-ble's client breaks at, and others.
func TestHostile(t *testing.T) {
	for _, answer := range [][]byte{
		{}, {0}, {1}, {1, 2}, {1, 0x10, 0, 0, 0}, {1, 0x0a, 0, 0, 0x0a}, {3, 0, 0}, {3, 0, 1}, {5}, {5, 1}, {5, 9, 1, 0}, {9, 0, 0, 0}, {9, 2, 1, 1}, {9, 7, 0, 0, 0, 0, 0, 0, 0},
		{11}, {17, 0, 1, 1}, {17, 6, 1, 0, 1, 0, 1, 1, 1}, {17, 6, 1, 0, 0, 0, 0x0f, 0x18}, {17, 6, 1, 0, 0xff, 0xff, 0x0f, 0x18}, {17, 6, 9, 0, 3, 0, 0x0f, 0x18},
		{17, 6, 1, 0, 5, 0, 0x0f, 0x18}, {0x1b}, {0x1b, 1}, {0x1d, 1}, {0x13}, {0x02, 1}, {0xff},
	} {
		hostile(t, func([]byte) []byte { return answer })
	}
}

func FuzzATT(f *testing.F) {
	f.Add([]byte{17, 6, 1, 0, 5, 0, 0x0f, 0x18})
	f.Add([]byte{9, 7, 2, 0, 2, 3, 0, 0x19, 0x2a})
	f.Fuzz(func(t *testing.T, answer []byte) {
		if len(answer) > 200 {
			return
		}
		// The shape alone, against every request: what passes must be good for go-ble.
		for _, asked := range [][]byte{{2, 23, 0}, {4, 1, 0, 255, 255}, {8, 1, 0, 255, 255, 3, 40}, {10, 1, 0}, {12, 1, 0, 5, 0}, {16, 1, 0, 255, 255, 0, 40}, {18, 1, 0, 1}} {
			if len(answer) > 0 && answers(asked, answer) && answer[0] != attError {
				switch asked[0] {
				case attFindRequest, attTypeRequest, attGroupRequest:
					if len(answer) < 6 {
						t.Fatalf("%x answers %x", answer, asked)
					}
				}
			}
		}
		hostile(t, func([]byte) []byte { return answer })
	})
}

// hear has a host take packets, and reports whether it still lives or said why not.
func hear(t *testing.T, packets func(send func([]byte))) {
	ours, theirs := hci.Pipe()
	h := New(ours, func([]byte) {})
	go io.Copy(io.Discard, theirs)
	packets(func(b []byte) { theirs.Write(b) })
	theirs.Close()
	select {
	case <-h.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the host hangs")
	}
	if h.Err() == nil {
		t.Error("it ended without a reason")
	}
}

func FuzzEvents(f *testing.F) {
	for _, b := range [][]byte{
		{4, 0x3e, 1, 2}, {4, 0x3e, 0}, {4, 0x0e, 3, 1, 9, 16}, {4, 0x0f, 4, 0, 1, 6, 4}, {4, 5, 4, 0, 1, 0, 0x13}, {4, 0x13, 5, 1, 1, 0, 1, 0}, {4, 0x13, 1, 255},
		{4, 0x3e, 19, 1, 0, 64, 0, 0, 1, 1, 2, 3, 4, 5, 6, 24, 0, 0, 0, 244, 1, 0}, {2, 64, 32, 5, 0, 1, 0, 4, 0, 11}, {2, 64, 16, 0, 0}, {0xff, 0, 0},
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		hear(t, func(send func([]byte)) {
			for len(b) > 0 { // several packets, cut by their first bytes
				n := min(len(b), 1+int(b[0])%32)
				send(b[:n])
				b = b[n:]
			}
		})
	})
}

// TestNoise: seeded, the same every time: HCI packets of every kind with bytes changed, into one host after the other. WEIR_NOISE is how
// many; make ble-noise runs a million.
func TestNoise(t *testing.T) {
	rounds := 20_000
	if text := os.Getenv("WEIR_NOISE"); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	seeds := [][]byte{
		{4, 0x3e, 19, 1, 0, 64, 0, 0, 1, 1, 2, 3, 4, 5, 6, 24, 0, 0, 0, 244, 1, 0}, {4, 0x0e, 4, 1, 3, 12, 0}, {4, 0x0f, 4, 0, 1, 6, 4}, {4, 5, 4, 0, 64, 0, 0x13},
		{4, 0x13, 5, 1, 64, 0, 1, 0}, {2, 64, 32, 6, 0, 2, 0, 4, 0, 11, 1}, {2, 64, 16, 1, 0, 1}, {4, 0x3e, 13, 5, 64, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9},
		{4, 0x3e, 15, 2, 1, 3, 0, 1, 2, 3, 4, 5, 6, 3, 2, 1, 6, 0xc4}, {2, 64, 32, 16, 0, 12, 0, 5, 0, 0x12, 1, 8, 0, 6, 0, 6, 0, 0, 0, 100, 0},
	}
	for done := 0; done < rounds; {
		hear(t, func(send func([]byte)) {
			for range 10_000 {
				b := append([]byte(nil), seeds[random.IntN(len(seeds))]...)
				for range random.IntN(4) {
					switch i := random.IntN(len(b)); random.IntN(3) {
					case 0:
						b[i] = byte(random.Uint32())
					case 1:
						b[i] ^= 1 << random.IntN(8)
					case 2:
						b = append(b[:i], b[min(len(b)-1, i+random.IntN(3)):]...)
					}
				}
				if len(b) == 0 || len(b) > 1 && b[0] == 4 && b[1] == eventHardware {
					b = []byte{4}
				}
				send(b)
				if done++; done == rounds {
					break
				}
			}
		})
	}
	t.Logf("%d packets", rounds)
}
