package chaos

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/firmware-sim/fault"
	"github.com/weir-iot/weir/firmware-sim/sim"
	"github.com/weir-iot/weir/firmware-sim/sim/mqttclient"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// good is a history in which nothing is wrong: of ten messages the last is refused, the first came twice.
func good() history {
	h := history{seed: 7, asked: time.Second, ledger: sim.NewLedger(), polls: 1, backlog: 1}
	h.script, _ = fault.Parse("at 0s kill weir 1s\nat 0s flip 1\nat 0s outage 1s")
	for seq := uint64(1); seq <= 10; seq++ {
		h.ledger.Sent("mqtt", "t", seq, 1, false)
		if seq == 10 {
			h.ledger.Answered("t", seq, 0x97)
			continue
		}
		h.ledger.Answered("t", seq, 0)
		h.arrivals = append(h.arrivals, came(seq))
	}
	h.arrivals = append(h.arrivals, came(1))
	h.faults = []happened{{verb: "kill"}, {verb: "flip"}, {verb: "outage"}}
	h.final.Accepted = 9
	h.final.Routes = append(h.final.Routes, struct {
		Delivered uint64            `json:"delivered"`
		Queued    uint64            `json:"queued"`
		Expired   uint64            `json:"expired"`
		Dropped   map[string]uint64 `json:"dropped"`
		Dead      uint64            `json:"dead"`
	}{Delivered: 9, Dropped: map[string]uint64{}})
	return h
}

func came(seq uint64) arrival {
	return arrival{sim.Received{Topic: "t", Seq: seq, ID: fmt.Sprintf("g/e-%d", seq)}, time.Now()}
}

// without is a without its n-th.
func without(a []arrival, n int) []arrival { return append(a[:n:n], a[n+1:]...) }

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(h *history)
		want string // part of what is said; empty: all is well
		n    func(r *Report) int64
	}{
		{"all is well", func(h *history) {}, "", func(r *Report) int64 { return int64(r.Lost) }},
		{"lost", func(h *history) { h.arrivals, h.final.Accepted = without(h.arrivals, 4), 8 }, "lost: t 5, QoS 1, acknowledged", func(r *Report) int64 { return int64(r.Lost) }},
		{"an id for two events", func(h *history) { h.arrivals[4].ID, h.final.Accepted = "g/e-4", 8 }, "id used twice: g/e-4 names t 4 and t 5", func(r *Report) int64 { return int64(r.Doubled) }},
		{"an event that nobody sent", func(h *history) {
			a := came(2)
			a.ID, h.final.Accepted = "g/e-20", 10
			h.arrivals = append(h.arrivals, a)
		}, "doubled: t 2, QoS 1, sent 1 times", func(r *Report) int64 { return int64(r.Doubled) }},
		{"reordered", func(h *history) { h.arrivals[2], h.arrivals[3] = h.arrivals[3], h.arrivals[2] }, "out of order: t 3", func(r *Report) int64 { return int64(r.Reordered) }},
		{"corrupt", func(h *history) { h.wrong = []string{"t 3: the checksum is"} }, "wrong at the far end: t 3: the checksum", func(r *Report) int64 { return int64(r.Corrupt) }},
		{"without an id", func(h *history) { h.arrivals[8].ID = "" }, "without id: t 9", nil},
		{"refused, and yet it came", func(h *history) { h.arrivals, h.final.Accepted = append(h.arrivals, came(10)), 10 }, "refused, but stored: t 10", nil},
		{"the gateway counts one more", func(h *history) { h.final.Accepted = 10 }, "the gateway accepted 10 events, of which 0 are to arrive nowhere, 0 are queued and none were dropped, but 9 arrived", func(r *Report) int64 { return r.Unaccounted }},
		{"its ledger was off for a moment", func(h *history) { h.offBalance = []string{"unaccounted 3"} }, "does not add up: unaccounted 3", func(r *Report) int64 { return r.Unaccounted }},
		{"it ended by itself", func(h *history) { h.crashes = []string{"weir ended by itself: exit status 2"} }, "weir ended by itself: exit status 2", func(r *Report) int64 { return int64(r.Crashes) }},
		{"it did not answer", func(h *history) { h.unanswered = errors.New("client 3: no answer") }, "client 3: no answer", nil},
		{"it never settled", func(h *history) { h.unsettled = errors.New("3 are queued") }, "3 are queued", nil},
		{"it did not stop", func(h *history) { h.stopped = errors.New("exit status 1") }, "exit status 1", nil},
		{"dropped without a fault", func(h *history) {
			h.arrivals = without(h.arrivals, 4)
			h.final.Routes[0].Dropped["thinned"] = 1
		}, "the gateway dropped 1 thinned, which no fault explains", func(r *Report) int64 { return int64(r.Lost) }},

		{"lost to damage, and said so", func(h *history) {
			h.arrivals = without(h.arrivals, 4)
			h.final.Routes[0].Dropped["damaged"] = 1
		}, "", func(r *Report) int64 { return int64(r.Lost) }},
		{"more lost than the gateway says", func(h *history) {
			h.arrivals = without(without(h.arrivals, 4), 4)
			h.final.Routes[0].Dropped["damaged"] = 1
		}, "lost: t 5", func(r *Report) int64 { return r.Unaccounted }},
		{"less lost than it says", func(h *history) {
			h.final.Routes[0].Dropped["damaged"] = 1
		}, "1 damaged were dropped, but 9 arrived", nil},
		{"damage that no fault explains", func(h *history) {
			h.arrivals = without(h.arrivals, 4)
			h.final.Routes[0].Dropped["damaged"] = 1
			h.faults[1].verb = "kill"
			h.script = h.script[:1]
		}, "1 events were damaged, but no bit was turned", nil},

		{"too few", func(h *history) { h.asked = time.Minute }, "9 events were acknowledged, of 300 at least", nil},
		{"never ended", func(h *history) { h.asked, h.faults[0].verb = time.Minute, "pause" }, "the gateway was ended 0 times, of 4 at least", nil},
		{"no acknowledgement was lost", func(h *history) { h.arrivals = h.arrivals[:9] }, "nothing came twice", nil},
		{"the reservoir was not in use", func(h *history) { h.backlog = 0 }, "nothing was seen in the reservoir", nil},
		{"the ledger was not seen", func(h *history) { h.polls = 0 }, "ledger was never seen", nil},
		{"a fault did not happen", func(h *history) { h.faults = h.faults[:2] }, "no outage happened", nil},
	} {
		h := good()
		c.do(&h)
		r := judge(h)
		if r.OK() != (c.want == "") || !strings.Contains(r.String(), c.want) {
			t.Errorf("%s: want %q in\n%s", c.name, c.want, r)
		}
		if c.n != nil && (c.n(r) == 0) != (c.want == "") {
			t.Errorf("%s: %d are counted:\n%s", c.name, c.n(r), r)
		}
	}
}

// What the far end writes down is checked to the last bit.
func TestRecordFindsAWrongByte(t *testing.T) {
	r := newRecord()
	r.take(&mqttclient.Message{Topic: "load/0/0", Payload: []byte(`{"seq":1,"value":0.1,"sum":"00000000"}`)})
	if got, wrong := r.all(); len(got) != 0 || len(wrong) != 1 {
		t.Errorf("%v, %v", got, wrong)
	}
}

func TestRecoveries(t *testing.T) {
	base := time.Now()
	at := func(seconds float64) time.Time { return base.Add(time.Duration(seconds * float64(time.Second))) }
	faults := []happened{
		{"kill", at(1), at(2)},
		{"kill", at(5), at(6)},
		{"flip", at(6.1), at(6.1)}, // disturbs nothing
		{"kill", at(10), at(11)},   // a pause comes between
		{"pause", at(11.2), at(13)},
		{"stall", at(20), at(21)}, // waits for an arrival, not for an acknowledgement
		{"cut", at(30), at(30)},   // nothing came after it
	}
	acks := []time.Time{at(0), at(1.5), at(2.5), at(6.25), at(12), at(13.5), at(21.1)}
	got := recoveries(faults, acks, []time.Time{at(3), at(24)})
	want := map[string]Recovery{"kill": {2, 0.5, 0.5}, "pause": {1, 0.5, 0.5}, "stall": {1, 3, 3}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}
