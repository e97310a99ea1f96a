package serial

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/serial/port"
	"github.com/weir-iot/weir/gateway"
)

// Command is something that can be sent to the device, as it stands in the configuration. One of Write and
// Hex says what; {value} in it is what is to be set.
type Command struct {
	Write string `yaml:"write"` // text, which the device's framing goes around
	Hex   string `yaml:"hex"`   // bytes in hexadecimal, which are sent as they are
	// Values are what may be set, and what is sent for each in place of {value}.
	Values map[string]string `yaml:"values"`
	// Min and Max bound a number.
	Min *float64 `yaml:"min"`
	Max *float64 `yaml:"max"`
	// Reply is a regular expression that a frame matches which answers the command. Its first group, or else
	// all that matches, is the reply. Without it the command is done when it is sent.
	Reply   string        `yaml:"reply"`
	Timeout time.Duration `yaml:"timeout"` // for the reply; default 1 s
}

const (
	defaultTimeout = time.Second
	placeholder    = "{value}"
)

// command is a Command, ready to be sent.
type command struct {
	Command
	setting codec.Setting
	reply   *regexp.Regexp
}

// newCommand checks c. Keys of its errors are relative to the command.
func newCommand(name string, c Command, bytes *codec.Codec) (*command, error) {
	cmd := &command{Command: c, setting: codec.Setting{Name: name, Form: codec.Text, Min: c.Min, Max: c.Max}}
	text := c.Write + c.Hex
	takes := strings.Contains(text, placeholder)
	number := c.Min != nil || c.Max != nil
	switch err := codec.CheckName(name); {
	case err != nil:
		return nil, err
	case (c.Write == "") == (c.Hex == ""):
		return nil, gateway.BadKey("write", "a command has either write, text, or hex, bytes in hexadecimal")
	case c.Values != nil && !takes:
		return nil, gateway.BadKey("values", "there is no {value} for them to stand in")
	case number && (!takes || c.Values != nil):
		return nil, gateway.BadKey("min", "min and max bound a {value} that is a number")
	case c.Hex != "" && takes && c.Values == nil:
		return nil, gateway.BadKey("values", "missing; they say in hexadecimal what is sent for each value")
	case c.Timeout < 0:
		return nil, gateway.BadKey("timeout", "%v is less than 0", c.Timeout)
	case c.Timeout != 0 && c.Reply == "":
		return nil, gateway.BadKey("timeout", "is for the reply, and there is none")
	}
	if c.Timeout == 0 {
		cmd.Timeout = defaultTimeout
	}
	if c.Reply != "" {
		var err error
		if cmd.reply, err = regexp.Compile(c.Reply); err != nil {
			return nil, &gateway.KeyError{Key: "reply", Err: err}
		}
	}
	options := slices.Sorted(maps.Keys(c.Values))
	switch {
	case !takes:
		cmd.setting.Form = codec.Button
	case slices.Equal(options, []string{"off", "on"}), slices.Equal(options, []string{"OFF", "ON"}), slices.Equal(options, []string{"false", "true"}):
		cmd.setting.Form, cmd.setting.Options = codec.Switch, []string{options[1], options[0]}
	case options != nil:
		cmd.setting.Form, cmd.setting.Options = codec.Choice, options
	case number || bytes.Unit(name) != "":
		cmd.setting.Form = codec.Numeric
	}
	// What can be sent at all is known now.
	try := options
	if try == nil {
		try = []string{"1"}
	}
	for _, value := range try {
		if _, err := cmd.fill(value, bytes); err != nil {
			return nil, err
		}
	}
	return cmd, nil
}

// wire is what is sent to set value. The error is gateway.ErrInvalid.
func (c *command) wire(value string, bytes *codec.Codec) ([]byte, error) {
	invalid := func(format string, args ...any) ([]byte, error) {
		return nil, gateway.Errorf(gateway.ErrInvalid, c.setting.Name+": "+format, args...)
	}
	switch c.setting.Form {
	case codec.Button: // whoever presses it may send anything: PRESS, or nothing
	case codec.Switch, codec.Choice:
		if _, known := c.Values[value]; !known {
			return invalid("%q is none of %s", value, strings.Join(c.setting.Options, ", "))
		}
	case codec.Numeric:
		text, ok := codec.Number(value)
		n, err := strconv.ParseFloat(text, 64)
		if !ok || err != nil {
			return invalid("%q is not a number", value)
		}
		if c.Min != nil && n < *c.Min || c.Max != nil && n > *c.Max {
			return invalid("%s is out of bounds", value)
		}
	default:
		// One value is one command.
		if strings.ContainsFunc(value, unicode.IsControl) {
			return invalid("%q has a control character in it", value)
		}
	}
	wire, err := c.fill(value, bytes)
	if err != nil {
		return invalid("%w", err)
	}
	return wire, nil
}

// fill puts value in its place.
func (c *command) fill(value string, bytes *codec.Codec) ([]byte, error) {
	if c.Values != nil {
		value = c.Values[value]
	}
	if c.Hex == "" {
		return bytes.Wrap([]byte(strings.ReplaceAll(c.Write, placeholder, value)))
	}
	text := strings.ReplaceAll(c.Hex, placeholder, value)
	wire, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		return nil, gateway.BadKey("hex", "%q is not bytes in hexadecimal", text)
	}
	return wire, nil
}

// Settings are the commands.
func (d *Driver) Settings() (all []codec.Setting) {
	for _, name := range slices.Sorted(maps.Keys(d.commands)) {
		all = append(all, d.commands[name].setting)
	}
	return all
}

// line is the port while it is open.
type line struct {
	*port.Line
	closed chan struct{}
}

// waiting is a command that waits for its reply.
type waiting struct {
	reply  *regexp.Regexp
	answer chan string // has room for one
}

// Write sends a command, after those before it, and waits for the reply if there is to be one. It keeps the
// promises of devices.Writer: readings flow on meanwhile, and a port that takes nothing holds nobody up.
func (d *Driver) Write(ctx context.Context, name, value string) (string, error) {
	c := d.commands[name]
	if c == nil {
		return "", gateway.Errorf(gateway.ErrInvalid, "there is no command %q", name)
	}
	wire, err := c.wire(value, d.codec)
	if err != nil {
		return "", err
	}
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return "", gateway.Errorf(gateway.ErrTransient, "not sent: %w", ctx.Err())
	}
	l := d.open.Load()
	if l == nil || ctx.Err() != nil {
		return "", gateway.Errorf(gateway.ErrTransient, "port %s is not open", d.port)
	}
	w := &waiting{c.reply, make(chan string, 1)}
	if c.reply != nil {
		d.waiting.Store(w)
		defer d.waiting.Store(nil)
	}
	if d.partial {
		wire = append(d.codec.Resume(), wire...)
	}
	d.Tell(true, wire)
	err = l.Send(ctx, wire)
	if d.partial = err != nil; d.partial {
		return "", gateway.Errorf(gateway.ErrTransient, "port %s: %w", d.port, err)
	}
	if c.reply == nil {
		return "", nil
	}
	late := time.NewTimer(c.Timeout)
	defer late.Stop()
	select {
	case answer := <-w.answer:
		return answer, nil
	case <-late.C:
		return "", fmt.Errorf("sent, and no reply within %v", c.Timeout)
	case <-l.closed:
		return "", errors.New("sent, and the port was closed before the reply")
	case <-ctx.Done():
		return "", fmt.Errorf("sent, and no reply yet: %w", ctx.Err())
	}
}

// answers tells whether a frame is the reply that is waited for.
func (d *Driver) answers(frame []byte) bool {
	w := d.waiting.Load()
	if w == nil {
		return false
	}
	m := w.reply.FindSubmatch(bytes.TrimRight(frame, "\r\n"))
	if m == nil || !d.waiting.CompareAndSwap(w, nil) {
		return false
	}
	answer := m[0]
	if len(m) > 1 {
		answer = m[1]
	}
	if utf8.Valid(answer) {
		w.answer <- string(answer)
	} else {
		w.answer <- hex.EncodeToString(answer)
	}
	return true
}
