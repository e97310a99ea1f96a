package amqp_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rabbitmq/amqp091-go"

	"github.com/weir-iot/weir/bridge/amqp"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
)

// newSource returns a source of "down/#" that a busy machine does not make impatient, but for its heartbeat.
func newSource(t *testing.T, addr string, change ...func(*amqp.Config)) *amqp.Source {
	t.Helper()
	c := amqp.Config{URL: "amqp://" + addr, Window: 64, Heartbeat: time.Second, AckTimeout: 10 * time.Second}
	for _, f := range change {
		f(&c)
	}
	s, err := amqp.NewSource(c, bridgetest.GatewayID, "far", "commands", gateway.Filters{gateway.MustFilter("down/#")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const downQueue = "weir-test-gw-far-commands-down"

func downExchange(name string) func(*amqp.Config) {
	return func(c *amqp.Config) { c.DownExchange = name }
}

func downQueueOf(name string) func(*amqp.Config) {
	return func(c *amqp.Config) { c.DownQueue = name }
}

// downs is an exchange for what goes down.
func downs(t *testing.T, r *bridgetest.RabbitMQ) (exchange string, ch *amqp091.Channel) {
	t.Helper()
	q := declare(t, r, nil)
	t.Cleanup(func() { q.ch.QueueDelete(downQueue, false, false, false) })
	if err := q.ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	return q.exchange, q.ch
}

func publish(t *testing.T, ch *amqp091.Channel, exchange, key string, m amqp091.Publishing) error {
	t.Helper()
	m.DeliveryMode = amqp091.Persistent
	confirm, err := ch.PublishWithDeferredConfirmWithContext(t.Context(), exchange, key, true, false, m)
	if err != nil {
		return err
	}
	_, err = confirm.WaitContext(t.Context())
	return err
}

// With ids of the sender's, and without any; into a queue of the source's own, and into one of somebody else's.
func TestSourceRabbitMQ(t *testing.T) {
	r := start(t)
	for name, c := range map[string]struct {
		ids  bool
		args amqp091.Table // of the queue that is there already
	}{
		"ids":    {ids: true},
		"none":   {ids: false},
		"quorum": {ids: true, args: amqp091.Table{amqp091.QueueTypeArg: "quorum", amqp091.SingleActiveConsumerArg: true}},
	} {
		t.Run(name, func(t *testing.T) {
			bridgetest.RunSource(t, func(t *testing.T) *bridgetest.FarSource {
				exchange, ch := downs(t, r)
				where := downExchange(exchange)
				if c.args != nil {
					where = downQueueOf(bind(t, ch, exchange, c.args, "down.#").name)
				}
				p := bridgetest.NewProxy(t, r.Addr)
				return &bridgetest.FarSource{
					Source: newSource(t, p.Addr(), impatient, where), NoIDs: !c.ids,
					Send: func(all ...bridgetest.Message) error {
						for _, m := range all {
							out := amqp091.Publishing{Body: []byte(m.Payload)}
							if c.ids {
								out.MessageId = m.ID
							}
							if err := publish(t, ch, exchange, strings.ReplaceAll(m.Topic, "/", "."), out); err != nil {
								return err
							}
						}
						return nil
					},
					Cut: p.Cut, Stall: p.Stall, Refuse: p.Refuse, Heal: p.Heal,
				}
			})
		})
	}
}

// receiving is one Receive under test.
type receiving struct {
	up    chan struct{}
	got   chan received
	ended chan error
	stop  context.CancelFunc
}

type received struct {
	e    *gateway.Event
	id   string
	done func(error)
}

func receive(t *testing.T, s *amqp.Source) *receiving {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &receiving{up: make(chan struct{}), got: make(chan received, 1000), ended: make(chan error, 1), stop: cancel}
	over := make(chan struct{})
	go func() {
		defer close(over)
		c.ended <- s.Receive(ctx, func() { close(c.up) }, func(e *gateway.Event, id string, done func(error)) {
			c.got <- received{e, id, done}
		})
	}()
	t.Cleanup(func() { cancel(); <-over })
	select {
	case <-c.up:
	case err := <-c.ended:
		c.ended <- err
	case <-time.After(30 * time.Second):
		t.Fatal("neither up nor ended within 30 s")
	}
	return c
}

func (c *receiving) next(t *testing.T) received {
	t.Helper()
	select {
	case r := <-c.got:
		return r
	case err := <-c.ended:
		t.Fatalf("Receive has ended: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("nothing comes")
	}
	return received{}
}

func (c *receiving) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-c.ended:
		c.ended <- err
		return err
	case <-time.After(30 * time.Second):
		t.Fatal("Receive has not ended within 30 s")
		return nil
	}
}

// What a message has becomes what an event has; one without an id says so when it comes again.
func TestSourceFields(t *testing.T) {
	r := start(t)
	exchange, ch := downs(t, r)
	s := newSource(t, r.Addr, downExchange(exchange))
	c := receive(t, s)
	for _, m := range []amqp091.Publishing{
		{
			MessageId: "order-1", ContentType: "text/x", Expiration: "90000", Body: []byte{0, 1}, ReplyTo: "amq.rabbitmq.reply-to.x", CorrelationId: "native",
			Headers: amqp091.Table{
				"user-a": []any{"1", "2"}, "b": "3", "n": int32(4), "t": true, "x-other": "no", "user-weir-id": "no",
				"bad": "\xff", "table": amqp091.Table{"k": "v"}, "weir-response-topic": "re/x", "weir-correlation-data": []byte{9},
			},
		},
		{CorrelationId: "native", Headers: amqp091.Table{"weir-response-topic": "re/#"}},
		{Headers: amqp091.Table{"weir-command-id": "mine"}},
	} {
		if err := publish(t, ch, exchange, "down.plant/1.t", m); err != nil {
			t.Fatal(err)
		}
	}
	for _, again := range []bool{false, true} {
		want := []*gateway.Event{
			{
				Payload: []byte{0, 1}, ContentType: "text/x", Expiry: 90 * time.Second, ResponseTopic: "re/x", CorrelationData: []byte{9},
				UserProperties: []gateway.UserProperty{
					{Key: "b", Value: "3"}, {Key: "n", Value: "4"}, {Key: "t", Value: "true"}, {Key: "a", Value: "1"}, {Key: "a", Value: "2"}, {Key: "weir-response-topic", Value: "re/x"},
				},
			},
			{Payload: []byte{}, CorrelationData: []byte("native"), UserProperties: []gateway.UserProperty{{Key: "weir-response-topic", Value: "re/#"}}},
			{Payload: []byte{}, UserProperties: []gateway.UserProperty{{Key: "weir-command-id", Value: "mine"}}},
		}
		if again {
			want[1].UserProperties = append(want[1].UserProperties, gateway.UserProperty{Key: "redelivered", Value: "true"})
		}
		for i, w := range want {
			w.Topic, w.QoS = "down/plant.1/t", 1
			got := c.next(t)
			if diff := cmp.Diff(w, got.e); diff != "" || got.id != map[int]string{0: "order-1"}[i] {
				t.Errorf("message %d, again %t: id %q, %s", i, again, got.id, diff)
			}
		}
		c.stop()
		if err := c.end(t); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		c = receive(t, s)
	}
}

// What is refused goes into the queue's dead letter exchange, and does not come again.
func TestSourceRefuses(t *testing.T) {
	r := start(t)
	exchange, ch := downs(t, r)
	dead := bind(t, ch, exchange, nil, "dead")
	queue := bind(t, ch, exchange, amqp091.Table{"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": "dead"}, "down.#").name
	c := receive(t, newSource(t, r.Addr, downQueueOf(queue)))
	for _, kind := range []error{gateway.ErrInvalid, gateway.ErrDenied} {
		if err := publish(t, ch, exchange, "down.a", amqp091.Publishing{}); err != nil {
			t.Fatal(err)
		}
		c.next(t).done(gateway.Errorf(kind, "never"))
	}
	bridgetest.Until(t, "both are dead letters", func() bool { return len(dead.deliveries()) == 2 })
}

// While RabbitMQ does not miss a lost connection it sends nothing to the next one; then that one has all that was
// in flight on the first, before what is behind it.
func TestSourceInOrder(t *testing.T) {
	r := start(t)
	exchange, ch := downs(t, r)
	s := func() *amqp.Source { return newSource(t, r.Addr, downExchange(exchange)) }
	first := receive(t, s())
	put := func(texts ...string) {
		t.Helper()
		for _, text := range texts {
			if err := publish(t, ch, exchange, "down.a", amqp091.Publishing{Body: []byte(text)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	put("1", "2", "3")
	for range 3 {
		first.next(t)
	}
	second := receive(t, s())
	put("4", "5")
	first.next(t)
	first.next(t)
	first.stop()
	if err := first.end(t); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	put("6")
	for _, want := range []string{"1", "2", "3", "4", "5", "6"} {
		if got := string(second.next(t).e.Payload); got != want {
			t.Errorf("%s, not %s", got, want)
		}
	}
}

// Whatever the far end does not allow or does not have is told.
func TestSourceIsRefused(t *testing.T) {
	r := start(t)
	for name, c := range map[string]struct {
		change []func(*amqp.Config)
		want   string
	}{
		"no such exchange": {[]func(*amqp.Config){downExchange("nowhere")}, "404 NOT_FOUND - no exchange 'nowhere'"},
		"no such queue":    {[]func(*amqp.Config){downQueueOf("nowhere-{downlink}")}, "404 NOT_FOUND - no queue 'nowhere-commands'"},
		"no right":         {[]func(*amqp.Config){account("mute", "secret")}, "403 ACCESS_REFUSED - access to queue '" + downQueue + "'"},
	} {
		if err := receive(t, newSource(t, r.Addr, c.change...)).end(t); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	exchange, ch := downs(t, r)
	for _, change := range [][]func(*amqp.Config){
		{account("down", "secret")},
		{account("reader", "secret"), downQueueOf(bind(t, ch, exchange, amqp091.Table{}).name)},
	} {
		c := receive(t, newSource(t, r.Addr, change...))
		c.stop()
		if err := c.end(t); !errors.Is(err, context.Canceled) {
			t.Errorf("who has the rights: %v", err)
		}
	}
	if _, err := ch.QueueDelete(downQueue, false, false, false); err != nil {
		t.Fatal(err)
	}
	c := receive(t, newSource(t, r.Addr, downExchange(exchange)))
	if _, err := ch.QueueDelete(downQueue, false, false, false); err != nil {
		t.Fatal(err)
	}
	if err := c.end(t); err == nil || err.Error() != "the far end sends no more of queue "+downQueue+": is it deleted?" {
		t.Errorf("a queue that is deleted: %v", err)
	}
}
