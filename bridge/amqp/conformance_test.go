package amqp_test

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rabbitmq/amqp091-go"
	"go.uber.org/goleak"

	"github.com/weir-iot/weir/bridge/amqp"
	"github.com/weir-iot/weir/bridge/bridgetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(withRabbit{m}) }

// withRabbit ends the one server that the tests share.
type withRabbit struct{ m *testing.M }

// paperDir outlives each test, as the server does.
var paperDir string

func (w withRabbit) Run() int {
	var err error
	if paperDir, err = os.MkdirTemp("", "papers"); err != nil {
		panic(err)
	}
	defer os.RemoveAll(paperDir)
	defer bridgetest.StopRabbitMQ()
	return w.m.Run()
}

// newSink returns a sink that a busy machine does not make impatient.
func newSink(t *testing.T, addr string, change ...func(*amqp.Config)) *amqp.Sink {
	t.Helper()
	c := amqp.Config{URL: "amqp://" + addr, Window: 64, Heartbeat: 2 * time.Second, AckTimeout: 10 * time.Second}
	for _, f := range change {
		f(&c)
	}
	s, err := amqp.New(c, bridgetest.GatewayID, "far", bridgetest.Age)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// impatient is for tests in which the far end does not answer.
func impatient(c *amqp.Config) {
	c.AckTimeout, c.ConnectTimeout = 400*time.Millisecond, 400*time.Millisecond
}

func to(exchange string) func(*amqp.Config) {
	return func(c *amqp.Config) { c.Exchange = &exchange }
}

func TestRabbitMQ(t *testing.T) {
	r := start(t)
	bridgetest.Run(t, func(t *testing.T) *bridgetest.FarEnd {
		q := declare(t, r, nil, "#")
		p := bridgetest.NewProxy(t, r.Addr)
		return &bridgetest.FarEnd{
			Sink: newSink(t, p.Addr(), impatient, to(q.exchange)), Arrivals: q.arrivals, Late: true,
			Cut: p.Cut, LoseAcks: p.LoseAnswers, Stall: p.Stall, Refuse: p.Refuse, Heal: p.Heal,
		}
	})
}

// queue is a topic exchange, and a queue bound to it, that go with the test.
type queue struct {
	exchange, name string
	ch             *amqp091.Channel

	mu  sync.Mutex
	got []amqp091.Delivery
}

var queues atomic.Int64

func channel(t *testing.T, r *bridgetest.RabbitMQ) *amqp091.Channel {
	t.Helper()
	conn, err := amqp091.Dial("amqp://guest:guest@" + r.Addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// declare makes an exchange of its own, and a queue that is bound to it by keys.
func declare(t *testing.T, r *bridgetest.RabbitMQ, args amqp091.Table, keys ...string) *queue {
	t.Helper()
	name := fmt.Sprintf("test-%d", queues.Add(1))
	ch := channel(t, r)
	if err := ch.ExchangeDeclare(name, "topic", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ch.ExchangeDelete(name, false, false) })
	return bind(t, ch, name, args, keys...)
}

func bind(t *testing.T, ch *amqp091.Channel, exchange string, args amqp091.Table, keys ...string) *queue {
	t.Helper()
	q := &queue{exchange: exchange, name: fmt.Sprintf("queue-%d", queues.Add(1)), ch: ch}
	if _, err := ch.QueueDeclare(q.name, true, false, false, false, args); err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if err := ch.QueueBind(q.name, key, exchange, false, nil); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { ch.QueueDelete(q.name, false, false, false) })
	if args == nil {
		q.consume(t)
	}
	return q
}

// consume collects what arrives, in order, repeats included.
func (q *queue) consume(t *testing.T) {
	t.Helper()
	deliveries, err := q.ch.Consume(q.name, "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the connection
		for d := range deliveries {
			q.mu.Lock()
			q.got = append(q.got, d)
			q.mu.Unlock()
		}
	}()
}

func (q *queue) deliveries() []amqp091.Delivery {
	q.mu.Lock()
	defer q.mu.Unlock()
	return append([]amqp091.Delivery(nil), q.got...)
}

func (q *queue) arrivals() []bridgetest.Arrival {
	var all []bridgetest.Arrival
	for _, d := range q.deliveries() {
		topic, _ := d.Headers["weir-topic"].(string)
		all = append(all, bridgetest.Arrival{ID: d.MessageId, Topic: topic, Payload: string(d.Body)})
	}
	return all
}
