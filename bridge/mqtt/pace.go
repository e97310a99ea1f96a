package mqtt

import "time"

// pace spreads publishes over time, for a far end that discards what comes faster.
type pace struct {
	every time.Duration // 0: as fast as they come
	next  time.Time
}

// lag is how far behind its time a publish may go, because timers are late.
const lag = 10 * time.Millisecond

// wait is how long the next publish has to wait at now.
func (p *pace) wait(now time.Time) time.Duration {
	if p.every == 0 {
		return 0
	}
	return max(0, p.next.Sub(now))
}

// took counts a publish.
func (p *pace) took(now time.Time) {
	if floor := now.Add(-lag); p.next.Before(floor) {
		p.next = floor
	}
	p.next = p.next.Add(p.every)
}
