package bridge

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/config"
)

// Room is what there is to wait in, in bytes, as the store says.
type Room struct {
	Journal      int64  // what the journal takes now
	JournalKeeps int64  // at which it lets go of its oldest segment
	Oldest, Next uint64 // the offsets that it has: Oldest <= offset < Next
	MaxAge       time.Duration
	Disk         int64 // free beyond what has to stay free; the reservoir lives on it, too
}

// Forever is how long something lasts that nothing uses up.
const Forever = time.Duration(math.MaxInt64)

// Outlook is how long an uplink could be away, from now on, if events come as in the last minutes. All of
// it is an estimate.
type Outlook struct {
	Uplink  string
	Rate    float64       // bytes accepted in a second, of all topics
	Journal time.Duration // until the first of what waits has to leave the journal for the reservoir
	Routes  []RouteOutlook
}

// RouteOutlook is one route's part.
type RouteOutlook struct {
	Route string
	Rate  float64       // bytes in a second
	Lasts time.Duration // until something that waits is lost, or refused
	Limit string        // what ends it: "ttl", "max_size" or "disk"; empty if nothing does
	Then  string        // what happens then
}

// Outlook estimates how long an uplink could be away, with what waits for it already.
func (b *Bridge) Outlook(uplink string, room Room) (Outlook, error) {
	p := b.Pump(uplink)
	if p == nil {
		return Outlook{}, gateway.Errorf(gateway.ErrInvalid, "there is no uplink %q", uplink)
	}
	l := b.ledger
	l.mu.Lock()
	all, each := l.meter.rates(time.Now(), len(l.routes))
	l.mu.Unlock()

	o := Outlook{Uplink: uplink, Rate: all}
	done, sum := room.Next, 0.0
	var routes []routeRoom
	for _, s := range p.routes() {
		for i, h := range b.holders {
			if h.Name == s.holder {
				sum += each[i]
				done = min(done, h.Committed()+1)
				backlog, _ := p.o.Backlog.Count(s.holder) // an old answer will do for an outlook
				routes = append(routes, routeRoom{s.route, h.Policy, each[i], backlog.Bytes})
			}
		}
	}
	keeps := max(min(room.JournalKeeps, room.Journal+room.Disk), 0)
	o.Journal = lasts(keeps-room.behind(done), all)
	if room.MaxAge > 0 {
		o.Journal = min(o.Journal, room.MaxAge)
	}
	disk := after(o.Journal, lasts(room.Disk-max(keeps-room.Journal, 0), sum))
	for _, r := range routes {
		o.Routes = append(o.Routes, r.outlook(o.Journal, disk))
	}
	return o, nil
}

// behind is about how many bytes of the journal are needed by who is done with what lies below offset.
func (r Room) behind(offset uint64) int64 {
	if r.Next <= r.Oldest {
		return 0
	}
	return int64(float64(r.Journal) * float64(r.Next-max(min(offset, r.Next), r.Oldest)) / float64(r.Next-r.Oldest))
}

// lasts is how long it takes to fill bytes at a rate.
func lasts(bytes int64, rate float64) time.Duration {
	switch seconds := float64(bytes) / rate; {
	case bytes <= 0:
		return 0
	case rate <= 0 || seconds >= Forever.Seconds()/2:
		return Forever
	default:
		return time.Duration(seconds * float64(time.Second))
	}
}

// after is first and then second.
func after(first, second time.Duration) time.Duration {
	if first > Forever-second {
		return Forever
	}
	return first + second
}

// routeRoom is what a route has to wait in.
type routeRoom struct {
	route   Route
	policy  config.Retention
	rate    float64
	backlog int64
}

func (r routeRoom) outlook(journal, disk time.Duration) RouteOutlook {
	o := RouteOutlook{Route: r.route.ID, Rate: r.rate, Lasts: Forever}
	if r.rate <= 0 {
		return o
	}
	if own := after(journal, lasts(int64(r.policy.MaxSize)-r.backlog, r.rate)); own < Forever {
		o.Lasts, o.Limit = own, "max_size"
	}
	if disk < o.Lasts {
		o.Lasts, o.Limit = disk, "disk"
	}
	if o.Limit != "" {
		o.Then = then(r.policy)
	}
	if ttl := r.route.TTL; ttl > 0 && ttl < o.Lasts {
		o.Lasts, o.Limit, o.Then = ttl, "ttl", "what is older expires"
	}
	return o
}

// then says what a policy does when there is no more room.
func then(p config.Retention) string {
	switch p.OnFull {
	case "drop-oldest":
		return "the oldest are dropped"
	case "drop-newest":
		return "the newest are dropped"
	case "reject":
		return "new events are refused, and their senders are told"
	}
	var kept []string
	for _, k := range p.Keep {
		switch {
		case k.Latest:
			kept = append(kept, "the latest of each topic")
		case k.Every > 0:
			kept = append(kept, fmt.Sprintf("one in %s of the last %s", short(k.Every), short(k.For)))
		default:
			kept = append(kept, "all of the last "+short(k.For))
		}
	}
	return "thinned: " + strings.Join(kept, ", ") + " stay, as far as there is room"
}

// short is d as people write it in the config.
func short(d time.Duration) string {
	for _, u := range []struct {
		name string
		unit time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}} {
		if d >= u.unit && d%u.unit == 0 {
			return fmt.Sprintf("%d%s", d/u.unit, u.name)
		}
	}
	return d.String()
}
