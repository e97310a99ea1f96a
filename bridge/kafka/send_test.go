package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/kafka"
	"github.com/weir-iot/weir/gateway"
)

var offset uint64

// event returns an event with a place of its own in the journal. Tests do not run in parallel.
func event(topic, payload string) *gateway.Event {
	offset++
	return &gateway.Event{Topic: topic, Payload: []byte(payload), Accepted: time.Now(), Epoch: "e1", Offset: offset}
}

// settled is what done was told, in order.
type settled struct {
	events []*gateway.Event
	errs   map[*gateway.Event]error
}

// send lets s send all events over one connection, and end it in order.
func send(t testing.TB, s *kafka.Sink, all ...*gateway.Event) (settled, error) {
	t.Helper()
	outcomes, err := bridgetest.Send(t, s, all...).Finish()
	got := settled{errs: map[*gateway.Event]error{}}
	for _, o := range outcomes {
		got.events = append(got.events, o.Event)
		got.errs[o.Event] = o.Err
	}
	return got, err
}

func payloads(arrivals []bridgetest.Arrival) (out []string) {
	for _, a := range arrivals {
		out = append(out, a.Payload)
	}
	return out
}

func numbers(topic string, n int) (all []*gateway.Event) {
	for i := range n {
		all = append(all, event(topic, strconv.Itoa(i)))
	}
	return all
}

// One event that is too large dies alone. All others of its batch arrive, in order and once.
func checkTooLarge(t *testing.T, c *cluster) {
	topic := c.newTopic(t, 1, "max.message.bytes", "20000")
	all := numbers("a", 30)
	all[7].Payload = make([]byte, 30000)
	all[19].Payload = make([]byte, 25000)
	got, err := send(t, newSink(t, c.link.Addr(), topic), all...)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for i, e := range all {
		poison := i == 7 || i == 19
		if err, ok := got.errs[e]; !ok || errors.Is(err, gateway.ErrInvalid) != poison || err == nil == poison {
			t.Errorf("event %d of %d bytes: settled %t with %v", i, len(e.Payload), ok, err)
		}
		if !poison {
			want = append(want, string(e.Payload))
		}
	}
	if got := payloads((&reader{c: c, t: t, topic: topic}).arrivals()); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("arrived %v, want %v", got, want)
	}
}

// A topic that takes less than a round is no poison: the rounds become smaller.
func checkSmallTopic(t *testing.T, c *cluster) {
	topic := c.newTopic(t, 1, "max.message.bytes", "4000")
	all := numbers("a", 400)
	s := newSink(t, c.link.Addr(), topic)
	got, err := send(t, s, all...)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range got.events {
		if e != all[i] || got.errs[e] != nil {
			t.Fatalf("settled number %d: %s, %v", i, e.Payload, got.errs[e])
		}
	}
	if got := payloads((&reader{c: c, t: t, topic: topic}).arrivals()); len(got) != 400 || got[399] != "399" {
		t.Errorf("%d arrived: %v", len(got), got)
	}
}

func TestTooLarge(t *testing.T) {
	c, _ := startFake(t)
	checkTooLarge(t, c)
	checkSmallTopic(t, c)
}

// Where each event has a topic of its own, a topic that does not exist or that the broker will not
// have is that event's trouble; where all have one, the uplink waits.
func checkUnknownTopic(t *testing.T, c *cluster) {
	there := c.newTopic(t, 1)
	began := time.Now()
	good, lost, long, last := event(there, "1"), event("not/there", "2"), event(fmt.Sprintf("%0300d", 1), "3"), event(there, "4")
	got, err := send(t, newSink(t, c.link.Addr(), "{topic}"), good, lost, long, last)
	if err != nil {
		t.Fatal(err)
	}
	if got.errs[good] != nil || got.errs[last] != nil || !errors.Is(got.errs[lost], gateway.ErrInvalid) || !errors.Is(got.errs[long], gateway.ErrInvalid) || len(got.events) != 4 {
		t.Errorf("settled: %v", got.errs)
	}
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("gave the topic up after %v; a broker may take longer to create one", took)
	}
	got, err = send(t, newSink(t, c.link.Addr(), "missing"), numbers("a", 3)...)
	if len(got.events) != 0 || !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("a missing topic: settled %v, ended with %v", got.errs, err)
	}
}

func TestUnknownTopic(t *testing.T) {
	c, _ := startFake(t)
	checkUnknownTopic(t, c)
}

// An error that the broker keeps answering is the uplink's state, with its reason, and nothing
// behind the event is acknowledged.
func TestRetried(t *testing.T) {
	quick := func(c *kafka.Config) { c.AckTimeout = 4 * time.Second }
	for _, kind := range []*kerr.Error{kerr.NotEnoughReplicas, kerr.NotLeaderForPartition, kerr.UnknownServerError, kerr.CorruptMessage, kerr.PolicyViolation} {
		t.Run(kind.Message, func(t *testing.T) {
			c, fake := startFake(t)
			topic := c.newTopic(t, 1)
			fault := fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kind, Count: -1})
			s := newSink(t, c.link.Addr(), topic, quick)
			all := numbers("a", 5)
			got, err := send(t, s, all...)
			if len(got.events) != 0 || !errors.Is(err, kind) {
				t.Errorf("settled %v, ended with %v", got.errs, err)
			}
			fault.Remove()
			got, err = send(t, s, all...)
			if err != nil || len(got.events) != 5 {
				t.Errorf("afterwards: settled %v, ended with %v", got.errs, err)
			}
			if got := payloads((&reader{c: c, t: t, topic: topic}).arrivals()); fmt.Sprint(got) != "[0 1 2 3 4]" {
				t.Errorf("arrived %v", got)
			}
		})
	}
}

// A broker that cannot say whether it wrote a batch is asked again, by the same producer, and
// writes it once.
func TestUnsure(t *testing.T) {
	for _, kind := range []*kerr.Error{kerr.NotEnoughReplicasAfterAppend, kerr.RequestTimedOut} {
		c, fake := startFake(t)
		topic := c.newTopic(t, 1)
		fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kind, Count: 3})
		got, err := send(t, newSink(t, c.link.Addr(), topic), numbers("a", 5)...)
		if err != nil || len(got.events) != 5 {
			t.Errorf("%v: settled %v, ended with %v", kind, got.errs, err)
		}
		if got := payloads((&reader{c: c, t: t, topic: topic}).arrivals()); fmt.Sprint(got) != "[0 1 2 3 4]" {
			t.Errorf("%v: arrived %v", kind, got)
		}
	}
}

// An answer that is lost with its connection does not lead to a repeat.
func TestLostAnswerOnce(t *testing.T) {
	c, fake := startFake(t)
	topic := c.newTopic(t, 1)
	produced := fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Observe: true, Count: -1})
	events := make(chan *gateway.Event, 1)
	taken, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		ended <- newSink(t, c.link.Addr(), topic).Send(t.Context(), events, func() {}, func(_ *gateway.Event, err error) { taken <- err })
	}()
	events <- event("a", "1")
	if err := <-taken; err != nil {
		t.Fatal(err)
	}
	c.link.LoseAnswers()
	events <- event("a", "2")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := produced.Wait(ctx, 2); err != nil {
		t.Fatal(err)
	}
	c.link.Cut()
	c.link.Heal()
	if err := <-taken; err != nil {
		t.Error(err)
	}
	close(events)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := payloads((&reader{c: c, t: t, topic: topic}).arrivals()); fmt.Sprint(got) != "[1 2]" || produced.Hits() < 3 {
		t.Errorf("arrived %v in %d attempts", got, produced.Hits())
	}
}

// Everything ends soon, whatever the far end does not do.
func TestStill(t *testing.T) {
	for _, when := range []string{"before the connection", "without events", "with an event"} {
		t.Run(when, func(t *testing.T) {
			c, _ := startFake(t)
			topic := c.newTopic(t, 1)
			if when == "before the connection" {
				c.link.Stall()
			}
			events := make(chan *gateway.Event, 1)
			var taken []error
			s := newSink(t, c.link.Addr(), topic, impatient)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			began := time.Now()
			err := s.Send(ctx, events, func() {
				c.link.Stall()
				began = time.Now()
				if when == "with an event" {
					events <- event("a", "1")
				}
			}, func(_ *gateway.Event, err error) { taken = append(taken, err) })
			took := time.Since(began)
			c.link.Heal()
			// Without events it takes AckTimeout until there is a ping, and as long for its answer.
			if err == nil || len(taken) != 0 || took > 3*time.Second {
				t.Errorf("ended after %v with %v; settled %v", took, err, taken)
			}
			t.Log(took, err)
		})
	}
}

// An end of the context is immediate, also while the far end lies still.
func TestCancel(t *testing.T) {
	for _, stalled := range []bool{false, true} {
		c, _ := startFake(t)
		topic := c.newTopic(t, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		events := make(chan *gateway.Event, 1)
		if stalled {
			events <- event("a", "1")
		}
		var began time.Time
		err := newSink(t, c.link.Addr(), topic).Send(ctx, events, func() {
			if stalled {
				c.link.Stall()
			}
			time.AfterFunc(100*time.Millisecond, func() { // in the middle of a round, or of waiting for one
				began = time.Now()
				cancel()
			})
		}, func(*gateway.Event, error) {})
		if took := time.Since(began); !errors.Is(err, context.Canceled) || took > time.Second {
			t.Errorf("stalled %t: %v after %v", stalled, err, took)
		}
		c.link.Heal()
	}
}

// A topic that the broker creates on demand is not given up before it is there.
func TestAutoCreate(t *testing.T) {
	c, _ := startFake(t, kfake.AllowAutoTopicCreation())
	all := []*gateway.Event{event("new/1", "1"), event("new/2", "2"), event("new/1", "3")}
	if got, err := send(t, newSink(t, c.link.Addr(), "{topic}"), all...); err != nil || fmt.Sprint(got.errs[all[0]], got.errs[all[1]], got.errs[all[2]]) != "<nil> <nil> <nil>" {
		t.Fatalf("settled %v, ended with %v", got.errs, err)
	}
	if got := payloads((&reader{c: c, t: t, topic: "new.1"}).arrivals()); fmt.Sprint(got) != "[1 3]" {
		t.Errorf("arrived %v", got)
	}
}

// While partitions move from broker to broker, each event arrives once and in order.
func TestLeadersMove(t *testing.T) {
	fake, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.SeedTopics(5, "moving"))
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	c := &cluster{direct: fake.ListenAddrs()[0]}
	s := newSink(t, c.direct, "moving", func(c *kafka.Config) { c.BatchEvents = 20 })
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				fake.ShufflePartitionLeaders()
			case <-stop:
				return
			}
		}
	}()
	var all []*gateway.Event
	for i := range 1000 {
		all = append(all, event("k"+strconv.Itoa(i%7), strconv.Itoa(i)))
	}
	got, err := send(t, s, all...)
	close(stop)
	<-stopped
	if err != nil || len(got.events) != len(all) {
		t.Fatalf("settled %d, ended with %v", len(got.events), err)
	}
	next := map[string]int{}
	records := (&reader{c: c, t: t, topic: "moving"}).all()
	for _, r := range records {
		n, _ := strconv.Atoi(string(r.Value))
		if want := next[string(r.Key)]; n/7 != want {
			t.Fatalf("%s: %d in place of number %d", r.Key, n, want)
		}
		next[string(r.Key)]++
	}
	if len(records) != len(all) {
		t.Errorf("%d records of %d events", len(records), len(all))
	}
}

// A broker that is not there does not matter while another one is.
func TestAnyBroker(t *testing.T) {
	c, _ := startFake(t)
	topic := c.newTopic(t, 1)
	nobody := freePorts(t, 2)
	s := newSink(t, c.link.Addr(), topic, func(k *kafka.Config) {
		k.Brokers = []string{"127.0.0.1:" + nobody[0], c.link.Addr(), "127.0.0.1:" + nobody[1]}
	})
	for range 6 { // it begins with any of them
		if got, err := send(t, s, event("a", "1")); err != nil || len(got.events) != 1 {
			t.Errorf("settled %v, ended with %v", got.errs, err)
		}
	}
}
