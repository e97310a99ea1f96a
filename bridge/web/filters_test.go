package web

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/weir-iot/weir/gateway"
)

func TestURLFilters(t *testing.T) {
	for _, c := range []struct{ query, want string }{
		{"topic=plant1/%23", "plant1/#"},
		{"topic=%23", "#"},
		{"topic=%2B/a/%2B", "+/a/+"},
		{"topic=+/a/+", "+/a/+"},
		{"topic=+", "+"},
		{"topic=a/%20/b", "a/+/b"},
		{"topic=my+room/a", "my room/a"},
		{"topic=a&topic=b/c", "a b/c"},
		{"topic=plant1/", "error %23"},
		{"topic=", "error %23"},
		{"topic=a&topic=", "error %23"},
		{"topic=a//", "error %23"},
		{"topic=a%23", "error mixes"},
		{"topic=%23/a", "error last level"},
		{"topic=a%00", "error NUL"},
		{"", "error ?topic=FILTER"},
		{"topic=a&topic=b&topic=c&topic=d", "error more than 3"},
	} {
		query, err := url.ParseQuery(c.query)
		if err != nil {
			t.Fatal(err)
		}
		filters, err := urlFilters(query, 3)
		var got []string
		for _, f := range filters {
			got = append(got, f.String())
		}
		if want, bad := strings.CutPrefix(c.want, "error "); bad {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %q, %v, want an error with %q", c.query, got, err, want)
			}
		} else if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %q, %v, want %q", c.query, got, err, c.want)
		}
	}
}

// A browser drops the fragment and net/url does the same: the request that arrives is
// told what became of its #.
func TestHashInURLIsExplained(t *testing.T) {
	s := serve(t, newFakeLog("e1"))
	resp := get(t, s.url+"/events?topic=plant1/#")
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 400 || resp.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(string(body), "?topic=plant1%2F%23") {
		t.Fatalf("%s %s", resp.Status, body)
	}
}

func FuzzURLFilters(f *testing.F) {
	f.Add("topic=+/a/%23")
	f.Fuzz(func(t *testing.T, raw string) {
		r := httptest.NewRequest(http.MethodGet, "/events", nil)
		r.URL.RawQuery = raw
		filters, err := urlFilters(r.URL.Query(), 8)
		if err != nil {
			return
		}
		for _, filter := range filters {
			if _, err := gateway.ParseFilter(filter.String()); err != nil || strings.HasSuffix(filter.String(), "/") {
				t.Fatalf("%q gave %q: %v", raw, filter, err)
			}
		}
	})
}
