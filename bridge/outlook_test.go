package bridge_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
)

const outlookText = `
uplinks:
  north: {sink: mqtt, url: "mqtt://127.0.0.1:1"}
routes:
  alarms: {topics: ["plant/alarm/#"], uplink: north, on_full: reject, max_size: 10MB}
  news: {topics: ["plant/news/#"], uplink: north, ttl: 1h}
  rest: {topics: ["plant/#"], uplink: north, on_full: drop-oldest, max_size: 100MB}
  idle: {topics: ["idle"], uplink: north}
`

func TestOutlook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, _ := bridgetest.NewLog("e1")
		var ledger *bridge.Ledger
		hub := log.Restart("", func(batch []*gateway.Event) { ledger.Released(batch) })
		b, err := load(t, outlookText, log, hub, bridgetest.NewState())
		if err != nil {
			t.Fatal(err)
		}
		ledger = b.Ledger()
		// 1000 bytes each in the journal; in a second 1 kB of alarms, 1 kB of news, 2 kB of the rest, 1 kB of nobody's.
		add := func(topic string) {
			log.Append(&gateway.Event{Topic: topic, Payload: make([]byte, 1000-56-len(topic))})
		}
		for range 400 { // of which the last 300 s count
			for _, topic := range []string{"plant/alarm/a", "plant/news/a", "plant/a", "plant/b", "elsewhere"} {
				add(topic)
			}
			time.Sleep(time.Second)
		}
		near := func(what string, got, want time.Duration) {
			t.Helper()
			if got < want*9/10 || got > want*11/10 {
				t.Errorf("%s lasts %v, not about %v", what, got, want)
			}
		}
		room := bridge.Room{Journal: 2e6, JournalKeeps: 52e6, Oldest: 1, Next: 2001, Disk: 1e12}
		o, err := b.Outlook("north", room)
		if err != nil || len(o.Routes) != 4 {
			t.Fatal(o, err)
		}
		journal := 10000 * time.Second // 50 MB at 5 kB/s
		near("the journal", o.Journal, journal)
		of := map[string]bridge.RouteOutlook{}
		for _, r := range o.Routes {
			of[r.Route] = r
		}
		near("alarms", of["alarms"].Lasts, journal+10000*time.Second)
		near("rest", of["rest"].Lasts, journal+50000*time.Second)
		if r := of["alarms"]; r.Limit != "max_size" || !strings.HasPrefix(r.Then, "new events are refused") {
			t.Errorf("%+v", r)
		}
		if r := of["rest"]; r.Limit != "max_size" || r.Then != "the oldest are dropped" {
			t.Errorf("%+v", r)
		}
		if r := of["news"]; r.Limit != "ttl" || r.Lasts != time.Hour {
			t.Errorf("%+v", r)
		}
		if r := of["idle"]; r.Limit != "" || r.Lasts != bridge.Forever || r.Rate != 0 {
			t.Errorf("%+v", r)
		}

		room.Disk = 54e6 // 50 MB for the journal, and 4 MB for all reservoirs, at 4 kB/s
		o, _ = b.Outlook("north", room)
		if r := o.Routes[0]; r.Limit != "disk" {
			t.Errorf("%+v", r)
		} else {
			near("the disk", r.Lasts, journal+1000*time.Second)
		}
		room.Disk = 3e6 // the journal itself does not reach its size: what it has, 2 MB, is all needed
		o, _ = b.Outlook("north", room)
		near("a journal with little disk", o.Journal, 600*time.Second)
		room.Disk, room.MaxAge = 1e12, time.Hour
		if o, _ = b.Outlook("north", room); o.Journal != time.Hour {
			t.Errorf("%+v", o)
		}

		time.Sleep(6 * time.Minute) // nothing comes any more
		o, _ = b.Outlook("north", bridge.Room{JournalKeeps: 1e6, Disk: 1e9})
		if o.Rate != 0 || o.Journal != bridge.Forever || o.Routes[0].Lasts != bridge.Forever {
			t.Errorf("%+v", o)
		}
		if _, err := b.Outlook("south", room); err == nil {
			t.Error("an outlook of no uplink")
		}
	})
}
