package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/template"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Fields are what a body template can use, as {{.Topic}}. Its functions, besides those of
// text/template, are json, which writes any value as JSON, replace OLD NEW TEXT, and for InfluxDB's
// line protocol tag and field, which write a tag value and a field value.
type Fields struct {
	ID          string
	Topic       string
	Payload     string // the bytes as text
	Time        Moment // when the device measured, if it says so; else when accepted
	Accepted    Moment
	Device      string
	Quality     string // good, uncertain or bad
	ContentType string
	QoS         byte
	Retain      bool
}

// Moment is a time that prints as RFC 3339 in UTC. {{.Time.Unix}} and the other methods of
// time.Time work too.
type Moment struct{ time.Time }

func (m Moment) String() string { return m.UTC().Format(time.RFC3339Nano) }

func newFields(e *gateway.Event, gatewayID string) *Fields {
	measured := e.Accepted
	if !e.Source.IsZero() {
		measured = e.Source
	}
	return &Fields{
		ID: e.ID(gatewayID), Topic: e.Topic, Payload: string(e.Payload), Time: Moment{measured}, Accepted: Moment{e.Accepted},
		Device: e.Origin.ID, Quality: e.Quality.String(), ContentType: e.ContentType, QoS: e.QoS, Retain: e.Retain,
	}
}

// UnixNano is Time in nanoseconds since 1970.
func (f *Fields) UnixNano() int64 { return f.Time.UnixNano() }

// Level is the n-th level of the topic, counted from 1, or from the end with -1.
func (f *Fields) Level(n int) (string, error) {
	levels := strings.Split(f.Topic, "/")
	i := n - 1
	if n < 0 {
		i = len(levels) + n
	}
	if n == 0 || i < 0 || i >= len(levels) {
		return "", fmt.Errorf("topic %q has no level %d", f.Topic, n)
	}
	return levels[i], nil
}

// Value is the payload as JSON: {{.Value.temperature}}. Numbers keep their digits.
func (f *Fields) Value() (any, error) {
	d := json.NewDecoder(strings.NewReader(f.Payload))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, errors.New("the payload is not JSON")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("the payload is more than one JSON value")
	}
	return v, nil
}

var functions = template.FuncMap{
	"json": toJSON, "tag": tag, "field": field,
	"replace": func(before, after string, v any) string { return strings.ReplaceAll(fmt.Sprint(v), before, after) },
}

func toJSON(v any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return strings.TrimSuffix(b.String(), "\n"), err
}

// tagEscapes are those of a measurement, a tag key, a tag value and a field key. Line protocol has
// no escape for a line end.
var tagEscapes = strings.NewReplacer(",", `\,`, "=", `\=`, " ", `\ `, "\n", `\ `, "\r", `\ `)

// tag writes v as a tag value of line protocol. A backslash at the end would escape what follows.
func tag(v any) (string, error) {
	s := strings.TrimRight(tagEscapes.Replace(fmt.Sprint(v)), `\ `)
	if s == "" {
		return "", errors.New("a tag cannot be empty")
	}
	return s, nil
}

// field writes v as a field value of line protocol: a number or true or false as it is, anything
// else as text in quotes.
func field(v any) string {
	s := strings.TrimSpace(fmt.Sprint(v))
	var plain any
	if json.Unmarshal([]byte(s), &plain) == nil { // JSON's numbers are floats of line protocol too
		switch plain.(type) {
		case float64, bool:
			return s
		}
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(fmt.Sprint(v)) + `"`
}

// parseBody reads the template, and tries it on an event, because that is how unknown fields
// are found. What only that event's payload lacks is no mistake.
func parseBody(text, gatewayID string) (*template.Template, error) {
	t, err := template.New("body").Option("missingkey=error").Funcs(functions).Parse(text)
	if err != nil {
		return nil, err
	}
	sample := newFields(&gateway.Event{Topic: "a/b/c", Payload: []byte("{}"), Epoch: "e", Accepted: time.Unix(0, 0)}, gatewayID)
	if err := t.Execute(io.Discard, sample); err != nil && strings.Contains(err.Error(), "in type *webhook.Fields") {
		return nil, err
	}
	return t, nil
}
