package kafka_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-iot/weir/gateway"
)

// recipe begins

// repeats tells records that came before. Weir repeats what it sent last, at most some
// hundred events per gateway, so the ids of the last ones are enough to remember.
type repeats struct {
	seen map[string]bool
	last []string // the same ids, as a ring
	next int
}

func newRepeats(remember int) *repeats {
	return &repeats{seen: map[string]bool{}, last: make([]string, remember)}
}

func (r *repeats) isRepeat(rec *kgo.Record) bool {
	for _, h := range rec.Headers {
		if h.Key != "weir-id" {
			continue
		}
		id := string(h.Value)
		if r.seen[id] {
			return true
		}
		delete(r.seen, r.last[r.next])
		r.seen[id], r.last[r.next] = true, id
		r.next = (r.next + 1) % len(r.last)
	}
	return false
}

// consume calls handle once for each event, in order per key.
func consume(ctx context.Context, client *kgo.Client, r *repeats, handle func(*kgo.Record)) error {
	for {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			if !r.isRepeat(rec) {
				handle(rec)
			}
		})
	}
}

// recipe ends

// checkRecipe makes repeats in the way they come about, and consumes without them.
func checkRecipe(t *testing.T, c *cluster) {
	topic := c.newTopic(t, 3)
	s := newSink(t, c.link.Addr(), topic, impatient)
	all := numbers("a", 20)
	all = append(all, numbers("b", 20)...)
	if got, err := send(t, s, all[:5]...); err != nil || len(got.events) != 5 {
		t.Fatalf("settled %v, ended with %v", got.errs, err)
	}
	// Nobody hears that the next ones were taken: so another producer sends them again.
	events := make(chan *gateway.Event, len(all))
	first := make(chan struct{})
	err := s.Send(t.Context(), events, func() {
		events <- all[5]
		go func() { // the way to the partition is open now
			<-first
			c.link.LoseAnswers()
			for _, e := range all[6:] {
				events <- e
			}
		}()
	}, func(e *gateway.Event, err error) {
		if e == all[5] {
			close(first)
		} else {
			t.Errorf("settled %s without an answer", e.Payload)
		}
	})
	c.link.Heal()
	if err == nil {
		t.Fatal("Send did not notice")
	}
	rest := append(all[6:], event("a", "end"), event("b", "end"))
	if got, err := send(t, s, rest...); err != nil || len(got.events) != len(rest) {
		t.Fatalf("settled %v, ended with %v", got.errs, err)
	}
	stored := (&reader{c: c, t: t, topic: topic}).all()
	if len(stored) <= len(all)+2 {
		t.Fatalf("%d records of %d events: no repeat to drop", len(stored), len(all)+2)
	}

	client := c.client(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer client.Close()
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	byKey, ends := map[string][]string{}, 0
	err = consume(ctx, client, newRepeats(1000), func(rec *kgo.Record) {
		byKey[string(rec.Key)] = append(byKey[string(rec.Key)], string(rec.Value))
		if string(rec.Value) == "end" {
			if ends++; ends == 2 { // both keys, so all that repeats have to say is said
				stop()
			}
		}
	})
	if ends != 2 {
		t.Fatalf("consumed %v: %v", byKey, err)
	}
	want := fmt.Sprint(append(payloadsOf(all[:20]), "end"))
	for key, got := range byKey {
		if fmt.Sprint(got) != want {
			t.Errorf("%s: consumed %v", key, got)
		}
	}
	t.Logf("%d records of %d events", len(stored), len(all)+2)
}

func payloadsOf(events []*gateway.Event) (out []string) {
	for _, e := range events {
		out = append(out, string(e.Payload))
	}
	return out
}

func TestRecipe(t *testing.T) {
	c, _ := startFake(t)
	checkRecipe(t, c)
}

// The page shows what is tested.
func TestRecipeOnPage(t *testing.T) {
	code, err := os.ReadFile("recipe_test.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/uplinks/kafka.md")
	if err != nil {
		t.Fatal(err)
	}
	_, recipe, _ := strings.Cut(string(code), "// recipe begins\n")
	recipe, _, found := strings.Cut(recipe, "// recipe ends")
	if !found || !strings.Contains(string(page), strings.TrimSpace(recipe)) {
		t.Error("docs/uplinks/kafka.md does not show the recipe as it is here")
	}
}
