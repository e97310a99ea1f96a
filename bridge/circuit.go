package bridge

import (
	"errors"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// LinkState is how the connection to an uplink's far end does.
type LinkState string

const (
	LinkStopped    LinkState = "stopped"    // it is not started, or at its end
	LinkConnecting LinkState = "connecting" // an attempt is under way
	LinkUp         LinkState = "up"         // the far end takes events
	LinkBackoff    LinkState = "backoff"    // an attempt has failed, or the connection was lost; the next attempt comes after a pause
	LinkThrottled  LinkState = "throttled"  // the far end is there, and takes nothing for now
	LinkDisabled   LinkState = "disabled"   // the far end has asked for nothing ever again; a restart or another config tries again
	LinkDrill      LinkState = "drill"      // somebody rehearses an outage
)

// Circuit is the state of an uplink and what led to it. Of several lanes it is the first one that is not up, or else the first.
type Circuit struct {
	State LinkState
	// Failures are the attempts in a row that failed, or whose connections ended before the far end had taken
	// something or they had lasted for the longest pause.
	Failures    int
	NextAttempt time.Time // zero if one is under way, or there will be none
	LastError   string    // of the last failure, also when it is over
	LastFailed  time.Time // zero if there was none since the process started
}

// Refrain is an error of a Sink whose far end wants to be left alone. An error that only says that the far end
// takes nothing for now is gateway.ErrFull.
type Refrain interface {
	error
	// Until is when the next connection may be made. The zero time is never, in this process.
	Until() time.Time
}

// never is far enough away.
const never = 100 * 365 * 24 * time.Hour

// failed books why a connection was not made, or has ended, and returns when the next attempt may be. The
// caller holds the pump's mu.
func (c *Circuit) failed(err error, now time.Time, pause time.Duration) (next time.Time) {
	c.State, c.Failures, c.LastError, c.LastFailed = LinkBackoff, c.Failures+1, err.Error(), now
	next = now.Add(pause)
	var refrain Refrain
	if errors.As(err, &refrain) {
		until := refrain.Until()
		if until.IsZero() {
			c.State, c.NextAttempt = LinkDisabled, time.Time{}
			return now.Add(never)
		}
		if until.After(next) {
			next = until
		}
		c.State = LinkThrottled
	}
	if errors.Is(err, gateway.ErrFull) {
		c.State = LinkThrottled
	}
	c.NextAttempt = next
	return next
}

// attempt begins one. What was throttled counts as that until it is known that it is not any more: a far end may
// take a connection and still nothing on it.
func (c *Circuit) attempt() {
	c.NextAttempt = time.Time{}
	if c.State != LinkThrottled {
		c.State = LinkConnecting
	}
}
