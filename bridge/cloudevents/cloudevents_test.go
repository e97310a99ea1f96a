package cloudevents_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/bridge/cloudevents"
	"github.com/weir-iot/weir/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var accepted = time.Date(2026, 11, 23, 12, 0, 0, 5e6, time.FixedZone("", 3600))

func TestGolden(t *testing.T) {
	const head = `{"specversion":"1.0","id":"gw/e1-7","source":"/weir/gw","type":"io.weir.event","subject":`
	for _, c := range []struct {
		e    gateway.Event
		want string
	}{
		{gateway.Event{Topic: "a/b", Payload: []byte(`{"t": 21.50, "u":"<°C>"}`)},
			head + `"a/b","time":"2026-11-23T11:00:00.005Z","datacontenttype":"application/json","data":{"t":21.50,"u":"<°C>"}}`},
		{gateway.Event{Topic: "a/b", Payload: []byte(`{"x":1}`), ContentType: "application/senml+json; v=1"},
			head + `"a/b","time":"2026-11-23T11:00:00.005Z","datacontenttype":"application/senml+json; v=1","data":{"x":1}}`},
		{gateway.Event{Topic: "a", Payload: []byte(`21.50`), ContentType: "text/csv"}, // it says what it is
			head + `"a","time":"2026-11-23T11:00:00.005Z","datacontenttype":"text/csv","data":"21.50"}`},
		{gateway.Event{Topic: "a", Payload: []byte("on & off\n")},
			head + `"a","time":"2026-11-23T11:00:00.005Z","datacontenttype":"text/plain","data":"on & off\n"}`},
		{gateway.Event{Topic: "a", Payload: []byte("{broken"), ContentType: "application/json"},
			head + `"a","time":"2026-11-23T11:00:00.005Z","datacontenttype":"text/plain","data":"{broken"}`},
		{gateway.Event{Topic: "a", Payload: []byte{0xff, 0}},
			head + `"a","time":"2026-11-23T11:00:00.005Z","datacontenttype":"application/octet-stream","data_base64":"/wA="}`},
		{gateway.Event{Topic: "a", Payload: []byte{0xff}, ContentType: "image/png"},
			head + `"a","time":"2026-11-23T11:00:00.005Z","datacontenttype":"image/png","data_base64":"/w=="}`},
		{gateway.Event{Topic: "a", ContentType: "not a type"},
			head + `"a","time":"2026-11-23T11:00:00.005Z","datacontenttype":"text/plain","data":""}`},
		{gateway.Event{Topic: "a\x01b", Payload: []byte("1"), Source: accepted.Add(-time.Hour), Quality: gateway.Uncertain, Origin: gateway.Origin{ID: "oven\n"}},
			head + `"a�b","time":"2026-11-23T10:00:00.005Z","datacontenttype":"application/json","weirdevice":"oven�","weirquality":"uncertain","data":1}`},
	} {
		c.e.Epoch, c.e.Offset, c.e.Accepted = "e1", 7, accepted
		got, err := cloudevents.Encode(&c.e, "gw")
		if err != nil || string(got) != c.want {
			t.Errorf("%v, got\n%s, not\n%s", err, got, c.want)
		}
		if err := check(got, &c.e); err != nil {
			t.Errorf("%s: %v", got, err)
		}
	}
	if _, err := cloudevents.Encode(&gateway.Event{Topic: "a", Accepted: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}, "gw"); !errors.Is(err, gateway.ErrInvalid) {
		t.Errorf("the year 10000: %v", err)
	}
}

var attribute = regexp.MustCompile(`^[a-z0-9]{1,20}$`)

// check reads text as a consumer that knows only the specification (CloudEvents 1.0.2 §3, and the
// JSON Event Format) and compares what it carries with e.
func check(text []byte, e *gateway.Event) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	attr := map[string]string{}
	for name, raw := range all {
		if name == "data" || name == "data_base64" {
			continue
		}
		if !attribute.MatchString(name) {
			return fmt.Errorf("attribute name %q", name)
		}
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return fmt.Errorf("%s is no string: %w", name, err)
		}
		for _, r := range s {
			if unicode.IsControl(r) || r&0xFFFE == 0xFFFE || r >= 0xFDD0 && r <= 0xFDEF {
				return fmt.Errorf("%s has the character %U", name, r)
			}
		}
		attr[name] = s
	}
	for _, name := range []string{"id", "source", "specversion", "type", "subject", "time", "datacontenttype"} {
		if attr[name] == "" {
			return fmt.Errorf("no %s", name)
		}
	}
	if _, err := url.Parse(attr["source"]); err != nil {
		return err
	}
	if attr["specversion"] != "1.0" {
		return fmt.Errorf("specversion %q", attr["specversion"])
	}
	if _, err := time.Parse(time.RFC3339, attr["time"]); err != nil {
		return err
	}
	kind, _, err := mime.ParseMediaType(attr["datacontenttype"])
	if err != nil || !strings.Contains(kind, "/") {
		return fmt.Errorf("datacontenttype %q: %w", attr["datacontenttype"], err)
	}
	data, hasData := all["data"]
	b64, hasBase64 := all["data_base64"]
	switch {
	case hasData == hasBase64:
		return errors.New("data and data_base64: one of the two")
	case hasBase64:
		var got []byte
		if err := json.Unmarshal(b64, &got); err != nil || !bytes.Equal(got, e.Payload) {
			return fmt.Errorf("data_base64 is %q: %w", got, err)
		}
	case strings.HasSuffix(kind, "/json") || strings.HasSuffix(kind, "+json"):
		var want bytes.Buffer
		if err := json.Compact(&want, e.Payload); err != nil || !bytes.Equal(data, want.Bytes()) {
			return fmt.Errorf("data is %s: %w", data, err)
		}
	default:
		var got string
		if err := json.Unmarshal(data, &got); err != nil || got != string(e.Payload) {
			return fmt.Errorf("data is %q: %w", got, err)
		}
	}
	if utf8.ValidString(e.Topic) && !strings.ContainsFunc(e.Topic, unicode.IsControl) && attr["subject"] != e.Topic && !strings.ContainsRune(attr["subject"], utf8.RuneError) {
		return fmt.Errorf("subject %q", attr["subject"])
	}
	return nil
}

func FuzzEncode(f *testing.F) {
	f.Add("a/b", []byte(`{"a":"<&>"}`), "application/json", "dev", int64(0))
	f.Add("a", []byte("text"), "text/plain; charset=utf-8", "", int64(1e18))
	f.Add("a\x7f\ufdd0", []byte{0xff, 0xfe}, "image/png", "\x00", int64(-1e9))
	f.Add("a", []byte("\"\xe2\x80\xa8\""), "Application/X+JSON", "d", int64(5))
	f.Fuzz(func(t *testing.T, topic string, payload []byte, contentType, device string, nano int64) {
		if topic == "" {
			return
		}
		e := &gateway.Event{
			Topic: topic, Payload: payload, ContentType: contentType, Origin: gateway.Origin{ID: device},
			Accepted: time.Unix(0, nano), Epoch: "e1", Offset: 1,
		}
		got, err := cloudevents.Encode(e, "gw")
		if err != nil {
			t.Fatal(err)
		}
		if err := check(got, e); err != nil {
			t.Errorf("%s: %v", got, err)
		}
	})
}
