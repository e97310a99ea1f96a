package mqttdev

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// command is how something is set.
type command struct {
	topic   string
	payload func(value string) []byte // nil: the value as it is
	reply   string                    // the measurement that says what became of it; empty: none does
	rpc     *rpc                      // in place of the three above
	options []string                  // what may be set, whatever the case; nil: anything
	numeric bool
	setting codec.Setting
}

// rpc is a command that has an answer of its own, as JSON-RPC on prefix/rpc.
type rpc struct {
	prefix string
	method func(value string) string
	params func(value string) map[string]any
}

// object is {"key": value}, with value as a number, true or false if it is one.
func object(key, value string) []byte {
	var v any = value
	if n, number := codec.Number(value); number {
		v = json.Number(n)
	} else if value == "true" || value == "false" || isJSON([]byte(value)) && json.Valid([]byte(value)) {
		v = json.RawMessage(value)
	}
	b, _ := json.Marshal(map[string]any{key: v}) // cannot fail
	return b
}

// setCommands makes the commands that the configuration names. Errors are KeyErrors.
func (d *Driver) setCommands(all map[string]Command) error {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		key, said := "commands."+name, all[name]
		if err := codec.CheckName(name); err != nil {
			return &gateway.KeyError{Key: key, Err: err}
		}
		c, known := d.profile.command(name)
		switch {
		case said.Topic != "":
			if err := publishable(said.Topic); err != nil {
				return &gateway.KeyError{Key: key + ".topic", Err: err}
			}
			c = command{topic: said.Topic, reply: name, options: c.options}
		case !known:
			return gateway.BadKey(key, "needs a topic: where the device takes the command")
		}
		if d.broker.Commands.Match(c.topic) { // or it would command itself, for ever
			return gateway.BadKey(key, "%s is where the gateway itself takes commands: the device needs a topic of its own", c.topic)
		}
		if said.Payload != "" {
			c.payload = func(value string) []byte { return []byte(strings.ReplaceAll(said.Payload, "{value}", value)) }
		}
		if said.Reply != nil {
			c.reply = *said.Reply
		}
		if said.Options != nil {
			c.options = said.Options
		}
		if said.Min != nil && said.Max != nil && *said.Min > *said.Max {
			return gateway.BadKey(key+".min", "%v is more than max, %v", *said.Min, *said.Max)
		}
		if said.Step < 0 {
			return gateway.BadKey(key+".step", "%v is less than 0", said.Step)
		}
		c.numeric = c.numeric || said.Min != nil || said.Max != nil || said.Step != 0
		c.setting = codec.Setting{Name: name, Form: codec.Text, Min: said.Min, Max: said.Max, Step: said.Step, Options: c.options}
		switch {
		case c.numeric:
			c.setting.Form = codec.Numeric
		case len(c.options) == 1:
			c.setting.Form, c.setting.Options = codec.Button, nil
		case len(c.options) == 2 && isOn(c.options[0]) && isOff(c.options[1]):
			c.setting.Form = codec.Switch
		case len(c.options) > 0:
			c.setting.Form = codec.Choice
		}
		d.commands[name] = c
	}
	return nil
}

// publishable tells whether topic can be one of a device's.
func publishable(topic string) error {
	if strings.HasPrefix(topic, "$") {
		return gateway.Errorf(gateway.ErrInvalid, "%s begins with $, which is for the gateway itself", topic)
	}
	return gateway.ValidateTopic(topic)
}

func isOn(word string) bool { return strings.EqualFold(word, "on") || strings.EqualFold(word, "true") }
func isOff(word string) bool {
	return strings.EqualFold(word, "off") || strings.EqualFold(word, "false")
}

// Settings are what Write knows, sorted by name.
func (d *Driver) Settings() (all []codec.Setting) {
	for _, name := range slices.Sorted(maps.Keys(d.commands)) {
		all = append(all, d.commands[name].setting)
	}
	return all
}

// Write publishes a command, and returns what the device publishes after that. It keeps the promises of
// devices.Writer. What it publishes is stored first, so a device with a session gets it even if it is
// away for a moment.
func (d *Driver) Write(ctx context.Context, name, value string) (reply string, err error) {
	c, known := d.commands[name]
	if !known {
		return "", gateway.Errorf(gateway.ErrInvalid, "there is no command %q; the configuration names %s", name, strings.Join(slices.Sorted(maps.Keys(d.commands)), ", "))
	}
	if value, err = c.check(value); err != nil {
		return "", err
	}
	if c.rpc != nil {
		return d.call(ctx, c.rpc, value)
	}
	payload := []byte(value)
	if c.payload != nil {
		payload = c.payload(value)
	}
	from, _ := d.broker.Next()
	if err := d.publish(ctx, c.topic, payload); err != nil || c.reply == "" {
		return "", err
	}
	last := "" // what the device said, and it was something else
	err = d.listen(ctx, from, d.filters, func(e *gateway.Event) bool {
		if slices.Contains(d.availability, e.Topic) {
			return false
		}
		readings, _ := d.decode(e)
		for _, r := range readings {
			if r.Name == c.reply {
				if reply = r.Value; sameValue(reply, value) {
					return true
				}
				last = reply
			}
		}
		return false
	})
	switch {
	case err == nil:
		return reply, nil
	case last != "":
		return last, gateway.Errorf(gateway.ErrTransient, "it was sent, and the device says %s", last)
	}
	return "", gateway.Errorf(gateway.ErrTransient, "it was sent, and the device has not said that %s is %s: %w", c.reply, value, err)
}

// check tells whether value can be sent, and returns it in the spelling of the device.
func (c command) check(value string) (string, error) {
	if c.numeric {
		n, number := codec.Number(value)
		f, err := strconv.ParseFloat(n, 64)
		switch s := c.setting; {
		case !number || err != nil:
			return "", gateway.Errorf(gateway.ErrInvalid, "%q is no number", value)
		case s.Min != nil && f < *s.Min:
			return "", gateway.Errorf(gateway.ErrInvalid, "%s is less than %v", n, *s.Min)
		case s.Max != nil && f > *s.Max:
			return "", gateway.Errorf(gateway.ErrInvalid, "%s is more than %v", n, *s.Max)
		}
		return n, nil
	}
	if c.setting.Form == codec.Button && value == "" {
		return c.options[0], nil
	}
	for _, option := range c.options {
		if strings.EqualFold(option, value) {
			return option, nil
		}
	}
	if len(c.options) > 0 {
		return "", gateway.Errorf(gateway.ErrInvalid, "%q is none of %s", value, strings.Join(c.options, ", "))
	}
	return value, nil
}

func sameValue(a, b string) bool {
	x, err := strconv.ParseFloat(a, 64)
	y, err2 := strconv.ParseFloat(b, 64)
	if err == nil && err2 == nil {
		return x == y
	}
	return strings.EqualFold(a, b)
}

// publish sends a message to the device.
func (d *Driver) publish(ctx context.Context, topic string, payload []byte) error {
	if ctx.Err() != nil { // who publishes takes an event in all the same
		return gateway.Errorf(gateway.ErrTransient, "not sent: %w", ctx.Err())
	}
	return d.broker.Publish(ctx, &gateway.Event{Topic: topic, Payload: payload, QoS: 1, Origin: gateway.Origin{Via: Via, ID: d.id}})
}

// listen calls heard for what clients publish from an offset on, until it has heard enough.
func (d *Driver) listen(ctx context.Context, from uint64, want gateway.Filters, heard func(*gateway.Event) bool) error {
	for r := d.broker.Reader(from, want, gateway.Written); ; {
		b, err := r.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range b.Events {
			if !d.broker.Own(e.Origin.Via) && heard(e) {
				return nil
			}
		}
	}
}

// calls numbers the calls of all devices: answers have the number that was sent.
var calls atomic.Uint64

// call makes an RPC and returns value if the device says that it is done.
func (d *Driver) call(ctx context.Context, c *rpc, value string) (string, error) {
	id := calls.Add(1)
	src := c.prefix + "/weir" // the answer comes to src/rpc, where an account for prefix/# may publish
	payload, err := json.Marshal(map[string]any{"id": id, "src": src, "method": c.method(value), "params": c.params(value)})
	if err != nil {
		return "", gateway.Errorf(gateway.ErrInvalid, "%w", err)
	}
	from, _ := d.broker.Next()
	if err := d.publish(ctx, c.prefix+"/rpc", payload); err != nil {
		return "", err
	}
	var answer struct {
		ID    uint64
		Error *struct {
			Code    int
			Message string
		}
	}
	err = d.listen(ctx, from, filters(src+"/rpc"), func(e *gateway.Event) bool {
		answer.Error = nil
		return json.Unmarshal(e.Payload, &answer) == nil && answer.ID == id
	})
	switch {
	case err != nil:
		return "", gateway.Errorf(gateway.ErrTransient, "it was sent, and the device has not answered on %s/rpc: is RPC over MQTT on? %w", src, err)
	case answer.Error != nil:
		return "", gateway.Errorf(gateway.ErrInvalid, "the device says %s (%d)", answer.Error.Message, answer.Error.Code)
	}
	return value, nil
}
