package bridgetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/gateway"
)

func playAll(w *world) error {
	if err := w.start(); err != nil {
		return err
	}
	w.add(300)
	if err := w.until("the far end has 300", w.arrived(300)); err != nil {
		return err
	}
	// A restart in the middle of a quiet time repeats nothing.
	if err := w.until("all is committed", w.allCommitted); err != nil {
		return err
	}
	if err := w.stop(); err != nil {
		return err
	}
	w.add(50)
	w.hub = w.log.Restart("e2")
	w.add(50)
	if err := w.start(); err != nil {
		return err
	}
	if err := w.finish(); err != nil {
		return err
	}
	// A busy machine may have made the sink lose patience; then repeats are right.
	if n := len(w.far.Arrivals()); n != 400 && w.sink.connections() == 2 {
		return fmt.Errorf("%d arrivals of 400 events over two connections without a fault", n)
	}
	return nil
}

// playContract calls the sink without a pump.
func playContract(w *world) error {
	if err := w.start(); err != nil { // only to have a cursor; everything below is sent by hand
		return err
	}
	if err := w.stop(); err != nil {
		return err
	}
	w.add(20)
	events := make(chan *gateway.Event, 20)
	ready := make(chan struct{})
	var mu sync.Mutex
	answered := map[*gateway.Event]bool{}
	up := func() { close(ready) }
	done := func(e *gateway.Event, err error) {
		mu.Lock()
		defer mu.Unlock()
		answered[e] = err == nil
	}
	for _, e := range w.sent {
		events <- e
	}
	close(events)
	if err := w.within("end after its events were closed", func() error { return w.sink.Send(context.Background(), events, up, done) }); err != nil {
		return err
	}
	for _, e := range w.sent {
		if !answered[e] {
			return fmt.Errorf("Send returned nil before %s was accepted", e.ID(GatewayID))
		}
	}
	// A connection on which nothing is sent ends with its context.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ready = make(chan struct{})
	go func() {
		<-ready
		cancel()
	}()
	err := w.within("end with its context", func() error { return w.sink.Send(ctx, make(chan *gateway.Event), up, done) })
	if !errors.Is(err, context.Canceled) {
		return fmt.Errorf("Send returned %v, not the end of its context", err)
	}
	return w.start()
}

// within runs fn and fails if it takes too long.
func (w *world) within(what string, fn func() error) error {
	end := make(chan error, 1)
	go func() { end <- fn() }()
	select {
	case err := <-end:
		return err
	case <-time.After(w.patience()):
		return fmt.Errorf("Send did not %s", what)
	}
}

func playLostAcks(w *world) error {
	if err := w.start(); err != nil {
		return err
	}
	w.add(10)
	if err := w.until("the first ones are committed", w.allCommitted); err != nil {
		return err
	}
	first := w.last().Offset
	w.far.LoseAcks()
	w.add(10)
	if err := w.until("the far end has 20", w.arrived(20)); err != nil {
		return err
	}
	if at := w.committed(); at.Offset > first+1 { // + 1: an event that is not routed
		return fmt.Errorf("committed %s, though the acknowledgements behind %d are lost", at, first)
	}
	w.far.Cut()
	w.far.Heal()
	if err := w.finish(); err != nil {
		return err
	}
	if n := len(w.far.Arrivals()); n < 30 && !w.far.Once {
		return fmt.Errorf("%d arrivals; 10 of 20 events had no acknowledgement and must come again", n)
	}
	return nil
}

func playCuts(w *world) error {
	return w.repeatedly(100, func() error { w.far.Cut(); return nil })
}

func playCrashes(w *world) error { return w.repeatedly(60, w.crashed) }

// repeatedly does harm five times, each when some of n more events have arrived.
func (w *world) repeatedly(n int, harm func() error) error {
	if err := w.start(); err != nil {
		return err
	}
	for i := range 5 {
		w.add(n)
		if err := w.until("some have arrived", w.arrived(i*n+n/5)); err != nil {
			return err
		}
		if err := harm(); err != nil {
			return err
		}
	}
	return nil
}

// stalled starts, and has 50 events before a link that worked and now lies still.
func (w *world) stalled() error {
	if err := w.start(); err != nil {
		return err
	}
	w.add(20)
	if err := w.until("the link is in use", w.arrived(20)); err != nil {
		return err
	}
	w.far.Stall()
	w.add(50)
	return nil
}

func playStall(w *world) error {
	if err := w.stalled(); err != nil {
		return err
	}
	var seen bridge.Status // one look: the next attempt may be up by now
	if err := w.until("the sink has noticed", func() bool { seen = w.pump.Status(); return !seen.Up }); err != nil {
		return err
	}
	if seen.Reason == "" {
		return errors.New("an uplink is down without a reason")
	}
	w.far.Heal()
	if err := w.until("it is up again", func() bool { return w.pump.Status().Up }); err != nil {
		return err
	}
	if d := w.pump.Status().Dead; d != 0 {
		return fmt.Errorf("%d events are dead because a link lay still", d)
	}
	return nil
}

func playRefuse(w *world) error {
	w.far.Refuse()
	if err := w.start(); err != nil {
		return err
	}
	w.add(50)
	// It shows why after the first attempt.
	if err := w.until("it says why it is down", func() bool {
		s := w.pump.Status()
		return !s.Up && s.Reason != "" && s.Reason != "not started"
	}); err != nil {
		return err
	}
	if n := len(w.far.Arrivals()); n != 0 {
		return fmt.Errorf("%d events got through a refused connection", n)
	}
	w.far.Heal()
	return nil
}

func playStopStalled(w *world) error {
	if err := w.stalled(); err != nil {
		return err
	}
	if err := w.stop(); err != nil {
		return err
	}
	w.far.Heal()
	return w.restart()
}

// crashed ends the pump so that nothing it does from then on is stored, looks at what the far end
// has before a next pump mends it, and starts that.
func (w *world) crashed() error {
	w.state.Break()
	w.stop() // its last commit fails, as it should
	w.state.Mend()
	if err := w.untilHas(w.committed()); err != nil {
		return err
	}
	return w.restart()
}

func playFaults(w *world, seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 0))
	if err := w.start(); err != nil {
		return err
	}
	faults := []func() error{
		func() error { w.far.Cut(); return nil },
		func() error { return w.crashed() },
		func() error { return w.stop() },
	}
	if w.far.LoseAcks != nil {
		faults = append(faults, func() error {
			w.far.LoseAcks()
			w.add(r.IntN(30))
			w.far.Cut()
			w.far.Heal()
			return nil
		})
	}
	if w.far.Stall != nil {
		faults = append(faults, func() error {
			w.far.Stall()
			w.add(r.IntN(30) + 1)
			err := w.until("the sink has noticed", func() bool { return !w.pump.Status().Up })
			w.far.Heal()
			return err
		})
	}
	if w.far.Refuse != nil {
		faults = append(faults, func() error {
			w.far.Refuse()
			w.add(r.IntN(30))
			w.far.Heal()
			return nil
		})
	}
	total := 0
	for range 20 {
		n := r.IntN(50) + 1
		w.add(n)
		total = len(w.sent)
		if r.IntN(2) == 0 { // sometimes in full flight, sometimes after a while
			if err := w.until("some have arrived", w.arrived(total-n)); err != nil {
				return err
			}
		}
		if err := faults[r.IntN(len(faults))](); err != nil {
			return fmt.Errorf("seed %d: %w", seed, err)
		}
		if w.pump == nil {
			if err := w.restart(); err != nil {
				return err
			}
		}
	}
	return nil
}

// checked watches that a sink keeps to the contract of bridge.Sink.
type checked struct {
	sink bridge.Sink
	contract
	sends int
}

func (c *checked) connections() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sends
}

// contract is what one who watches a call of Send or Receive has seen.
type contract struct {
	mu     sync.Mutex
	active bool    // it runs
	wrong  []error // the first of them
}

// fail notes what may not be; mu is held.
func (c *contract) fail(format string, args ...any) {
	if len(c.wrong) < 5 {
		c.wrong = append(c.wrong, fmt.Errorf(format, args...))
	}
}

func (c *contract) violations() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(c.wrong...)
}

// Send is bridge.Sink.
func (c *checked) Send(ctx context.Context, events <-chan *gateway.Event, up func(), done func(*gateway.Event, error)) error {
	c.mu.Lock()
	if c.active {
		c.fail("Send is called while it runs")
	}
	c.active = true
	c.sends++
	c.mu.Unlock()

	ups, returned := 0, false
	handed, settled := map[*gateway.Event]bool{}, map[*gateway.Event]bool{}
	in := make(chan *gateway.Event)
	stop := make(chan struct{})
	var tap sync.WaitGroup
	tap.Go(func() {
		defer close(in)
		for {
			select {
			case e, ok := <-events:
				if !ok {
					return
				}
				c.mu.Lock()
				handed[e] = true
				c.mu.Unlock()
				select {
				case in <- e:
				case <-stop:
					return
				}
			case <-stop:
				return
			}
		}
	})
	err := c.sink.Send(ctx, in, func() {
		c.mu.Lock()
		if ups++; ups > 1 || returned {
			c.fail("up is called %d times, after the return: %t", ups, returned)
		}
		c.mu.Unlock()
		up()
	}, func(e *gateway.Event, err error) {
		c.mu.Lock()
		switch {
		case returned:
			c.fail("done is called after Send has returned")
		case !handed[e]:
			c.fail("done is called for an event that was not handed over")
		case settled[e]:
			c.fail("done is called twice for %s", e.ID(GatewayID))
		}
		settled[e] = true
		c.mu.Unlock()
		done(e, err)
	})
	close(stop)
	tap.Wait()
	c.mu.Lock()
	returned, c.active = true, false
	if err == nil && ctx.Err() == nil && len(settled) < len(handed) {
		c.fail("Send returned nil with %d of %d events settled", len(settled), len(handed))
	}
	c.mu.Unlock()
	return err
}
