package mqttsn_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/devices/mqttsn"
	"github.com/weir-iot/weir/firmware-sim/sim/snclient"
)

var histories = flag.Int("histories", 12, "how many random histories to run")

// fate is what a node knows of the messages of one topic: whether each was accepted.
type fate struct{ accepted []bool }

// Nodes publish, subscribe, sleep, move, leave and come back in any order over a network that loses, doubles and
// reorders, and a gateway that restarts. What was accepted is stored, at QoS 2 once, and each topic is in order; and so
// it is with what a node is sent.
func TestHistories(t *testing.T) {
	for seed := range uint64(*histories) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			bubbleSeed(t, mqttsn.Options{RetryInterval: time.Second, Retries: 8}, seed, func(t *testing.T, r *rig) { history(t, r, seed) })
		})
	}
}

func history(t *testing.T, r *rig, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 7))
	options := func(id string) snclient.Options {
		return snclient.Options{ID: id, Clean: id == "clean", Retry: time.Second, Retries: 8, KeepAlive: 10 * time.Minute}
	}
	reader := r.connected(options("reader"))
	for _, filter := range []string{"plant1/q1/#", "plant1/q2/#"} {
		must(t, reader.Subscribe(t.Context(), filter, 2))
	}
	quality := func(lost float64) {
		r.ether.mu.Lock()
		defer r.ether.mu.Unlock()
		r.ether.loss, r.ether.twice, r.ether.late = lost, lost, lost
	}
	quality(0.05 + 0.2*rng.Float64())

	fates := map[string]*fate{}
	var writers sync.WaitGroup
	for i := range 3 {
		id := []string{"clean", "writer1", "writer2"}[i]
		n, own := r.node(options(id)), rand.New(rand.NewPCG(seed, uint64(i)))
		topics := []string{"plant1/q1/" + id, "plant1/q2/" + id}
		for _, topic := range topics {
			fates[topic] = &fate{}
		}
		writers.Go(func() { write(t, n, own, fates, topics) })
	}
	done := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() { read(t, reader, rng, done) })
	if seed%3 == 2 { // and the gateway stops and starts
		writers.Go(func() {
			for range 3 {
				time.Sleep(20 * time.Second)
				r.restart()
			}
		})
	}
	writers.Wait()
	close(done)
	others.Wait()
	quality(0)
	time.Sleep(time.Minute)
	for attempt := 0; ; attempt++ { // it is awake, and takes the rest
		err := reader.Connect(t.Context())
		if err == nil {
			time.Sleep(10 * time.Second)
			err = reader.Ping(t.Context())
		}
		if err == nil {
			break
		}
		if attempt == 3 {
			t.Fatal(err)
		}
	}

	stored := map[string][]int{}
	for _, line := range r.data() {
		topic, payload, _ := strings.Cut(line, " ")
		n, err := strconv.Atoi(payload)
		must(t, err)
		stored[topic] = append(stored[topic], n)
	}
	got := map[string][]int{}
	for _, line := range reader.messages() {
		f := strings.Fields(line)
		n, err := strconv.Atoi(f[1])
		must(t, err)
		got[f[0]] = append(got[f[0]], n)
	}
	for topic, f := range fates {
		once := strings.HasPrefix(topic, "plant1/q2")
		accepted := 0
		seen := map[int]int{}
		for _, n := range stored[topic] {
			seen[n]++
		}
		for n, ok := range f.accepted {
			if ok {
				accepted++
				if seen[n] == 0 {
					t.Errorf("%s: %d was accepted and is not stored", topic, n)
				}
			}
			if once && seen[n] > 1 {
				t.Errorf("%s: %d is stored %d times", topic, n, seen[n])
			}
		}
		if accepted < len(f.accepted)/2 {
			t.Errorf("%s: only %d of %d were accepted; this shows little", topic, accepted, len(f.accepted))
		}
		inOrder(t, "stored", topic, stored[topic], once)
		inOrder(t, "received", topic, got[topic], once)
		if r.restarts == 0 { // what waits for a reader is in memory
			have := map[int]bool{}
			for _, n := range got[topic] {
				have[n] = true
			}
			for _, n := range stored[topic] {
				if !have[n] {
					t.Errorf("%s: %d is stored and did not arrive", topic, n)
				}
			}
		}
	}
}

// inOrder tells whether each comes first behind all that were published before it.
func inOrder(t *testing.T, what, topic string, numbers []int, once bool) {
	t.Helper()
	most := -1
	seen := map[int]bool{}
	for i, n := range numbers {
		if n < most && !seen[n] || once && seen[n] {
			t.Errorf("%s: %s out of order or twice at %d: %v", topic, what, i, numbers[max(0, i-5):i+1])
		}
		seen[n] = true
		most = max(most, n)
	}
}

// write publishes to both topics, and does what else nodes do.
func write(t *testing.T, n *node, rng *rand.Rand, fates map[string]*fate, topics []string) {
	ctx := t.Context()
	connect := func() {
		for n.Connect(ctx) != nil && ctx.Err() == nil {
			time.Sleep(time.Second)
		}
	}
	connect()
	for range 120 {
		var err error
		switch op := rng.IntN(20); {
		case op < 14:
			qos := 1 + rng.IntN(2)
			topic := topics[qos-1]
			f := fates[topic]
			f.accepted = append(f.accepted, false)
			number := len(f.accepted) - 1
			err = n.Publish(ctx, topic, int8(qos), false, []byte(strconv.Itoa(number)))
			f.accepted[number] = err == nil
		case op < 15:
			if err = n.Disconnect(ctx); err == nil {
				connect()
			}
		case op < 16:
			connect() // as if it had been switched off and on
		case op < 17:
			err = n.Ping(ctx)
		case op < 18:
			if err = n.Sleep(ctx, time.Minute); err == nil {
				connect()
			}
		default:
			time.Sleep(time.Duration(rng.IntN(2000)) * time.Millisecond)
		}
		if errors.Is(err, snclient.ErrDisconnected) || errors.Is(err, snclient.ErrNoAnswer) {
			time.Sleep(time.Second)
			connect()
		}
	}
}

// read sleeps, looks, moves, leaves and comes back until done.
func read(t *testing.T, n *node, rng *rand.Rand, done <-chan struct{}) {
	ctx := t.Context()
	port := 40000
	for {
		select {
		case <-done:
			return
		case <-time.After(time.Duration(rng.IntN(5000)) * time.Millisecond):
		}
		var err error
		switch rng.IntN(5) {
		case 0:
			err = n.Disconnect(ctx)
			time.Sleep(time.Duration(rng.IntN(5000)) * time.Millisecond)
			err = errors.Join(err, n.Connect(ctx))
		case 1, 2:
			if err = n.Sleep(ctx, time.Hour); err == nil {
				for range rng.IntN(4) {
					time.Sleep(time.Duration(rng.IntN(5000)) * time.Millisecond)
					port++
					n.end.move(fmt.Sprintf("198.51.100.1:%d", port))
					err = errors.Join(err, n.Check(ctx))
				}
				err = errors.Join(err, n.Connect(ctx))
			}
		case 3:
			err = n.Ping(ctx)
		case 4:
			err = n.Connect(ctx)
		}
		if err != nil {
			time.Sleep(time.Second)
			n.Connect(ctx)
		}
	}
}
