package bridge

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weir-iot/weir/bridge/amqp"
	"github.com/weir-iot/weir/bridge/kafka"
	"github.com/weir-iot/weir/bridge/kinesis"
	"github.com/weir-iot/weir/bridge/mqtt"
	"github.com/weir-iot/weir/bridge/nats"
	"github.com/weir-iot/weir/bridge/webhook"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
)

// kinds is THE list of sinks. Each decodes its section of the configuration, strictly.
func kinds() []kind {
	return []kind{
		{"kafka", newKafka},
		{"amqp", newAMQP},
		{"mqtt", newMQTT},
		{"nats", newNATS},
		{"kinesis", newKinesis},
		{"webhook", newWebhook},
	}
}

type kind struct {
	name string
	// new makes the sink of uplink s.Name(). Errors are placed, or gateway.KeyErrors.
	new func(s config.Section, d deps) (Sink, error)
}

// sources is THE list of kinds of uplink that also bring something down.
func sources() []sourceKind {
	return []sourceKind{
		{"amqp", newAMQPSource},
		{"mqtt", newMQTTSource},
		{"nats", newNATSSource},
	}
}

type sourceKind struct {
	name string
	// new makes the source of a downlink, which asks the far end of uplink s.Name() for topics.
	new func(s config.Section, gatewayID, downlink string, topics gateway.Filters) (Source, error)
}

// deps are what a sink gets besides its own section.
type deps struct {
	gatewayID string
	// key is the ordering key of an event, by the route that brought it: what a far end that
	// partitions has to partition by.
	key func(*gateway.Event) string
	// lane counts the connections of the uplink; each has a sink of its own.
	lane int
	// age is the clock that gateway.Event.Age is of: what is left of an expiry is counted in it.
	age func() time.Duration
}

func newKafka(s config.Section, d deps) (Sink, error) {
	var c kafka.Config
	if err := s.Decode(&c); err != nil {
		return nil, err
	}
	return kafka.New(c, d.gatewayID, s.Name(), d.key)
}

func newAMQP(s config.Section, d deps) (Sink, error) {
	var c amqp.Config
	if err := s.Decode(&c); err != nil {
		return nil, err
	}
	return amqp.New(c, d.gatewayID, s.Name(), d.age)
}

func newAMQPSource(s config.Section, gatewayID, downlink string, topics gateway.Filters) (Source, error) {
	var c amqp.Config
	if err := s.Decode(&c); err != nil {
		return nil, err
	}
	return amqp.NewSource(c, gatewayID, s.Name(), downlink, topics)
}

func newMQTT(s config.Section, d deps) (Sink, error) {
	var c mqtt.Config
	if err := s.Decode(&c); err != nil {
		return nil, err
	}
	return mqtt.New(c, d.gatewayID, s.Name(), d.lane, d.age)
}

func newMQTTSource(s config.Section, gatewayID, downlink string, topics gateway.Filters) (Source, error) {
	var c mqtt.Config
	if err := s.Decode(&c); err != nil {
		return nil, err
	}
	return mqtt.NewSource(c, gatewayID, s.Name(), downlink, topics)
}

func newNATS(s config.Section, d deps) (Sink, error) {
	var c nats.Config
	if err := s.Decode(&c); err != nil {
		return nil, err
	}
	return nats.New(c, d.gatewayID, s.Name(), d.key)
}

func newNATSSource(s config.Section, gatewayID, downlink string, topics gateway.Filters) (Source, error) {
	var c nats.Config
	if err := s.Decode(&c); err != nil {
		return nil, err
	}
	return nats.NewSource(c, gatewayID, s.Name(), downlink, topics)
}

func newKinesis(s config.Section, d deps) (Sink, error) {
	var c kinesis.Config
	if err := s.Decode(&c); err != nil {
		return nil, err
	}
	return kinesis.New(c, d.gatewayID, d.key)
}

func newWebhook(s config.Section, d deps) (Sink, error) {
	var c webhook.Config
	if err := s.Decode(&c); err != nil {
		return nil, err
	}
	return webhook.New(c, d.gatewayID)
}

// newSink makes the sink of one section, and says of what kind it is.
func newSink(s config.Section, d deps) (kind string, sink Sink, err error) {
	name, err := s.Kind("sink")
	if err != nil {
		return "", nil, err
	}
	var names []string
	for _, k := range kinds() {
		if k.name == name {
			sink, err := k.new(s, d)
			return name, sink, place(s, err)
		}
		names = append(names, k.name)
	}
	return "", nil, s.Errorf("sink", "there is no sink %q%s", name, config.Suggest(name, names))
}

// newDownSource makes the source of a downlink of one uplink's section, and says of what kind that is.
func newDownSource(s config.Section, gatewayID, downlink string, topics gateway.Filters) (kind string, source Source, err error) {
	name, err := s.Kind("sink")
	if err != nil {
		return "", nil, err
	}
	var names []string
	for _, k := range sources() {
		if k.name == name {
			source, err := k.new(s, gatewayID, downlink, topics)
			return name, source, place(s, err)
		}
		names = append(names, k.name)
	}
	return "", nil, s.Errorf("sink", "downlink %q: %s uplinks bring nothing down; these do: %s", downlink, name, strings.Join(names, ", "))
}

// place gives an error that knows its key its place in the file.
func place(s config.Section, err error) error {
	var at *gateway.KeyError
	if errors.As(err, &at) {
		return s.Errorf(at.Key, "%v", err)
	}
	return err
}

// Check tells every mistake in the uplinks' sections, each with its place. It makes the
// sinks and sources and throws them away; nothing is connected to.
func Check(uplinks map[string]config.Section, downlinks map[string]config.Downlink, gatewayID string) error {
	var wrong []error
	for _, id := range slices.Sorted(maps.Keys(uplinks)) {
		if _, _, err := newSink(uplinks[id], deps{gatewayID: gatewayID, key: byTopic}); err != nil {
			wrong = append(wrong, err)
		}
	}
	if len(wrong) > 0 { // they would be said again
		return errors.Join(wrong...)
	}
	for _, id := range slices.Sorted(maps.Keys(downlinks)) {
		d := downlinks[id]
		if _, _, err := newDownSource(uplinks[d.Uplink], gatewayID, id, d.Topics); err != nil {
			wrong = append(wrong, err)
		}
	}
	return errors.Join(wrong...)
}
