package nats_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
)

// twice stores an event, loses its PubAck, and sends it again when meanwhile has returned.
func twice(t *testing.T, window time.Duration, meanwhile func(jetstream.JetStream)) (jetstream.JetStream, jetstream.Stream) {
	t.Helper()
	s := start(t)
	nc := connect(t, s.ClientURL())
	stream := newStream(t, nc, func(c *jetstream.StreamConfig) { c.Duplicates = window })
	p := bridgetest.NewProxy(t, address(s))
	sink := newSink(t, p.Addr(), impatient)
	send := func(up func()) (accepted bool, err error) {
		in := make(chan *gateway.Event, 1)
		err = sink.Send(t.Context(), in, func() {
			up()
			in <- event("up/a", 1)
			close(in)
		}, func(_ *gateway.Event, err error) { accepted = err == nil })
		return accepted, err
	}
	if accepted, err := send(p.LoseAnswers); accepted || err == nil || !contains(err.Error(), "no acknowledgement") {
		t.Fatalf("accepted %t, %v, though the acknowledgement is lost", accepted, err)
	}
	if n := len(stored(t, stream)); n != 1 {
		t.Fatalf("%d stored after the first send", n)
	}
	p.Heal()
	meanwhile(js(t, nc))
	if accepted, err := send(func() {}); !accepted || err != nil {
		t.Fatalf("accepted %t, %v", accepted, err)
	}
	return js(t, nc), stream
}

// Within the duplicate window the stream drops the repeat, and its answer counts as accepted.
func TestRepeatWithinTheWindow(t *testing.T) {
	_, stream := twice(t, time.Minute, func(jetstream.JetStream) {})
	if n := len(stored(t, stream)); n != 1 {
		t.Errorf("%d stored", n)
	}
}

// Beyond the window the stream has the event twice, and the recipe of the docs handles it once.
func TestRepeatBeyondTheWindow(t *testing.T) {
	j, stream := twice(t, 100*time.Millisecond, func(j jetstream.JetStream) {
		// A message stored now is forgotten after the event's id is.
		probe := &client.Msg{Subject: "up.probe", Header: client.Header{client.MsgIdHdr: {"probe"}}, Data: []byte("0")}
		stored := 0
		bridgetest.Until(t, "the window has passed", func() bool {
			ack, err := j.PublishMsg(t.Context(), probe)
			if err != nil {
				t.Fatal(err)
			}
			if !ack.Duplicate {
				stored++
			}
			return stored == 2
		})
	})
	ours := 0
	for _, a := range stored(t, stream) {
		if a.Topic == "up/a" {
			ours++
		}
	}
	if ours != 2 {
		t.Fatalf("the stream has the event %d times, and the test needs 2", ours)
	}
	consumer, err := j.CreateConsumer(t.Context(), "UP", jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.Publish(t.Context(), "up.end", []byte("end")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	handled := 0
	err = consume(ctx, consumer, newRepeats(1000), func(m jetstream.Msg) error {
		if m.Headers().Get("weir-topic") == "up/a" {
			handled++
		}
		if string(m.Data()) == "end" {
			cancel()
		}
		return nil
	})
	if handled != 1 || !contains(err.Error(), "cancel") {
		t.Errorf("handled %d times, %v", handled, err)
	}
}

// recipe begins

// repeats tells messages that came before. Weir repeats what it sent last, at most as many events
// per gateway as its window, so the ids of the last ones are enough to remember.
type repeats struct {
	seen map[string]bool
	last []string // the same ids, as a ring
	next int
}

func newRepeats(remember int) *repeats {
	return &repeats{seen: map[string]bool{}, last: make([]string, remember)}
}

func (r *repeats) isRepeat(id string) bool { return id != "" && r.seen[id] }

func (r *repeats) remember(id string) {
	delete(r.seen, r.last[r.next])
	r.seen[id], r.last[r.next] = true, id
	r.next = (r.next + 1) % len(r.last)
}

// consume calls handle once for each event, in the order of the stream if the consumer has
// MaxAckPending 1.
func consume(ctx context.Context, c jetstream.Consumer, r *repeats, handle func(jetstream.Msg) error) error {
	messages, err := c.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		id := m.Headers().Get(jetstream.MsgIDHeader)
		if !r.isRepeat(id) {
			if err := handle(m); err != nil {
				return err // it is not acknowledged, and comes again
			}
			r.remember(id)
		}
		if err := m.Ack(); err != nil {
			return err
		}
	}
}

// recipe ends

// The page shows what runs here.
func TestRecipeIsInTheDocs(t *testing.T) {
	text, err := os.ReadFile("repeats_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, recipe, _ := strings.Cut(string(text), "\n// recipe begins\n\n")
	recipe, _, _ = strings.Cut(recipe, "\n// recipe ends\n")
	doc, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if recipe == "" || !strings.Contains(string(doc), "```go\n"+recipe+"```") {
		t.Errorf("%s does not show the recipe as it is tested", page)
	}
}
