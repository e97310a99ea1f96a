package bridge

import (
	"errors"
	"maps"
	"slices"

	"github.com/weir-iot/weir/bridge/mqtt"
	"github.com/weir-iot/weir/gateway/config"
)

// kinds is THE list of sinks. Each decodes its section of the configuration, strictly.
func kinds() []kind {
	return []kind{
		{"mqtt", newMQTT},
	}
}

type kind struct {
	name string
	// new makes the sink of uplink s.Name(). Errors are placed, or know their key.
	new func(s config.Section, gatewayID string) (Sink, error)
}

func newMQTT(s config.Section, gatewayID string) (Sink, error) {
	var c mqtt.Config
	if err := s.Decode(&c); err != nil {
		return nil, err
	}
	return mqtt.New(c, gatewayID, s.Name())
}

// newSink makes the sink of one section, and says of what kind it is.
func newSink(s config.Section, gatewayID string) (kind string, sink Sink, err error) {
	name, err := s.Kind("sink")
	if err != nil {
		return "", nil, err
	}
	var names []string
	for _, k := range kinds() {
		if k.name == name {
			sink, err := k.new(s, gatewayID)
			return name, sink, place(s, err)
		}
		names = append(names, k.name)
	}
	return "", nil, s.Errorf("sink", "there is no sink %q%s", name, config.Suggest(name, names))
}

// place gives an error that knows its key its place in the file.
func place(s config.Section, err error) error {
	var at interface {
		error
		Key() string
	}
	if errors.As(err, &at) {
		return s.Errorf(at.Key(), "%v", err)
	}
	return err
}

// Check tells every mistake in the uplinks' sections, each with its place. It makes the
// sinks and throws them away; nothing is connected to.
func Check(uplinks map[string]config.Section, gatewayID string) error {
	var wrong []error
	for _, id := range slices.Sorted(maps.Keys(uplinks)) {
		if _, _, err := newSink(uplinks[id], gatewayID); err != nil {
			wrong = append(wrong, err)
		}
	}
	return errors.Join(wrong...)
}
