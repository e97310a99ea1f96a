package webhook

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// maxPause bounds what a far end may ask for with Retry-After.
const maxPause = time.Hour

// meaning is what an answer says about the events of a request.
type meaning int

const (
	accepted meaning = iota
	poison           // these events will never be taken
	again            // not this time
	gone             // nothing ever, please
)

// judge tells what a status means (RFC 9110 §15), and why, in words that go behind it. For 400, 413
// and 422 it is what the request says that is wrong. 401, 403 and 404 are not poison: they
// come of a secret, a URL or a far end that is not set up as it should be, they would hit
// every event alike, and the next one to be taken after the cure has to be this one.
func judge(status int, h http.Header) (meaning, string) {
	switch status {
	case http.StatusGone: // Standard Webhooks, "Delivery success and failure"
		return gone, "it wants no more requests; none is sent until weir starts again or the uplink's config changes"
	case http.StatusRequestEntityTooLarge:
		if h.Get("Retry-After") != "" { // then it is for now only (§15.5.14)
			return again, ""
		}
		return poison, ""
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return poison, ""
	case http.StatusUnauthorized, http.StatusForbidden:
		return again, "check the uplink's headers and secrets"
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return again, "check the uplink's url and method"
	case http.StatusUnsupportedMediaType:
		return again, "check the uplink's format, Content-Type and compression"
	}
	switch status / 100 {
	case 2:
		return accepted, ""
	case 3:
		return again, "redirects are not followed; put the new address into the uplink's url"
	}
	return again, ""
}

// retryAfter is how long the far end wants to have no request (RFC 9110 §10.2.3). A date counts from
// the answer's own, because the clock here may be wrong.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := h.Get("Retry-After")
	wait := time.Duration(0)
	if n, err := strconv.ParseUint(value, 10, 64); err == nil {
		wait = maxPause
		if n < uint64(maxPause/time.Second) {
			wait = time.Duration(n) * time.Second
		}
	} else if until, err := http.ParseTime(value); err == nil {
		if date, err := http.ParseTime(h.Get("Date")); err == nil {
			now = date
		}
		wait = until.Sub(now)
	}
	return min(max(wait, 0), maxPause)
}

// answerError says what a far end answers that does not accept. Wait is how long it has asked to be left alone.
func answerError(status int, line, advice string, wait time.Duration) error {
	text := "the far end answers " + strings.TrimSpace(strconv.Itoa(status)+" "+http.StatusText(status))
	if line != "" {
		text += ": " + line
	}
	if advice != "" {
		text += " (" + advice + ")"
	}
	if wait > 0 {
		text += fmt.Sprintf("; no request for %v, as it asks", wait)
	}
	return errors.New(text)
}

// refrain is bridge.Refrain: the far end wants no request until then, or none ever.
type refrain struct {
	error
	until time.Time
}

func (r refrain) Until() time.Time { return r.until }

// firstLine is the first line of an answer that says something, for people: at most 200 characters, none
// that a terminal could act upon. A page for browsers says nothing.
func firstLine(body io.Reader) string {
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		line := strings.TrimSpace(strings.Map(func(r rune) rune {
			if !unicode.IsPrint(r) {
				return -1
			}
			return r
		}, lines.Text()))
		switch {
		case line == "":
			continue
		case strings.HasPrefix(line, "<"):
			return ""
		}
		if r := []rune(line); len(r) > 200 {
			line = string(r[:200]) + "…"
		}
		return line
	}
	return ""
}
