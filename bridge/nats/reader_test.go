package nats_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weir-iot/weir/bridge/nats"
)

// A Reader sees what a stream has, from its beginning, over what was deleted, and what comes while it reads.
func TestReader(t *testing.T) {
	s := start(t)
	stream := newStream(t, connect(t, s.ClientURL()))
	u := startUplink(t, newSink(t, address(s)))
	u.add(20)
	u.delivered(t, 20)
	if err := stream.DeleteMsg(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	r, err := nats.NewReader(nats.Config{URLs: []string{"nats://" + address(s)}}, "UP")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var got []string
	var there int
	err = r.Read(ctx, func() {
		there = len(got)
		u.add(5)
	}, func(topic, id string, payload []byte) {
		if got = append(got, fmt.Sprintf("%s %s %s", id, topic, payload)); len(got) == 24 {
			stop()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, a := range stored(t, stream, 7) {
		want = append(want, fmt.Sprintf("%s %s %s", a.ID, a.Topic, a.Payload))
	}
	if there != 19 || !slices.Equal(got, want) {
		t.Errorf("read %d and then %q\nthe stream has %q", there, got, want)
	}
}

func TestReaderIsRefused(t *testing.T) {
	s := start(t)
	newStream(t, connect(t, s.ClientURL()), func(c *jetstream.StreamConfig) { c.Name = "OTHER" })
	for stream, says := range map[string]string{"UP": "stream not found"} {
		r, err := nats.NewReader(nats.Config{URLs: []string{"nats://" + address(s)}}, stream)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Read(t.Context(), func() { t.Error("it is ready") }, nil); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("stream %s: %v", stream, err)
		}
	}
	for _, stream := range []string{"", "a b", "a.>"} {
		if _, err := nats.NewReader(nats.Config{URLs: []string{"nats://127.0.0.1"}}, stream); err == nil {
			t.Errorf("stream %q is taken", stream)
		}
	}
}
