package kafka_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-iot/weir/bridge/kafka"
	"github.com/weir-iot/weir/gateway"
)

func newReader(t *testing.T, addr, topic string, change ...func(*kafka.Config)) *kafka.Reader {
	t.Helper()
	c := kafka.Config{Brokers: []string{addr}, AckTimeout: 10 * time.Second}
	for _, f := range change {
		f(&c)
	}
	r, err := kafka.NewReader(c, topic)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReader(t *testing.T) {
	c, _ := startFake(t)
	checkReader(t, c)
}

// A Reader sees what a topic has, from its beginning, also where partitions have nothing; and what comes while
// it reads, over a lost connection.
func checkReader(t *testing.T, c *cluster) {
	topic := c.newTopic(t, 5)
	s := newSink(t, c.link.Addr(), topic)
	n := uint64(0)
	var want []string
	events := func(count int) (all []*gateway.Event) {
		for range count {
			n++
			e := &gateway.Event{Topic: fmt.Sprintf("plant1/%d", n%3), Payload: fmt.Append(nil, n), Epoch: "e1", Offset: n, Accepted: time.Now()}
			all = append(all, e)
			want = append(want, fmt.Sprintf("%s %s %s", e.ID("test-gw"), e.Topic, e.Payload))
		}
		return all
	}
	if got, err := send(t, s, events(40)...); err != nil || len(got.events) != 40 {
		t.Fatalf("settled %v, ended with %v", got.errs, err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var got []string
	places := map[string]string{} // by topic
	there := 0
	err := newReader(t, c.link.Addr(), topic).Read(ctx, func() {
		there = len(got)
		c.link.Cut()
		if more, err := send(t, s, events(20)...); err != nil || len(more.events) != 20 {
			t.Errorf("settled %v, ended with %v", more.errs, err)
		}
	}, func(within, topic, id string, payload []byte) {
		if was := places[topic]; was != "" && was != within {
			t.Errorf("%s is in %q and in %q", topic, was, within)
		}
		places[topic] = within
		if got = append(got, fmt.Sprintf("%s %s %s", id, topic, payload)); len(got) == 60 {
			stop()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	of := func(topic string, all []string) (some []string) {
		for _, line := range all {
			if strings.Contains(line, " "+topic+" ") {
				some = append(some, line)
			}
		}
		return some
	}
	for topic := range places {
		if got, want := of(topic, got), of(topic, want); !slices.Equal(got, want) {
			t.Errorf("read %q\nof   %q", got, want)
		}
	}
	if there != 40 || len(got) != 60 || len(places) != 3 {
		t.Errorf("read %d and then %d on %d topics", there, len(got)-there, len(places))
	}
}

// What somebody else has put there has no id, and goes by the name of the Kafka topic.
func TestReaderOfOthers(t *testing.T) {
	c, _ := startFake(t)
	topic := c.newTopic(t, 1)
	cl := c.client(t)
	defer cl.Close()
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte("v")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var got []string
	err := newReader(t, c.link.Addr(), topic).Read(ctx, stop, func(within, topic, id string, payload []byte) {
		got = append(got, within, topic, id, string(payload))
	})
	if want := []string{"0 k", topic, "", "v"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, not %q, %v", got, want, err)
	}
}

func TestReaderIsRefused(t *testing.T) {
	c, _ := startFake(t)
	empty := c.newTopic(t, 3)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	if err := newReader(t, c.link.Addr(), empty).Read(ctx, stop, nil); err != nil {
		t.Errorf("a topic without records: %v", err)
	}
	never := func() { t.Error("it is ready") }
	if err := newReader(t, c.link.Addr(), "nowhere").Read(t.Context(), never, nil); err == nil || !strings.Contains(err.Error(), "UNKNOWN_TOPIC_OR_PARTITION") {
		t.Errorf("a topic that is not there: %v", err)
	}
	c.link.Refuse()
	if err := newReader(t, c.link.Addr(), empty, impatient).Read(t.Context(), never, nil); err == nil {
		t.Error("a cluster that is not there is no error")
	}
	c.link.Heal()
	err := newReader(t, c.link.Addr(), empty, impatient).Read(t.Context(), c.link.Stall, nil)
	if err == nil || err.Error() != "no answer to a ping within 700ms" {
		t.Errorf("a silent cluster: %v", err)
	}
	for _, topic := range []string{"", "a/b", "a.{topic}"} {
		if _, err := kafka.NewReader(kafka.Config{Brokers: []string{"127.0.0.1"}}, topic); err == nil {
			t.Errorf("topic %q is taken", topic)
		}
	}
}
