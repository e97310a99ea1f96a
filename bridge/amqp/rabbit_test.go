package amqp_test

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rabbitmq/amqp091-go"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/amqp"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
)

// start returns the one RabbitMQ of these tests. Besides guest it knows "open", who may write to
// amq.topic if the key begins with open, "mute", who may not write at all, and "down" and "reader", who have the
// rights that a downlink needs, with a queue of its own and with one that is there.
func start(t *testing.T) *bridgetest.RabbitMQ {
	t.Helper()
	p := certificates(t)
	may := func(user, write string) any {
		return map[string]string{"user": user, "vhost": "/", "configure": "^$", "write": write, "read": "^$"}
	}
	return bridgetest.StartRabbitMQ(t, bridgetest.RabbitOptions{
		Config: []string{"max_message_size = 300000", "auth_mechanisms.1 = PLAIN", "auth_mechanisms.2 = EXTERNAL", "ssl_cert_login_from = common_name"},
		TLSConfig: []string{
			"ssl_options.cacertfile = " + p.ca, "ssl_options.certfile = " + p.server, "ssl_options.keyfile = " + p.serverKey,
			"ssl_options.verify = verify_peer", "ssl_options.fail_if_no_peer_cert = true",
		},
		Plugins: []string{"rabbitmq_auth_mechanism_ssl"},
		Definitions: map[string]any{
			"users": []any{
				map[string]string{"name": "open", "password": "secret", "tags": ""},
				map[string]string{"name": "mute", "password": "secret", "tags": ""},
				map[string]string{"name": "box", "password": "unused", "tags": ""},
				map[string]string{"name": "down", "password": "secret", "tags": ""},
				map[string]string{"name": "reader", "password": "secret", "tags": ""},
			},
			"permissions": []any{
				may("open", "^amq[.]topic$"), may("mute", "^$"), may("box", "^amq[.]topic$"),
				map[string]string{"user": "down", "vhost": "/", "configure": "^weir-.*-down$", "write": "^weir-.*-down$", "read": "^(weir-.*-down|amq[.]topic)$"},
				map[string]string{"user": "reader", "vhost": "/", "configure": "^$", "write": "^$", "read": "^queue-"},
			},
			"topic_permissions": []any{map[string]string{"user": "open", "vhost": "/", "exchange": "amq.topic", "write": "^open", "read": ""}},
		},
	})
}

// Everything that an event has arrives where the page says.
func TestFields(t *testing.T) {
	r := start(t)
	q := declare(t, r, nil, "#")
	c := bridgetest.Send(t, newSink(t, r.Addr, to(q.exchange)))
	accepted := time.Date(2026, 11, 24, 12, 0, 0, 123456789, time.UTC)
	c.Event(gateway.Event{
		Topic: "plant.1/oven/t", Payload: []byte{0, 1}, ContentType: "text/x", ResponseTopic: "re/x", CorrelationData: []byte{9},
		UserProperties: []gateway.UserProperty{{Key: "a", Value: "1"}, {Key: "CC", Value: "elsewhere"}, {Key: "a", Value: "2"}, {Key: "a", Value: "3"}},
		Origin:         gateway.Origin{ID: "oven-7"}, Accepted: accepted, Source: accepted.Add(-time.Second), Quality: gateway.Bad, Retain: true,
	})
	c.Event(gateway.Event{Topic: "b", Expiry: time.Hour, Age: bridgetest.Age() - 30*time.Minute})
	c.Event(gateway.Event{Topic: "c", Expiry: 90 * 24 * time.Hour})
	for range 3 {
		if err := c.Outcome(); err != nil {
			t.Fatal(err)
		}
	}
	bridgetest.Until(t, "three have arrived", func() bool { return len(q.deliveries()) == 3 })
	got := q.deliveries()
	d := got[0]
	if d.RoutingKey != "plant/1.oven.t" || d.MessageId != "test-gw/e1-1" || d.DeliveryMode != 2 || d.ContentType != "text/x" ||
		!d.Timestamp.Equal(accepted.Truncate(time.Second)) || !bytes.Equal(d.Body, []byte{0, 1}) || d.Expiration != "" {
		t.Errorf("%+v", d)
	}
	want := amqp091.Table{
		"weir-topic": "plant.1/oven/t", "weir-time": "2026-11-24T12:00:00.123456789Z", "weir-source-time": "2026-11-24T11:59:59.123456789Z",
		"weir-device": "oven-7", "weir-quality": "bad", "weir-retain": true, "weir-response-topic": "re/x", "weir-correlation-data": []byte{9},
		"user-a": []any{"1", "2", "3"}, "user-CC": "elsewhere",
	}
	if diff := cmp.Diff(want, d.Headers); diff != "" {
		t.Error(diff)
	}
	if ms, _ := strconv.Atoi(got[1].Expiration); ms < 29*60*1000 || ms > 30*60*1000 {
		t.Errorf("expiration %q with half an hour left", got[1].Expiration)
	}
	if got[2].Expiration != "" {
		t.Errorf("expiration %q; RabbitMQ refuses more than 49 days", got[2].Expiration)
	}
}

// What no queue wants is refused for ever, and what is around it goes on.
func TestUnroutable(t *testing.T) {
	r := start(t)
	q := declare(t, r, nil, "good.#")
	c := bridgetest.Send(t, newSink(t, r.Addr, to(q.exchange)))
	for i := range 90 {
		topic := "good/x"
		if i%9 == 4 {
			topic = "bad/x"
		}
		c.Event(gateway.Event{Topic: topic})
	}
	for _, o := range c.Outcomes(90) {
		if o.Event.Topic == "good/x" {
			if o.Err != nil {
				t.Error(o.Err)
			}
			continue
		}
		want := "no queue wants it: exchange \"" + q.exchange + "\", routing key \"bad.x\": 312 NO_ROUTE"
		if !errors.Is(o.Err, gateway.ErrInvalid) || o.Err.Error() != want {
			t.Errorf("%v, not %s", o.Err, want)
		}
	}
	bridgetest.Until(t, "the good ones have arrived", func() bool { return len(q.deliveries()) == 80 })
}

// A queue that is full answers basic.nack, which is for now.
func TestQueueIsFull(t *testing.T) {
	r := start(t)
	q := declare(t, r, amqp091.Table{"x-max-length": 2, "x-overflow": "reject-publish"}, "#")
	p := bridgetest.RunPump(t, newSink(t, r.Addr, to(q.exchange), func(c *amqp.Config) { c.Window = 1 }))
	for i := range 20 {
		p.Log.Append(&gateway.Event{Topic: "up/a", Payload: []byte(strconv.Itoa(i)), Accepted: time.Now()})
	}
	bridgetest.Until(t, "it says why it stands", func() bool { return strings.Contains(p.Status().Reason, "basic.nack") })
	if c := p.Status().Circuit; c.State != bridge.LinkThrottled {
		t.Errorf("the circuit: %+v", c)
	}
	q.consume(t)
	bridgetest.Until(t, "all are delivered", func() bool { return p.Status().Delivered == 20 })
	bridgetest.Until(t, "all have arrived", func() bool { return len(q.deliveries()) >= 20 })
	seen := 0
	for _, a := range q.arrivals() {
		if a.Payload == strconv.Itoa(seen) {
			seen++
		}
	}
	if s := p.Status(); seen != 20 || s.Dead != 0 {
		t.Errorf("%d in order; %+v", seen, s)
	}
}

// The exchange is not there, then it is, then it is taken away.
func TestExchangeIsMissing(t *testing.T) {
	r := start(t)
	ch := channel(t, r)
	name := "late-exchange"
	p := bridgetest.RunPump(t, newSink(t, r.Addr, to(name)))
	p.Log.Append(&gateway.Event{Topic: "up/a", Accepted: time.Now()})
	missing := func() bool {
		return strings.Contains(p.Status().Reason, "the far end says 404 NOT_FOUND - no exchange 'late-exchange'")
	}
	bridgetest.Until(t, "it says what is missing", missing)
	create := func() *queue {
		if err := ch.ExchangeDeclare(name, "topic", true, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
		return bind(t, ch, name, nil, "#")
	}
	t.Cleanup(func() { ch.ExchangeDelete(name, false, false) })
	q := create()
	// Between the two steps it is there without a queue, and an event that comes then is dead.
	p.Log.Append(&gateway.Event{Topic: "up/b", Accepted: time.Now()})
	bridgetest.Until(t, "an event has arrived", func() bool { return len(q.deliveries()) > 0 })
	bridgetest.Until(t, "nothing waits", func() bool { return p.Status().Position.Offset == 2 })
	dead := p.Status().Dead
	if err := ch.ExchangeDelete(name, false, false); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		p.Log.Append(&gateway.Event{Topic: "up/c", Accepted: time.Now()})
	}
	bridgetest.Until(t, "it says what is missing", missing)
	if s := p.Status(); s.Dead != dead || s.Up {
		t.Errorf("a missing exchange was held against events: %+v", s)
	}
}

// What one account may not say is denied, each time only that, also among many in flight.
func TestTopicIsDenied(t *testing.T) {
	r := start(t)
	q := bind(t, channel(t, r), "amq.topic", nil, "open.#", "closed.#")
	p := bridgetest.RunPump(t, newSink(t, r.Addr, account("open", "secret"), func(c *amqp.Config) { c.RoutingKey = "{device}" }))
	for i := range 200 {
		device := "open/" + strconv.Itoa(i)
		if i%40 == 20 || i%40 == 21 {
			device = "closed/" + strconv.Itoa(i)
		}
		p.Log.Append(&gateway.Event{Topic: "up/a", Origin: gateway.Origin{ID: device}, Payload: []byte(device), Accepted: time.Now()})
	}
	bridgetest.Until(t, "all are done with", func() bool { return p.Status().Position.Offset == 200 })
	if s := p.Status(); s.Delivered != 190 || s.Dead != 10 {
		t.Errorf("%+v", s)
	}
	for _, reason := range p.DeadReasons(t) {
		if !strings.Contains(reason, "to topic 'closed.") {
			t.Error(reason)
		}
	}
	for _, a := range q.arrivals() {
		if strings.HasPrefix(a.Payload, "closed") {
			t.Errorf("arrived: %+v", a)
		}
	}
}

// An account that may not write to the exchange at all is nothing that an event could help.
func TestExchangeIsDenied(t *testing.T) {
	r := start(t)
	p := bridgetest.RunPump(t, newSink(t, r.Addr, account("mute", "secret")))
	for range 5 {
		p.Log.Append(&gateway.Event{Topic: "up/a", Accepted: time.Now()})
	}
	bridgetest.Until(t, "it says why", func() bool { return strings.Contains(p.Status().Reason, "403 ACCESS_REFUSED") })
	bridgetest.Until(t, "it has tried again", func() bool { return p.Status().Retried > 20 })
	if s := p.Status(); s.Dead != 0 || s.Delivered != 0 {
		t.Errorf("%+v", s)
	}
}

// A message that is too large for this server closes the channel. Only that one is refused.
func TestTooLarge(t *testing.T) {
	r := start(t)
	q := declare(t, r, nil, "#")
	p := bridgetest.RunPump(t, newSink(t, r.Addr, to(q.exchange)))
	for i := range 100 {
		e := &gateway.Event{Topic: "up/a", Payload: []byte(strconv.Itoa(i)), Accepted: time.Now()}
		if i == 50 || i == 70 {
			e.Payload = make([]byte, 300001)
		}
		p.Log.Append(e)
	}
	bridgetest.Until(t, "all are done with", func() bool { return p.Status().Position.Offset == 100 })
	if s := p.Status(); s.Delivered != 98 || s.Dead != 2 {
		t.Errorf("%+v", s)
	}
}

// While the server takes no publishes the uplink says so, holds one connection, and loses
// nothing; also where the link is full of what it does not take.
func TestBlocked(t *testing.T) {
	r := start(t)
	for _, size := range []int{8, 200000} {
		t.Run(strconv.Itoa(size), func(t *testing.T) { blocked(t, r, size) })
	}
}

func blocked(t *testing.T, r *bridgetest.RabbitMQ, size int) {
	q := declare(t, r, nil, "#")
	p := bridgetest.RunPump(t, newSink(t, r.Addr, to(q.exchange), impatient))
	n := 0
	add := func(more int) {
		for range more {
			n++
			p.Log.Append(&gateway.Event{Topic: "up/a", Payload: fmt.Appendf(nil, "%0*d", size, n), Accepted: time.Now()})
		}
	}
	add(50)
	bridgetest.Until(t, "it flows", func() bool { return p.Status().Delivered == 50 })
	r.Ctl(t, "eval", "rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []}).")
	add(100)
	says := func() bool {
		s := p.Status()
		return s.State == bridge.LinkThrottled && s.Reason == "the far end takes no publishes: low on memory"
	}
	bridgetest.Until(t, "it says that it is blocked", says)
	retried := p.Status().Retried
	add(100)
	r.Ctl(t, "list_connections", "state") // takes a second: time for many attempts
	if !says() || p.Status().Retried != retried {
		t.Errorf("it hammers: %d retries; %+v", p.Status().Retried-retried, p.Status())
	}
	r.Ctl(t, "eval", "rabbit_alarm:clear_alarm({resource_limit, memory, node()}).")
	bridgetest.Until(t, "all are delivered", func() bool { return p.Status().Delivered == uint64(n) })
	if s := p.Status(); s.Dead != 0 {
		t.Errorf("%+v", s)
	}
	bridgetest.Until(t, "all have arrived", func() bool {
		have := map[string]bool{}
		for _, a := range q.arrivals() {
			have[a.Payload] = true
		}
		return len(have) == n
	})
}

func TestConnectFails(t *testing.T) {
	r := start(t)
	for _, c := range []struct {
		name   string
		change func(*amqp.Config)
		want   string
	}{
		{"wrong password", account("guest", "wrong"), "it does not accept the account"},
		{"no such vhost", func(c *amqp.Config) { c.VHost = "nowhere" }, "530 NOT_ALLOWED - vhost nowhere not found"},
		{"no such exchange", to("nowhere"), "404 NOT_FOUND - no exchange 'nowhere' in vhost '/'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := bridgetest.Send(t, newSink(t, r.Addr, c.change))
			err := s.End()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, not %s", err, c.want)
			}
		})
	}
}

// The default exchange leads straight to a queue.
func TestDefaultExchange(t *testing.T) {
	r := start(t)
	q := bind(t, channel(t, r), "", nil)
	c := bridgetest.Send(t, newSink(t, r.Addr, to(""), func(c *amqp.Config) { c.RoutingKey = q.name }))
	c.Event(gateway.Event{Topic: "a/b", Payload: []byte("x")})
	if err := c.Outcome(); err != nil {
		t.Fatal(err)
	}
	bridgetest.Until(t, "it has arrived", func() bool { return len(q.deliveries()) == 1 })
}

func account(name, password string) func(*amqp.Config) {
	return func(c *amqp.Config) { c.Username, c.Password = name, password }
}
