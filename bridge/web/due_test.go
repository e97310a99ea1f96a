package web

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// What a route is done with is told of the topics that the account may read; what was asked wrongly is a 400.
func TestDue(t *testing.T) {
	s := serve(t, newFakeLog("e1"), func(o *Options) {
		o.Auth = closedPolicy(t)
		o.Due = func(uplink, route string, from uint64) (Due, error) {
			if uplink != "cloud" || route != "all" {
				return noDue(uplink, route, from)
			}
			return Due{Oldest: 3, Next: from + 2, Events: []DueEvent{{"gw/e1-5", "plant1/a", ""}, {"gw/e1-6", "secret/b", "a dead letter"}}}, nil
		}
	})
	ask := func(query, user string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/api/due?"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		if user != "" {
			req.Header.Set("Authorization", basic(user))
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	code, body := ask("uplink=cloud&route=all&from=5", "viewer")
	var d Due
	if err := json.Unmarshal([]byte(body), &d); err != nil || code != http.StatusOK || d.Oldest != 3 || d.Next != 7 {
		t.Errorf("%d %v: %s", code, err, body)
	}
	if len(d.Events) != 1 || d.Events[0].Topic != "plant1/a" {
		t.Errorf("who may read plant1/# is told of %v", d.Events)
	}
	for query, says := range map[string]string{
		"uplink=cloud&route=none":                      "no route",
		"uplink=cloud&route=all&from=x":                "not an offset",
		"uplink=cloud&route=all&from=9007199254740993": "not an offset",
	} {
		if code, body := ask(query, "viewer"); code != http.StatusBadRequest || !strings.Contains(body, says) {
			t.Errorf("%s: %d %s", query, code, body)
		}
	}
	if code, _ := ask("uplink=cloud&route=all", ""); code != http.StatusUnauthorized {
		t.Errorf("nobody is answered %d", code)
	}
	none := serve(t, newFakeLog("e1"))
	resp, err := http.Get(none.url + "/api/due?uplink=cloud&route=all")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("without routes: %s", resp.Status)
	}
}
