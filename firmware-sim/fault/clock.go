package fault

import (
	"os"
	"strings"
	"time"

	"github.com/weir-iot/weir/store"
)

// Clock is the real clock, whose wall time can be wrong: by the duration that stands in a file,
// such as -8760h. It is then said to be trusted, which is the worse lie.
type Clock struct {
	store.OSClock
	File string // one that is not there changes nothing
}

// Wall is part of store.Clock.
func (c *Clock) Wall() (time.Time, bool) {
	now, trusted := c.OSClock.Wall()
	text, err := os.ReadFile(c.File)
	if err != nil {
		return now, trusted
	}
	off, err := time.ParseDuration(strings.TrimSpace(string(text)))
	return now.Add(off), err == nil
}
