package devices

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
)

const defaultTopic = "{site}/{device}/{measurement}"

// template makes the topic of a measurement. All but the measurement is known at start.
type template struct {
	text string // with every field but {measurement} filled in
}

// newTemplate parses text: {site}, {device}, {name}, {area} and {measurement} are filled in, and
// the rest stands as it is.
func newTemplate(text, site, device, name, area string) (template, error) {
	fields := map[string]string{"site": site, "device": device, "name": name, "area": area, "measurement": "{measurement}"}
	var out strings.Builder
	for rest := text; ; {
		before, after, open := strings.Cut(rest, "{")
		if strings.Contains(before, "}") {
			return template{}, fmt.Errorf("topic %q has a } without a {", text)
		}
		out.WriteString(before)
		if !open {
			break
		}
		field, after, closed := strings.Cut(after, "}")
		value, known := fields[field]
		switch {
		case !closed:
			return template{}, fmt.Errorf("topic %q has a { without a }", text)
		case !known:
			return template{}, fmt.Errorf("a topic has no field {%s}%s", field, config.Suggest(field, slices.Collect(maps.Keys(fields))))
		case field == "area" && area == "":
			return template{}, errors.New("the topic has {area} in it, and the device has no area")
		case (field == "name" || field == "area") && codec.CleanName(value) != value:
			return template{}, fmt.Errorf("%s %q cannot be part of a topic; %q can", field, value, codec.CleanName(value))
		}
		out.WriteString(value)
		rest = after
	}
	t := template{out.String()}
	if err := gateway.ValidateTopic(t.topic("measurement")); err != nil {
		return template{}, err
	}
	if strings.HasPrefix(t.text, "$") {
		return template{}, fmt.Errorf("topic %q begins with $, which is for the gateway itself", text)
	}
	return t, nil
}

// template fills in the defaults of name and topic, and parses it.
func (c *common) template(site, device string) (template, error) {
	if c.Name == "" {
		c.Name = device
	}
	if c.Topic == "" {
		c.Topic = defaultTopic
	}
	return newTemplate(c.Topic, site, device, c.Name, c.Area)
}

// filter matches the topics that t makes, and perhaps more.
func (t template) filter() gateway.Filter {
	levels := strings.Split(t.text, "/")
	for i, level := range levels {
		if strings.Contains(level, "{measurement}") {
			levels[i] = "+"
		}
	}
	return gateway.MustFilter(strings.Join(levels, "/")) // newTemplate has validated it
}

// statusTopic is where it stands whether a device is there: online or offline, retained.
func statusTopic(site, device string) string { return site + "/" + device + "/status" }

// setTopic is where a device's commands are published, and resultTopic where their results are.
func setTopic(site, device, name string) string { return site + "/" + device + "/" + name + "/set" }
func resultTopic(site, device, name string) string {
	return site + "/" + device + "/" + name + "/result"
}

// isCommand tells whether topic is that of a command or of a result.
func isCommand(topic, site string) bool {
	return gateway.MustFilter(setTopic(site, "+", "+")).Match(topic) || gateway.MustFilter(resultTopic(site, "+", "+")).Match(topic)
}

func (t template) topic(measurement string) string {
	return strings.ReplaceAll(t.text, "{measurement}", measurement)
}
