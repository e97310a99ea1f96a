package bridge_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/gateway"
)

// shelf is a backlog that a test fills. It has everything below mark.
type shelf struct {
	mark    uint64
	events  []*gateway.Event
	dropped map[string]uint64
}

func (s *shelf) Read(_ string, from uint64) (gateway.Batch, error) {
	b := gateway.Batch{Next: s.mark}
	for _, e := range s.events {
		if e.Offset >= from {
			b.Events = append(b.Events, e)
		}
	}
	return b, nil
}
func (s *shelf) Mark(string) uint64           { return s.mark }
func (s *shelf) Release(string, uint64) error { return nil }
func (s *shelf) Count(string) (bridge.BacklogCount, error) {
	return bridge.BacklogCount{Mark: s.mark, Events: uint64(len(s.events)), Dropped: s.dropped}, nil
}

func TestTrace(t *testing.T) {
	// fate checks what a trace says of the only route.
	fate := func(o *office, offset uint64, want, detail, doubt string) {
		o.t.Helper()
		synctest.Wait()
		x, err := o.bridge.Trace(gateway.Position{Epoch: "e1", Offset: offset})
		if err != nil || len(x.Routes) != 1 {
			o.t.Errorf("%d: %+v, %v", offset, x, err)
			return
		}
		r := x.Routes[0]
		if r.Uplink != "far" || r.Route != "all" || r.Fate != want || !strings.Contains(r.Detail, detail) || !strings.Contains(r.Doubt, doubt) || doubt == "" && r.Doubt != "" {
			o.t.Errorf("%d: %+v, not %s", offset, r, want)
		}
	}
	inOffice(t, "along the way", func(t *testing.T, o *office) {
		o.add(2, "up/a") // before there was a route
		o.open()
		o.add(2, "up/a") // 3 is refused
		settle(5 * time.Second)
		fate(o, 2, bridge.FateBefore, "offset 3", "")
		fate(o, 3, bridge.FateDead, "no odd ones", "")
		fate(o, 4, bridge.FateAcknowledged, "cursor, e1:4", "")
		o.refuses.Store(false)
		far := o.far.FarEnd()
		far.LoseAcks()
		o.add(20, "up/a") // 5 to 24; the sink takes 16
		settle(time.Second)
		fate(o, 5, bridge.FateInFlight, "", "")
		far.Refuse()
		o.far.Cut()
		settle(time.Second)
		fate(o, 24, bridge.FateQueued, "", "")
		o.log.Hold()
		o.add(1, "up/a")
		settle(time.Second)
		fate(o, 25, bridge.FateQueued, "not on stable storage yet", "")
		o.log.Sync()
		e := &gateway.Event{Topic: "up/a", Expiry: time.Minute}
		o.log.Append(e)
		settle(2 * time.Minute)
		fate(o, 26, bridge.FateExpired, "will be passed over", "")
		o.add(2000, "up/a")
		settle(time.Second)
		fate(o, 2000, bridge.FateQueued, "in the journal", "")
		far.Heal()
		settle(time.Minute)
		fate(o, 26, bridge.FateAcknowledged, "cursor", "1 have expired")
		fate(o, 2000, bridge.FateAcknowledged, "cursor", "")
		o.stop()
		o.open()
		fate(o, 2000, bridge.FateAcknowledged, "by range", "")
		fate(o, 3, bridge.FateDead, "no odd ones", "")
		if n, err := o.bridge.DropDead(bridge.Letters{Uplink: "far"}); n != 1 || err != nil {
			t.Error(n, err)
		}
		fate(o, 3, bridge.FateAcknowledged, "by range", "1 dead letters were dropped by hand")
	})
	inOffice(t, "acknowledged behind one that is not", func(t *testing.T, o *office) {
		o.refuses.Store(false)
		far := lanesRig(o.rig, 2)
		far[0].FarEnd().Refuse()
		o.open()
		for _, topic := range []string{"up/0", "up/1", "up/2", "up/3", "up/4", "up/5"} {
			o.add(1, topic)
		}
		settle(5 * time.Second)
		seen := ""
		for offset := uint64(1); offset <= 6; offset++ {
			x, err := o.bridge.Trace(gateway.Position{Epoch: "e1", Offset: offset})
			if err != nil {
				t.Fatal(err)
			}
			seen += x.Routes[0].Fate + ": " + x.Routes[0].Detail + "\n"
		}
		if !strings.Contains(seen, "acknowledged: by the far end; the cursor waits") || !strings.Contains(seen, "queued: read ahead") {
			t.Error(seen)
		}
	})
	inOffice(t, "in the reservoir, or dropped from it", func(t *testing.T, o *office) {
		s := &shelf{mark: 1}
		o.opts.Backlog = s
		o.far.FarEnd().Refuse()
		o.refuses.Store(false)
		o.open()
		o.add(6000, "up/a") // more than the hub has in memory
		settle(time.Second)
		read, err := o.log.Read(1, gateway.MustFilter("#"), 6000)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range read.Events {
			if e.Offset < 5000 && e.Offset%2 == 0 {
				s.events = append(s.events, e)
			}
		}
		s.mark, s.dropped = 5000, map[string]uint64{"thinned": 994, "drop-oldest": 0}
		o.log.Trim(5000)
		fate(o, 100, bridge.FateQueued, "read ahead", "")
		fate(o, 1500, bridge.FateQueued, "in the reservoir", "")
		fate(o, 5600, bridge.FateQueued, "in the journal", "")
		x, err := o.bridge.Trace(gateway.Position{Epoch: "e1", Offset: 1500})
		if err != nil || x.Place != "in the reservoir of far/all" || x.Event == nil || !x.Synced {
			t.Errorf("%+v, %v", x, err)
		}
		x, err = o.bridge.Trace(gateway.Position{Epoch: "e1", Offset: 1501})
		if err != nil || x.Event != nil || x.Place != "no longer in the journal" || x.Routes[0].Fate != bridge.FateUnknown {
			t.Errorf("%+v, %v", x, err)
		}
		o.log.Trim(1) // as if another holder's segment were still there
		fate(o, 1501, bridge.FateDropped, "thinned", "")
	})
	inOffice(t, "of no route, and what is no event", func(t *testing.T, o *office) {
		o.open()
		o.add(1, "elsewhere")
		o.add(3, "up/b")
		settle(5 * time.Second)
		if x, err := o.bridge.Trace(gateway.Position{Epoch: "e1", Offset: 1}); err != nil || len(x.Routes) != 0 || x.Event.Topic != "elsewhere" {
			t.Errorf("%+v, %v", x, err)
		}
		for _, at := range []gateway.Position{{}, {Epoch: "e1"}, {Epoch: "e1", Offset: 5}, {Epoch: "e1", Offset: 77}} {
			if x, err := o.bridge.Trace(at); !errors.Is(err, gateway.ErrInvalid) {
				t.Errorf("%v: %+v, %v", at, x, err)
			}
		}
		o.log.Trim(4)
		o.stop()
		o.open() // nothing is in memory now
		x, err := o.bridge.Trace(gateway.Position{Epoch: "e1", Offset: 1})
		if err != nil || x.Event != nil || x.Place != "no longer in the journal" || x.Routes[0].Fate != bridge.FateUnknown || !strings.Contains(x.Routes[0].Detail, "done with") {
			t.Errorf("%+v, %v", x, err)
		}
		x, err = o.bridge.Trace(gateway.Position{Epoch: "e1", Offset: 3}) // the journal has let go of it
		if err != nil || x.Place != "among the dead letters of far/all" || x.Event == nil {
			t.Errorf("%+v, %v", x, err)
		}
	})
}
