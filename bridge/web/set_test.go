package web

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// A command by HTTP is a publish under the policy, and its answer is the result that the gateway says.
func TestSet(t *testing.T) {
	l := newFakeLog("e1")
	var published *gateway.Event
	s := serve(t, l, func(o *Options) {
		o.Auth = closedPolicy(t)
		o.Target = func(device, name, timeout string) (Target, error) {
			long, _ := time.ParseDuration(timeout)
			if device != "valve" {
				return Target{}, gateway.Errorf(gateway.ErrInvalid, "there is no device %q", device)
			}
			return Target{"plant1/sensor/" + name + "/set", "plant1/sensor/" + name + "/result", cmp.Or(long, time.Minute)}, nil
		}
		o.Ingest = func(ctx context.Context, e *gateway.Event) error {
			err := l.ingest(ctx, e)
			if published = e; err == nil {
				answer := func(via, id, text string) {
					l.add(&gateway.Event{Topic: "plant1/sensor/level/result", Payload: fmt.Appendf(nil, `{"id":%q,"reply":%q}`, id, text), Origin: gateway.Origin{Via: via}})
				}
				answer("mqtt", e.ID("gw"), "a lie")
				answer(gateway.ViaWeir, "gw/e1-99999", "another's")
				answer(gateway.ViaWeir, e.ID("gw"), "done")
			}
			return err
		}
	})
	set := func(user, device, body string) string {
		req, _ := http.NewRequest(http.MethodPost, s.url+"/api/devices/"+device+"/set", strings.NewReader(body))
		req.Header.Set("Authorization", basic(user))
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.Status + " " + string(b)
	}
	for _, c := range []struct{ user, device, body, want, payload string }{
		{"sensor", "valve", `{"name":"level","value":"open"}`, `"reply":"done"`, "open"},
		{"sensor", "valve", `{"name":"level","value":2.50,"timeout":"5s"}`, `"reply":"done"`, "2.50"},
		{"sensor", "valve", `{"name":"level","value":true}`, `"reply":"done"`, "true"},
		{"sensor", "valve", `{"name":"level"}`, `"reply":"done"`, ""},
		{"sensor", "valve", `{"name":"level","value":[1]}`, `400 Bad Request`, "-"},
		{"sensor", "valve", `{"name":"level","timeout":"1h"}`, `timeout: \"1h\" is not more than 0 and up to 10m0s`, "-"},
		{"sensor", "vavle", `{"name":"level"}`, `there is no device`, "-"},
		{"viewer", "valve", `{"name":"level"}`, `403 Forbidden`, "-"},
	} {
		published = nil
		if got := set(c.user, c.device, c.body); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %s", c.body, got, c.want)
		}
		switch {
		case published == nil:
			if c.payload != "-" {
				t.Errorf("%s: nothing published", c.body)
			}
		case string(published.Payload) != c.payload || published.Retain || published.Origin != (gateway.Origin{Via: "http", User: "sensor"}) ||
			published.Expiry != map[bool]time.Duration{false: time.Minute, true: 5 * time.Second}[strings.Contains(c.body, "5s")]:
			t.Errorf("%s: published %+v", c.body, published)
		}
	}
}
