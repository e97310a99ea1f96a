package bridge_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
)

func TestStatus(t *testing.T) {
	bubble(t, "queued, oldest and state", func(t *testing.T, r *rig) {
		var states []string
		delivered, retried := 0, 0
		var mu sync.Mutex
		r.opts.Observer = gateway.Observer{
			UplinkState: func(uplink string, up bool, reason string) {
				mu.Lock()
				defer mu.Unlock()
				states = append(states, fmt.Sprintf("%s %t %s", uplink, up, reason))
			},
			Delivered: func(_ string, n int) { mu.Lock(); delivered += n; mu.Unlock() },
			Retried:   func(_ string, n int) { mu.Lock(); retried += n; mu.Unlock() },
		}
		r.run()
		synctest.Wait()
		far := r.far.FarEnd()
		far.LoseAcks()
		began := time.Now()
		r.add(5, "up/a")
		settle(10 * time.Second)
		if s := r.pump.Status(); s.Queued != 5 || !s.Oldest.Equal(began) || !s.Up || !s.Since.Equal(began) {
			t.Errorf("%+v", s)
		}
		settle(15 * time.Second) // the sink's patience is 20 s
		far.Refuse()
		settle(time.Minute)
		if s := r.pump.Status(); s.Queued != 5 || !s.Oldest.Equal(began) || s.Up || s.Reason != "connection refused" || !s.Since.Equal(began.Add(20*time.Second)) && !s.Since.Equal(began.Add(25*time.Second)) {
			t.Errorf("%+v", s)
		}
		far.Heal()
		settle(time.Minute)
		if s := r.pump.Status(); s.Queued != 0 || !s.Oldest.IsZero() || !s.Up || s.Reason != "" || s.Delivered != 5 {
			t.Errorf("%+v", s)
		}
		r.stop()
		mu.Lock()
		defer mu.Unlock()
		if delivered != 5 || retried < 5 {
			t.Errorf("observed %d delivered, %d retried", delivered, retried)
		}
		if first, last := states[0], states[len(states)-1]; first != "far true " || last != "far false stopped" || len(states) != 7 {
			t.Errorf("observed %q", states)
		}
	})
	bubble(t, "counts the queue now and then only", func(t *testing.T, r *rig) {
		counts := 0
		r.opts.Count = func(uint64, uint64, gateway.Matcher) (uint64, error) { counts++; return 7, nil }
		r.new()
		for range 100 {
			r.pump.Status()
			time.Sleep(100 * time.Millisecond)
		}
		if counts != 5 {
			t.Errorf("%d counts in 10 s", counts)
		}
	})
	bubble(t, "memory stays bounded while the far end is away", func(t *testing.T, r *rig) {
		reads := 0
		r.far.FarEnd().Refuse()
		r.new() // stores the cursor
		r.add(20000, "up/a")
		r.pump, r.hub = nil, gateway.NewHub(countingLog{r.log, &reads}, 20001) // a new process
		r.run()
		settle(time.Hour)
		if reads != 1 {
			t.Errorf("%d batches were read ahead", reads)
		}
		r.stop()
	})
	bubble(t, "a journal that cannot be read is shown and tried again", func(t *testing.T, r *rig) {
		r.new()
		r.add(5, "up/a")
		broken := &brokenLog{Log: r.log}
		broken.set(errors.New("input/output error"))
		r.pump, r.hub = nil, gateway.NewHub(broken, 6)
		r.run()
		settle(time.Minute)
		if s := r.pump.Status(); s.Routes[0].ReadError != "input/output error" {
			t.Errorf("%+v", s)
		}
		broken.set(nil)
		settle(2 * time.Minute)
		if s := r.pump.Status(); s.Routes[0].ReadError != "" || s.Delivered != 5 {
			t.Errorf("%+v", s)
		}
		r.stop()
	})
}

type countingLog struct {
	*bridgetest.Log
	reads *int
}

func (l countingLog) Read(from uint64, m gateway.Matcher, max int) (gateway.Batch, error) {
	*l.reads++
	return l.Log.Read(from, m, max)
}

type brokenLog struct {
	*bridgetest.Log
	mu  sync.Mutex
	err error
}

func (l *brokenLog) set(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func (l *brokenLog) Read(from uint64, m gateway.Matcher, max int) (gateway.Batch, error) {
	l.mu.Lock()
	err := l.err
	l.mu.Unlock()
	if err != nil {
		return gateway.Batch{}, err
	}
	return l.Log.Read(from, m, max)
}
