package webhook

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestRetryAfterValues(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		value, date string
		want        time.Duration
	}{
		{"", "", 0},
		{"0", "", 0},
		{"7", "", 7 * time.Second},
		{"86400", "", time.Hour},
		{"99999999999999999999999", "", 0}, // not a number of seconds that there are
		{"18446744073709551615", "", time.Hour},
		{"-5", "", 0},
		{"soon", "", 0},
		{"Mon, 23 Nov 2026 12:00:30 GMT", "", 30 * time.Second},
		{"Mon, 23 Nov 2026 11:00:00 GMT", "", 0},
		{"Tue, 24 Nov 2026 12:00:00 GMT", "", time.Hour},
		// The far end's clock counts: here it is a year ahead.
		{"Tue, 23 Nov 2027 12:00:20 GMT", "Tue, 23 Nov 2027 12:00:00 GMT", 20 * time.Second},
		{"Monday, 23-Nov-26 12:00:30 GMT", "", 30 * time.Second}, // RFC 850, as old servers write it
	} {
		h := http.Header{"Retry-After": {c.value}}
		if c.date != "" {
			h.Set("Date", c.date)
		}
		if got := retryAfter(h, now); got != c.want {
			t.Errorf("%q at %q: %v, not %v", c.value, c.date, got, c.want)
		}
	}
}

func TestFirstLine(t *testing.T) {
	for body, want := range map[string]string{
		"":                               "",
		"no such bucket\nmore":           "no such bucket",
		"\r\n\n  {\"code\":\"invalid\"}": `{"code":"invalid"}`,
		"<!doctype html>\n<h1>Oops</h1>": "",
		"bell \a and \x1b[31mred":        "bell  and [31mred",
		strings.Repeat("é", 300):         strings.Repeat("é", 200) + "…",
		strings.Repeat("x", 100<<10):     "", // a line beyond all measure
	} {
		if got := firstLine(strings.NewReader(body)); got != want {
			t.Errorf("%.40q: %q, not %q", body, got, want)
		}
	}
}
