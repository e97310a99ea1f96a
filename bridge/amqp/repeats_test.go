package amqp_test

import (
	"maps"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
)

// database stands for one with transactions: what it has survives its consumers.
type database struct {
	mu   sync.Mutex
	seen map[string]bool // the table of ids, with its unique key
	rows []string
}

// store is one transaction: the id, and, if it was new, what the message is for.
func (d *database) store(id, row string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	seen := maps.Clone(d.seen)
	if seen[id] { // INSERT … ON CONFLICT DO NOTHING: 0 rows
		return
	}
	seen[id] = true
	d.seen, d.rows = seen, append(d.rows, row) // COMMIT
}

func (d *database) stored() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.rows...)
}

// The recipe of docs/uplinks/amqp.md: a consumer that stores the message-id with the result, in
// one transaction, and acknowledges after that. It sees the sink's repeats, after lost confirms, and
// RabbitMQ's own, after a consumer that died between its commit and its acknowledgement.
func TestConsumerDropsRepeats(t *testing.T) {
	r := start(t)
	q := declare(t, r, amqp091.Table{}, "#")
	p := bridgetest.NewProxy(t, r.Addr)
	sending := bridgetest.RunPump(t, newSink(t, p.Addr(), impatient, to(q.exchange)))

	d := &database{seen: map[string]bool{}}
	received, redelivered := 0, 0
	consume := func(stop func() bool, dies bool) {
		conn, err := amqp091.Dial("amqp://guest:guest@" + r.Addr + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ch, err := conn.Channel()
		if err != nil {
			t.Fatal(err)
		}
		if err := ch.Qos(10, 0, false); err != nil {
			t.Fatal(err)
		}
		deliveries, err := ch.Consume(q.name, "", false, false, false, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		timeout := time.After(30 * time.Second)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for !stop() {
			select {
			case <-tick.C: // to look at stop again
			case m := <-deliveries:
				received++
				if m.Redelivered {
					redelivered++
				}
				d.store(m.MessageId, string(m.Body))
				if dies {
					return
				}
				if err := m.Ack(false); err != nil {
					t.Fatal(err)
				}
			case <-timeout:
				t.Fatalf("%d of 60 stored within 30 s", len(d.stored()))
			}
		}
	}
	n := 0
	add := func() {
		for range 20 {
			n++
			sending.Log.Append(&gateway.Event{Topic: "up/a", Payload: []byte(strconv.Itoa(n)), Accepted: time.Now()})
		}
	}
	add()
	consume(func() bool { return len(d.stored()) == 20 }, false)
	p.LoseAnswers()
	add()
	consume(func() bool { return len(d.stored()) == 40 }, false)
	p.Cut()
	p.Heal()
	add()
	consume(func() bool { return false }, true)
	consume(func() bool { return len(d.stored()) == 60 && received >= 60+20+1 && sending.Status().Delivered == 60 }, false)
	for i, row := range d.stored() {
		if row != strconv.Itoa(i+1) {
			t.Errorf("row %d is %s", i+1, row)
		}
	}
	if received < 60+20+1 || redelivered == 0 {
		t.Errorf("%d received, %d of them again by RabbitMQ: the test saw no repeats of both kinds", received, redelivered)
	}
	t.Logf("%d received for 60 rows, %d of them redelivered", received, redelivered)
}
