package ble

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weir-iot/weir/devices/ble/adv"
	"github.com/weir-iot/weir/gateway"
)

// AirConfig is one entry of radios: an adapter and what is heard with it.
type AirConfig struct {
	MinRSSI  int         `yaml:"min_rssi"` // dBm; what is weaker is not heard. Default -100
	Allow    []string    // addresses, or how they begin; if there are any, nothing else is heard
	Deny     []string    // these are not heard
	Remember int         // how many devices that are not configured are shown; default 100
	Decoders []adv.Table // formats that are not built in: docs/ble-formats.md
}

const (
	defaultMinRSSI  = -100
	defaultRemember = 100
	maxRemember     = 1000
	maxPatterns     = 1000
	queued          = 32 // advertisements for a device whose events are not taken in; then the oldest go

	firstRetry = 500 * time.Millisecond
	lastRetry  = 4 * time.Second
	steady     = 10 * time.Second // a radio that ran as long begins with the shortest wait again
)

// Air is a radio that devices share, and the formats it understands.
type Air struct {
	name                  string
	radio                 Radio
	minRSSI               int
	allow                 []string // 12 hexadecimal digits, or their beginning
	deny                  []string
	remember              int
	tables                []adv.Table
	keys                  map[adv.Addr][]byte
	ids                   map[string]bool // of devices that are configured, in lower case
	firstRetry, lastRetry time.Duration
	decoder               *adv.Decoder // made at the first start; then of the goroutine that hears

	mu        sync.Mutex // guards what follows
	run       *airing    // nil while the radio does not run
	wait      time.Duration
	retry     time.Time // not before
	listeners []*listener
	seen      map[string]*Seen
	status    Status
}

// airing is one run of the radio.
type airing struct {
	cancel context.CancelFunc
	users  int
	up     chan struct{} // closed when it scans
	done   chan struct{} // closed when it has ended, for the reason err
	err    error
}

// listener is a device that waits for its advertisements.
type listener struct {
	claims func(r adv.Report, results []adv.Result) bool
	queue  chan heard
}

// heard is an advertisement, and what is in it.
type heard struct {
	at      time.Time
	report  adv.Report
	results []adv.Result
	err     error
}

// Status is how a radio is.
type Status struct {
	Name       string
	Up         bool
	Reason     string // why it is not up
	Since      time.Time
	Controller Controller // as of when it was up last
	Starts     uint64
	Heard      uint64 // advertisements that passed the lists
	Weak       uint64 // below min_rssi
	Denied     uint64 // by allow and deny
	Seen       []Seen // what is near and not configured, the last heard first
}

// Seen is a device that is near and not configured.
type Seen struct {
	ID       string // as in Result.ID: what a device's id or address may be set to
	Address  string
	Private  bool // the address changes
	Name     string
	Format   string
	Model    string
	RSSI     int8
	First    time.Time
	Last     time.Time
	Count    uint64
	Readings []string // the last ones, as name=value unit
	Problem  string   // why there are none: it needs a key, say
}

// NewAir returns the air that radio hears, named after its adapter. Errors are gateway.KeyErrors.
func NewAir(name string, cfg AirConfig, radio Radio) (*Air, error) {
	a := &Air{
		name: name, radio: radio, minRSSI: cfg.MinRSSI, remember: cfg.Remember, tables: cfg.Decoders,
		firstRetry: firstRetry, lastRetry: lastRetry,
		keys: map[adv.Addr][]byte{}, ids: map[string]bool{}, seen: map[string]*Seen{},
	}
	a.status = Status{Name: name, Reason: "not used", Since: time.Now()}
	if a.minRSSI == 0 {
		a.minRSSI = defaultMinRSSI
	}
	if a.minRSSI < -127 || a.minRSSI > 20 {
		return nil, gateway.BadKey("min_rssi", "%d is not between -127 and 20 dBm", cfg.MinRSSI)
	}
	if cfg.Remember == 0 {
		a.remember = defaultRemember
	}
	if a.remember < 1 || a.remember > maxRemember {
		return nil, gateway.BadKey("remember", "%d is not between 1 and %d", cfg.Remember, maxRemember)
	}
	var err error
	if a.allow, err = patterns("allow", cfg.Allow); err != nil {
		return nil, err
	}
	if a.deny, err = patterns("deny", cfg.Deny); err != nil {
		return nil, err
	}
	if _, err := adv.New(nil, a.tables); err != nil {
		return nil, err
	}
	return a, nil
}

// patterns are addresses or how they begin.
func patterns(key string, list []string) (out []string, err error) {
	if len(list) > maxPatterns {
		return nil, gateway.BadKey(key, "has %d entries; the most are %d", len(list), maxPatterns)
	}
	for i, s := range list {
		digits := strings.ToLower(strings.NewReplacer(":", "", "-", "").Replace(s))
		if digits == "" || len(digits) > 12 || strings.Trim(digits, "0123456789abcdef") != "" {
			return nil, gateway.BadKey(fmt.Sprintf("%s.%d", key, i), "%q is no address, such as A4:C1:38:00:11:22, nor the beginning of one", s)
		}
		out = append(out, digits)
	}
	return out, nil
}

// Run keeps the radio open until ctx ends, also while no device uses it, for what is seen.
func (a *Air) Run(ctx context.Context) {
	for ctx.Err() == nil {
		r, err := a.join(ctx, nil)
		if err != nil {
			continue // join waits before it tries again
		}
		select {
		case <-r.done:
		case <-ctx.Done():
		}
		a.leave(r, nil)
	}
}

// join starts the radio if it does not run, waits until it scans, and has l hear. Without an error, the caller leaves.
func (a *Air) join(ctx context.Context, l *listener) (*airing, error) {
	for {
		a.mu.Lock()
		if wait := time.Until(a.retry); a.run == nil && wait > 0 {
			a.mu.Unlock()
			select {
			case <-time.After(wait):
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		if a.run == nil {
			if err := a.start(); err != nil {
				a.mu.Unlock()
				return nil, err
			}
		}
		r := a.run
		ending := r.users == 0 && r.err != nil // its last user has left
		if !ending {
			r.users++
			if l != nil {
				a.listeners = append(a.listeners, l)
			}
		}
		a.mu.Unlock()
		if ending {
			select {
			case <-r.done:
				continue
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		var err error
		select {
		case <-r.up:
			return r, nil
		case <-r.done:
			err = r.err
		case <-ctx.Done():
			err = ctx.Err()
		}
		a.leave(r, l)
		return nil, err
	}
}

// start is called with mu held.
func (a *Air) start() error {
	if a.decoder == nil {
		var err error
		if a.decoder, err = adv.New(a.keys, a.tables); err != nil {
			a.retry = time.Now().Add(a.lastRetry)
			return err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &airing{cancel: cancel, up: make(chan struct{}), done: make(chan struct{})}
	a.run = r
	a.status.Starts++
	a.set(false, "it is being opened")
	began := time.Now()
	go func() {
		defer close(r.done)
		defer cancel()
		err := a.radio.Run(ctx, func(c Controller) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.status.Controller = c
			a.set(true, "")
			close(r.up)
		}, a.hear)
		if err == nil {
			err = errors.New("it ended without a reason")
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.run = nil
		if r.users == 0 {
			a.set(false, "not used")
			return
		}
		r.err = fmt.Errorf("adapter %s: %w", a.name, err)
		if time.Since(began) > steady {
			a.wait = 0
		}
		a.wait = min(max(2*a.wait, a.firstRetry), a.lastRetry)
		a.retry = time.Now().Add(a.wait)
		a.set(false, err.Error())
	}()
	return nil
}

var errUnused = errors.New("not used")

// leave gives up what join gave. The last one closes the radio, and nothing of it is left.
func (a *Air) leave(r *airing, l *listener) {
	a.mu.Lock()
	if l != nil {
		a.listeners = slices.DeleteFunc(a.listeners, func(other *listener) bool { return other == l })
	}
	r.users--
	last := r.users == 0
	if last && r.err == nil {
		r.err = errUnused
	}
	a.mu.Unlock()
	if last {
		r.cancel()
		<-r.done
	}
}

// set is called with mu held.
func (a *Air) set(up bool, reason string) {
	if a.status.Up != up {
		a.status.Since = time.Now()
	}
	a.status.Up, a.status.Reason = up, reason
}

// hear takes one advertisement. It is called by one goroutine.
func (a *Air) hear(r adv.Report) {
	digits := r.Addr.ID()
	begins := func(with string) bool { return strings.HasPrefix(digits, with) }
	weak := r.RSSI != adv.NoPower && int(r.RSSI) < a.minRSSI
	denied := slices.ContainsFunc(a.deny, begins) || len(a.allow) > 0 && !slices.ContainsFunc(a.allow, begins)
	if weak || denied {
		a.mu.Lock()
		defer a.mu.Unlock()
		if denied {
			a.status.Denied++
		} else {
			a.status.Weak++
		}
		return
	}
	h := heard{at: time.Now(), report: r}
	h.results, h.err = a.decoder.Decode(r)
	h.report.Data = slices.Clone(r.Data)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status.Heard++
	claimed := false
	for _, l := range a.listeners {
		if !l.claims(r, h.results) {
			continue
		}
		claimed = true
		for sent := false; !sent; {
			select {
			case l.queue <- h:
				sent = true
			default:
				select { // the newest is worth the most
				case <-l.queue:
				default:
				}
			}
		}
	}
	if !claimed {
		a.note(h)
	}
}

// note remembers what is not configured. It is called with mu held.
func (a *Air) note(h heard) {
	id := h.report.Addr.ID()
	var res adv.Result
	if len(h.results) > 0 {
		res = h.results[0]
		id = res.ID
	}
	if a.ids[strings.ToLower(id)] || a.ids[h.report.Addr.ID()] {
		return // it is configured; its driver does not run just now
	}
	s := a.seen[id]
	if s == nil {
		if len(a.seen) >= a.remember {
			a.forgetOne(res.Format != "")
			if len(a.seen) >= a.remember {
				return
			}
		}
		s = &Seen{ID: id, First: h.at}
		a.seen[id] = s
	}
	s.Address, s.Private, s.RSSI, s.Last = h.report.Addr.String(), h.report.Private(), h.report.RSSI, h.at
	s.Count++
	if name := h.report.Name(); name != "" {
		s.Name = name
	}
	if res.Format == "" {
		return
	}
	s.Format, s.Model, s.Readings, s.Problem = res.Format, res.Model, nil, ""
	for _, v := range res.Readings[:min(len(res.Readings), maxShown)] {
		s.Readings = append(s.Readings, strings.TrimRight(v.Name+"="+v.Value+" "+v.Unit, " "))
	}
	if h.err != nil {
		s.Problem = strings.ReplaceAll(h.err.Error(), "\n", "; ")
	}
}

// maxShown is how many readings of a device that is not configured are shown.
const maxShown = 16

// forgetOne makes room: of those whose format nobody knows, which are mostly phones, the one that was silent for the longest; of
// the others only for one whose format is known.
func (a *Air) forgetOne(known bool) {
	var oldest *Seen
	for _, s := range a.seen {
		switch {
		case s.Format != "" && !known:
		case oldest == nil, s.Format == "" && oldest.Format != "",
			(s.Format == "") == (oldest.Format == "") && s.Last.Before(oldest.Last):
			oldest = s
		}
	}
	if oldest != nil {
		delete(a.seen, oldest.ID)
	}
}

// Status returns how the radio is.
func (a *Air) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.status
	for _, d := range a.seen {
		one := *d
		one.Readings = slices.Clone(d.Readings)
		s.Seen = append(s.Seen, one)
	}
	slices.SortFunc(s.Seen, func(x, y Seen) int { return y.Last.Compare(x.Last) })
	return s
}
