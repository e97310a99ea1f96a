package devices

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
)

// Feed is the journal and its live tail; *gateway.Hub is one.
type Feed interface {
	Reader(from uint64, want gateway.Matcher, see gateway.Durability) *gateway.Reader
	// Next is the offset after the last released one, and the one after the last synced.
	Next() (released, synced uint64)
}

// Result is what has become of a command, as JSON on {site}/{device}/{measurement}/result.
type Result struct {
	ID    string `json:"id"` // of the command: the event's
	Value string `json:"value"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
	Reply string `json:"reply,omitempty"` // what the device said after that
	// Correlation is the command's MQTT 5 correlation data, if it is text; else it is in base64.
	Correlation       string  `json:"correlation,omitempty"`
	CorrelationBase64 string  `json:"correlation_base64,omitempty"`
	Seconds           float64 `json:"seconds"` // from when the command was accepted
	// Unanswered says why the response topic that the command named got nothing.
	Unanswered string `json:"unanswered,omitempty"`
}

// The bounds of commands.
const (
	defaultTimeout = 10 * time.Second
	maxWaiting     = 100  // commands of one device
	maxValue       = 4096 // bytes
	maxKnown       = 64   // correlation data that are remembered of one device
)

// commander carries out what is published on {site}/{device}/{measurement}/set.
//
//	journal ─► reader ─► the device's queue ─► Writer.Write ─► …/result, and the response topic
//	            (one)       (bounded)          (one at a time)
//
// A command is begun at most once. Before it is, State says that it is, synced; what a later start
// finds begun and without a result in the journal it does not repeat, and says so. What waits is in the
// journal, and is read again from the oldest command that has no result.
type commander struct {
	Options
	devices map[string]*device
	start   uint64 // where the journal ended when this was made
	log     *slog.Logger

	mu    sync.Mutex
	at    uint64          // what lies below was read
	saved uint64          // position, as it is stored
	tried time.Time       // when that was last attempted
	open  map[uint64]bool // commands whose result is not stored yet, by offset
	owed  []owed          // results that could not be taken in
}

// owed is a result that is yet to be stored.
type owed struct {
	offset uint64
	event  *gateway.Event
}

// command is one that is waiting or being carried out.
type command struct {
	*gateway.Event
	device *device
	name   string
	timer  *time.Timer
	gone   chan struct{} // closed when it has expired
}

// mark is what is stored of a device's commands.
type mark struct {
	begun uint64  // offset of the last that was begun
	known []known // the last ones that had correlation data, the oldest first
}

// known is a command that can be told from others.
type known struct {
	key    [16]byte
	offset uint64
}

func (m mark) bytes() []byte {
	b := binary.BigEndian.AppendUint64(nil, m.begun)
	for _, k := range m.known {
		b = binary.BigEndian.AppendUint64(append(b, k.key[:]...), k.offset)
	}
	return b
}

func parseMark(b []byte) (m mark) {
	if len(b) < 8 {
		return m
	}
	m.begun = binary.BigEndian.Uint64(b)
	for b = b[8:]; len(b) >= 24; b = b[24:] {
		m.known = append(m.known, known{[16]byte(b), binary.BigEndian.Uint64(b[16:])})
	}
	return m
}

const (
	commandsBucket = "device-commands"
	commandsAt     = "/at" // no device can have this id
	savePosition   = time.Minute
)

// newCommander returns nil if there is nobody to command.
func newCommander(o Options, devices []*device) *commander {
	if o.Feed == nil || len(devices) == 0 {
		return nil
	}
	if o.May == nil {
		o.May = func(gateway.Origin, string) error { return nil }
	}
	c := &commander{Options: o, devices: map[string]*device{}, log: o.Logger, open: map[uint64]bool{}}
	for _, d := range devices {
		c.devices[d.id] = d
	}
	c.start, _ = o.Feed.Next()
	return c
}

// run carries out commands until ctx ends.
func (c *commander) run(ctx context.Context) {
	defer c.savePosition(0)
	waiting, err := c.catchUp(ctx)
	if err != nil {
		if ctx.Err() == nil {
			c.log.Error("what became of the commands of the run before cannot be told; they are not carried out", "error", err)
		}
		waiting = nil
	}
	var workers sync.WaitGroup
	defer workers.Wait()
	for _, d := range c.devices {
		if d.writer != nil {
			workers.Go(func() { c.work(ctx, d) })
		}
	}
	for _, e := range waiting {
		c.accept(ctx, e)
	}
	r := c.Feed.Reader(c.start, gateway.Filters{gateway.MustFilter(setTopic(c.Site, "+", "+"))}, gateway.Written)
	for ctx.Err() == nil {
		b, err := r.NextWithin(ctx, tellAgain)
		if err != nil && ctx.Err() == nil {
			c.log.Error("commands cannot be read", "error", err)
			select {
			case <-time.After(tellAgain):
			case <-ctx.Done():
			}
		}
		if b.Gap != nil {
			c.log.Warn("commands may be missing", "gap", b.Gap.String())
		}
		for _, e := range b.Events {
			c.accept(ctx, e)
		}
		c.mu.Lock()
		c.at = r.Offset()
		c.mu.Unlock()
		c.settleOwed(ctx)
		c.savePosition(savePosition)
	}
}

// catchUp reads what lies between the last position and the start, and returns the commands in it that
// have no result.
func (c *commander) catchUp(ctx context.Context) ([]*gateway.Event, error) {
	from := c.start
	err := c.State.Each(commandsBucket, "", func(key string, value []byte) error {
		if key == commandsAt {
			at, err := strconv.ParseUint(string(value), 10, 64)
			from = min(from, at)
			return err
		}
		if d := c.devices[key]; d != nil {
			d.mark = parseMark(value)
		}
		return nil
	})
	c.at = c.start
	if err != nil {
		return nil, err
	}
	all := map[uint64]*gateway.Event{}
	r := c.Feed.Reader(from, gateway.Filters{gateway.MustFilter(setTopic(c.Site, "+", "+")), gateway.MustFilter(resultTopic(c.Site, "+", "+"))}, gateway.Written)
	for r.Offset() < c.start {
		b, err := r.NextWithin(ctx, 0)
		if err != nil {
			return nil, err
		}
		for _, e := range b.Events {
			if e.Offset >= c.start { // read again
				break
			}
			if of, ok := c.resultOf(e); ok {
				delete(all, of)
			} else if d, _ := c.target(e.Topic); d != nil {
				all[e.Offset] = e
			}
		}
	}
	var waiting []*gateway.Event
	for _, offset := range slices.Sorted(maps.Keys(all)) {
		waiting = append(waiting, all[offset])
		c.open[offset] = true // also before it is accepted: a mark must not pass it
	}
	c.savePosition(0)
	return waiting, nil
}

// resultOf is the offset of the command that e is the result of.
func (c *commander) resultOf(e *gateway.Event) (uint64, bool) {
	var r Result
	if e.Origin.Via != gateway.ViaWeir || json.Unmarshal(e.Payload, &r) != nil {
		return 0, false
	}
	at, err := gateway.ParseID(c.GatewayID, r.ID)
	return at.Offset, err == nil
}

// accept takes in what was published on the topic of a command. It does not wait.
func (c *commander) accept(ctx context.Context, e *gateway.Event) {
	d, name := c.target(e.Topic)
	if d == nil || e.Retain && len(e.Payload) == 0 { // not ours; or a retained one is taken back
		c.settled(e.Offset)
		return
	}
	c.mu.Lock()
	c.open[e.Offset] = true
	c.mu.Unlock()
	cmd := &command{Event: e, device: d, name: name, gone: make(chan struct{})}
	key, correlated := cmd.key()
	d.marking.Lock()
	begun := e.Offset < c.start && e.Offset <= d.mark.begun
	i := slices.IndexFunc(d.mark.known, func(k known) bool { return k.key == key })
	repeat := correlated && i >= 0 && d.mark.known[i].offset != e.Offset
	d.marking.Unlock()
	left := cmd.deadline() - (c.Age() - e.Age)
	switch {
	case begun:
		c.settle(ctx, cmd, "failed", "", errors.New("the gateway was stopped while it was carried out, or before its result was stored: it may have been carried out, and is not again"))
	case e.Retain:
		c.settle(ctx, cmd, "refused", "", errors.New("a retained command is not carried out, because nobody could tell a new one from an old one"))
	case d.writer == nil:
		c.settle(ctx, cmd, "refused", "", fmt.Errorf("the device takes no commands: driver %s", d.kind))
	case repeat:
		c.settle(ctx, cmd, "repeated", "", errors.New("a command with this correlation data was taken before; it is not carried out again"))
	case len(e.Payload) > maxValue:
		c.settle(ctx, cmd, "refused", "", fmt.Errorf("the value has %d bytes, and the most is %d", len(e.Payload), maxValue))
	case !utf8.Valid(e.Payload):
		c.settle(ctx, cmd, "refused", "", errors.New("the value is not text"))
	case left <= 0:
		c.expire(ctx, cmd)
	case !c.enqueue(ctx, cmd, left):
		c.settle(ctx, cmd, "refused", "", fmt.Errorf("%d commands are waiting already", maxWaiting))
	case correlated && i < 0:
		d.marking.Lock()
		if d.mark.known = append(d.mark.known, known{key, e.Offset}); len(d.mark.known) > maxKnown {
			d.mark.known = d.mark.known[1:]
		}
		d.marking.Unlock()
	}
}

// target is the device and the name that a topic is the command of.
func (c *commander) target(topic string) (*device, string) {
	rest, ok := strings.CutPrefix(topic, c.Site+"/")
	id, rest, ok2 := strings.Cut(rest, "/")
	name, ok3 := strings.CutSuffix(rest, "/set")
	if !ok || !ok2 || !ok3 {
		return nil, ""
	}
	return c.devices[id], name
}

// deadline is how long after it was accepted a command may be begun and be under way.
func (cmd *command) deadline() time.Duration {
	if cmd.Expiry > 0 {
		return cmd.Expiry
	}
	return cmd.device.common.CommandTimeout
}

// key stands for who sent the command, and what they call it. Of one without correlation data nothing
// tells it from the next.
func (cmd *command) key() (key [16]byte, correlated bool) {
	h := sha256.New()
	for _, part := range []string{cmd.Topic, cmd.Origin.Via, cmd.Origin.ID, cmd.Origin.User, string(cmd.CorrelationData)} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	h.Write(cmd.Payload)
	copy(key[:], h.Sum(nil))
	return key, len(cmd.CorrelationData) > 0
}

// queue are the commands that wait for a device.
type queue struct {
	mu      sync.Mutex
	waiting []*command
	more    chan struct{} // there may be a first one; one signal
}

// first is the command to be carried out next, which stays in the queue, or nil.
func (q *queue) first() *command {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		return nil
	}
	return q.waiting[0]
}

// take takes cmd out, and tells whether it was there.
func (q *queue) take(cmd *command) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, cmd)
	if i < 0 {
		return false
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	return true
}

// enqueue tells whether there was room.
func (c *commander) enqueue(ctx context.Context, cmd *command, left time.Duration) bool {
	q := &cmd.device.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) >= maxWaiting {
		return false
	}
	q.waiting = append(q.waiting, cmd)
	cmd.timer = time.AfterFunc(left, func() {
		if ctx.Err() == nil && q.take(cmd) {
			close(cmd.gone)
			c.expire(ctx, cmd)
		}
	})
	select {
	case q.more <- struct{}{}:
	default:
	}
	return true
}

// expire settles a command that was not begun in time.
func (c *commander) expire(ctx context.Context, cmd *command) {
	why := "others came before it"
	if st := cmd.device.state.snapshot(); cmd.Offset < c.start {
		why = "the gateway was not running"
	} else if !st.Up {
		why = "the device is offline: " + st.Reason
	}
	c.settle(ctx, cmd, "expired", "", fmt.Errorf("expired after %v, not carried out: %s", cmd.deadline(), why))
}

// work carries out the commands of d, one after the other, while its driver has it.
func (c *commander) work(ctx context.Context, d *device) {
	for ctx.Err() == nil {
		cmd := d.queue.first()
		if cmd == nil {
			select {
			case <-d.queue.more:
			case <-ctx.Done():
			}
			continue
		}
		select {
		case <-d.here.opened():
		case <-cmd.gone:
			continue
		case <-ctx.Done():
			continue
		}
		if ctx.Err() == nil && d.queue.take(cmd) {
			cmd.timer.Stop()
			c.carryOut(ctx, cmd)
		}
	}
	for cmd := d.queue.first(); cmd != nil; cmd = d.queue.first() { // the next start finds it in the journal
		cmd.timer.Stop()
		d.queue.take(cmd)
	}
}

func (c *commander) carryOut(ctx context.Context, cmd *command) {
	// The result is told also when the gateway is being stopped.
	last, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(lastWord, cancel) })()
	if err := c.begin(cmd); err != nil {
		c.settle(last, cmd, "failed", "", fmt.Errorf("not carried out, because it cannot be stored that it is: %w", err))
		return
	}
	left := cmd.deadline() - (c.Age() - cmd.Age)
	if left <= 0 {
		c.expire(last, cmd)
		return
	}
	within, end := context.WithTimeout(ctx, left)
	defer end()
	reply, err := cmd.device.write(within, cmd.name, string(cmd.Payload))
	switch {
	case err == nil:
		c.settle(last, cmd, "done", reply, nil)
		return
	case ctx.Err() != nil:
		err = fmt.Errorf("the gateway was stopped while it was carried out; it may have been: %w", err)
	case within.Err() != nil:
		err = fmt.Errorf("not done within %v; it may have been carried out: %w", cmd.deadline(), err)
	}
	c.settle(last, cmd, "failed", reply, err)
}

// write calls the driver; its panic is the command's end only.
func (d *device) write(ctx context.Context, name, value string) (reply string, err error) {
	defer func() {
		if r := recover(); r != nil {
			d.log.Error("driver panicked", "panic", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("the driver panicked: %v", r)
		}
	}()
	return d.writer.Write(ctx, name, value)
}

// begin returns when it is on stable storage that cmd is begun.
func (c *commander) begin(cmd *command) error {
	d := cmd.device
	d.marking.Lock()
	defer d.marking.Unlock()
	d.mark.begun = cmd.Offset
	at := c.position()
	err := c.State.Apply(commandsBucket, map[string][]byte{d.id: d.mark.bytes(), commandsAt: strconv.AppendUint(nil, at, 10)})
	if err == nil {
		c.mu.Lock()
		c.saved = at
		c.mu.Unlock()
	}
	return err
}

// position is where the next start has to read from.
func (c *commander) position() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := c.at
	for offset := range c.open {
		at = min(at, offset)
	}
	return at
}

// savePosition stores the position if it has grown, at most once in so long.
func (c *commander) savePosition(every time.Duration) {
	at := c.position()
	c.mu.Lock()
	due := at != c.saved && time.Since(c.tried) >= every
	if due {
		c.tried = time.Now()
	}
	c.mu.Unlock()
	if !due {
		return
	}
	if err := c.State.Apply(commandsBucket, map[string][]byte{commandsAt: strconv.AppendUint(nil, at, 10)}); err != nil {
		c.log.Warn("cannot store which commands were settled; the next start reads more of the journal", "error", err)
		return
	}
	c.mu.Lock()
	c.saved = at
	c.mu.Unlock()
}

// settled says that the command at offset needs nothing any more.
func (c *commander) settled(offset uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, offset)
}

// settle says what has become of cmd. It does not wait for it to be stored.
func (c *commander) settle(ctx context.Context, cmd *command, outcome, reply string, failed error) {
	r := Result{
		ID: cmd.ID(c.GatewayID), OK: failed == nil, Reply: reply,
		Seconds: (c.Age() - cmd.Age).Round(time.Millisecond).Seconds(),
	}
	if value := cmd.Payload; len(value) <= maxValue && utf8.Valid(value) {
		r.Value = string(value)
	}
	if failed != nil {
		r.Error = failed.Error()
	}
	if utf8.Valid(cmd.CorrelationData) {
		r.Correlation = string(cmd.CorrelationData)
	} else {
		r.CorrelationBase64 = base64.StdEncoding.EncodeToString(cmd.CorrelationData)
	}
	d := cmd.device
	d.observe.Command(d.id, outcome)
	d.log.Debug("command", "name", cmd.name, "outcome", outcome, "error", r.Error, "id", r.ID)
	respond := cmd.ResponseTopic != "" && outcome != "repeated" // the first one has its response
	if respond {
		if err := c.mayRespond(cmd); err != nil {
			r.Unanswered, respond = err.Error(), false
		}
	}
	event := func(topic string) *gateway.Event {
		payload, _ := json.Marshal(r) // strings and numbers: cannot fail
		return &gateway.Event{
			Topic: topic, Payload: payload, QoS: 1, UTF8: true, ContentType: "application/json",
			CorrelationData: cmd.CorrelationData, Origin: gateway.Origin{Via: gateway.ViaWeir, ID: d.id},
		}
	}
	c.publish(ctx, owed{cmd.Offset, event(resultTopic(c.Site, d.id, cmd.name))})
	if respond {
		if err := c.Ingest(ctx, event(cmd.ResponseTopic), nil); err != nil {
			d.log.Warn("a response is lost", "topic", cmd.ResponseTopic, "error", err)
		}
	}
}

// mayRespond: a response goes out under the rights of who sent the command, or a command would be a way to
// publish where one may not.
func (c *commander) mayRespond(cmd *command) error {
	if err := gateway.ValidateTopic(cmd.ResponseTopic); err != nil {
		return err
	}
	if strings.HasPrefix(cmd.ResponseTopic, "$") {
		return errors.New("a topic that begins with $ is for the gateway itself")
	}
	return c.May(cmd.Origin, cmd.ResponseTopic)
}

// publish hands a result over; what cannot be taken in now is owed.
func (c *commander) publish(ctx context.Context, o owed) {
	e := *o.event // Ingest keeps what it is given
	stored := func(err error) {
		if err == nil {
			c.settled(o.offset)
			return
		}
		c.mu.Lock()
		c.owed = append(c.owed, o)
		c.mu.Unlock()
	}
	if err := c.Ingest(ctx, &e, stored); err != nil {
		stored(err)
	}
}

func (c *commander) settleOwed(ctx context.Context) {
	c.mu.Lock()
	all := c.owed
	c.owed = nil
	c.mu.Unlock()
	for _, o := range all {
		c.publish(ctx, o)
	}
}

// gate is open while a driver has its device.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // closed while the gate is open
}

func (g *gate) opened() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open == nil {
		g.open = make(chan struct{})
	}
	return g.open
}

// set opens or shuts the gate.
func (g *gate) set(open bool) {
	ch := g.opened()
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-ch:
		if !open {
			g.open = nil
		}
	default:
		if open {
			close(g.open)
		}
	}
}

// settings are what commands can set on d.
func (d *device) settings() []codec.Setting {
	if d.writer == nil {
		return nil
	}
	return d.writer.Settings()
}

// Target is where a command goes and where its result comes.
type Target struct {
	Topic   string
	Result  string
	Timeout time.Duration // if the command does not say one
}

// Target returns where name of a device is set. The error is gateway.ErrInvalid if there is no such
// device, or if it has nothing of that name to be set.
func (s *Supervisor) Target(id, name string) (Target, error) {
	d, err := s.device(id)
	if err != nil {
		return Target{}, err
	}
	if d.writer == nil {
		return Target{}, gateway.Errorf(gateway.ErrInvalid, "device %q takes no commands", id)
	}
	if known := d.state.status.Settings; slices.Contains(known, name) {
		return Target{setTopic(s.site, id, name), resultTopic(s.site, id, name), d.common.CommandTimeout}, nil
	}
	return Target{}, gateway.Errorf(gateway.ErrInvalid, "%q of device %q cannot be set%s", name, id, config.Suggest(name, d.state.status.Settings))
}
