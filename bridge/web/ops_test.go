package web

import (
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

// bossPolicy is closedPolicy with a boss, who may do everything.
func bossPolicy(t *testing.T) *auth.Policy {
	t.Helper()
	hash, err := auth.Hash("secret")
	if err != nil {
		t.Fatal(err)
	}
	p, err := auth.New(map[string]auth.User{
		"viewer": {PasswordHash: hash, Role: "view"}, "boss": {PasswordHash: hash, Role: "all"},
	}, map[string]auth.Role{
		"view": {Subscribe: []string{"#"}},
		"all":  {Publish: []string{"#"}, Subscribe: []string{"#"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// fakeOps notes what it is asked to do.
func fakeOps(asked *[]string) Ops {
	note := func(what string, v any) {
		text, _ := json.Marshal(v)
		*asked = append(*asked, what+" "+string(text))
	}
	return Ops{
		Dead: func(uplink, route string, fn func(DeadLetter) error) error {
			note("dead", []string{uplink, route})
			for i, topic := range []string{"plant1/a", "$SYS/b"} {
				e := &gateway.Event{Topic: topic, Payload: []byte("7"), Epoch: "e1", Offset: uint64(i + 1)}
				if err := fn(DeadLetter{ID: e.ID("gw"), Uplink: "far", Route: "all", Topic: topic, Reason: "no", Event: e}); err != nil {
					return err
				}
			}
			return nil
		},
		RetryDead: func(w DeadLetters) ([]Replay, error) {
			note("retry", w)
			if w.ID == "" && w.Uplink == "" {
				return nil, gateway.Errorf(gateway.ErrInvalid, "which?")
			}
			return []Replay{{ID: "far-1"}}, nil
		},
		DropDead: func(w DeadLetters) (int, error) { note("drop", w); return 3, nil },
		Replay:   func(r ReplayRequest) (Replay, error) { note("replay", r); return Replay{ID: "far-2"}, nil },
		Replays:  func() []Replay { note("replays", nil); return nil },
		Drill: func(uplink, length string) (Drill, error) {
			note("drill", []string{uplink, length})
			return Drill{Uplink: uplink}, nil
		},
		Drills: func() ([]Drill, error) { note("drills", nil); return nil, nil },
		Trace: func(id, topic string) (Trace, error) {
			note("trace", []string{id, topic})
			return Trace{ID: id, Event: &gateway.Event{Topic: topic}}, nil
		},
		CancelReplay: func(id string) (Replay, error) { note("cancel", id); return Replay{ID: id}, nil },
		Seen: func() []Seen {
			note("seen", nil)
			return []Seen{{Client: "DVES_1", Guesses: []Guess{{"tasmota", "plug"}}}}
		},
		Adopt: func(a Adoption) (Adopted, error) {
			note("adopt", a)
			if a.Client == "" {
				return Adopted{}, gateway.Errorf(gateway.ErrInvalid, "which client?")
			}
			return Adopted{ID: a.ID, File: "devices.yaml"}, nil
		},
	}
}

func TestOps(t *testing.T) {
	var asked []string
	s := serve(t, newFakeLog("e1"), func(o *Options) { o.Auth, o.Ops = bossPolicy(t), fakeOps(&asked) })
	for _, c := range []struct {
		method, path, body string
		status             int
		did                string // what was asked of the bridge
		want               string // part of the answer
	}{
		{"GET", "/api/dead", "", 200, `dead ["",""]`, `plant1/a`},
		{"GET", "/api/dead?uplink=far&route=all", "", 200, `dead ["far","all"]`, ``},
		{"GET", "/api/dead/gw/e1-1", "", 200, `dead ["",""]`, `"event":{"id":"gw/e1-1","topic":"plant1/a"`},
		{"GET", "/api/dead/gw/e1-2", "", 404, `dead ["",""]`, `no dead letter`}, // # does not cover $SYS
		{"GET", "/api/dead/gw/e1-9", "", 404, `dead ["",""]`, `no dead letter`},
		{"POST", "/api/dead/retry", `{"id":"gw/e1-1"}`, 200, `retry {"id":"gw/e1-1"}`, `"far-1"`},
		{"POST", "/api/dead/retry", `{}`, 400, `retry {}`, `which?`},
		{"POST", "/api/dead/retry", `{"uplnk":"far"}`, 400, ``, `uplnk`},
		{"POST", "/api/dead/retry", ``, 400, ``, `body`},
		{"DELETE", "/api/dead/gw/e1-1?uplink=far", "", 200, `drop {"id":"gw/e1-1","uplink":"far"}`, `"dropped":3`},
		{"DELETE", "/api/dead?uplink=far&route=all", "", 200, `drop {"uplink":"far","route":"all"}`, `"dropped":3`},
		{"POST", "/api/replay", `{"uplink":"far","since":"2h","filters":["a/#"]}`, 200, `replay {"uplink":"far","filters":["a/#"],"since":"2h"}`, `"far-2"`},
		{"POST", "/api/replay", `{"uplink":"far","from":"2h"}`, 400, ``, `from`},
		{"GET", "/api/trace", "", 400, ``, `which event`},
		{"GET", "/api/trace?id=a&topic=b", "", 400, ``, `which event`},
		{"GET", "/api/trace?topic=plant1/a", "", 200, `trace ["","plant1/a"]`, `"topic":"plant1/a"`},
		{"GET", "/api/trace?topic=$SYS/a", "", 403, `trace ["","$SYS/a"]`, ``},
		{"GET", "/api/drill", "", 200, `drills null`, `[]`},
		{"POST", "/api/drill", `{"uplink":"far","for":"30m"}`, 200, `drill ["far","30m"]`, `"journal_seconds":null`},
		{"POST", "/api/drill", `{"uplink":"far"}`, 400, ``, `how long`},
		{"DELETE", "/api/drill?uplink=far", "", 200, `drill ["far",""]`, `"far"`},
		{"GET", "/api/replays", "", 200, `replays null`, `[]`},
		{"DELETE", "/api/replays/far-1", "", 200, `cancel "far-1"`, `"far-1"`},
		{"GET", "/api/devices/seen", "", 200, `seen null`, `"guesses":[{"profile":"tasmota","base":"plug"}]`},
		{"POST", "/api/devices/seen/adopt", `{"client":"DVES_1","id":"heater"}`, 200, `adopt {"client":"DVES_1","id":"heater"}`, `{"id":"heater","file":"devices.yaml"}`},
		{"POST", "/api/devices/seen/adopt", `{"name":"x"}`, 400, `adopt {"client":"","name":"x"}`, `which client?`},
		{"POST", "/api/devices/seen/adopt", `{"cleint":"x"}`, 400, ``, `cleint`},
	} {
		for _, who := range []string{"boss", "viewer", ""} {
			asked = nil
			header := []string{asJSON}
			if who != "" {
				header = append(header, "Authorization: "+basic(who))
			}
			resp := do(t, c.method, s.url+c.path, c.body, header...)
			raw, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			body := string(raw)
			did := strings.Join(asked, "; ")
			switch {
			case who == "boss":
				if resp.StatusCode != c.status || did != c.did || !strings.Contains(body, c.want) {
					t.Errorf("%s %s: %s, asked %q: %s", c.method, c.path, resp.Status, did, body)
				}
				if resp.StatusCode == 200 && strings.Contains(body, "$SYS") {
					t.Errorf("%s %s: shows what the account may not read: %s", c.method, c.path, body)
				}
			case resp.StatusCode != map[string]int{"viewer": 403, "": 401}[who] || did != "":
				t.Errorf("%s %s by %q: %s, asked %q", c.method, c.path, who, resp.Status, did)
			}
		}
	}
	asked = nil
	if status, _ := call(t, "POST", s.url+"/api/dead/retry", `{"uplink":"far"}`, "Content-Type: text/plain", "Authorization: "+basic("boss")); status != 415 || asked != nil {
		t.Errorf("a form may send dead letters again: %d, %q", status, asked)
	}
}
