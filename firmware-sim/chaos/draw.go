package chaos

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/weir-iot/weir/firmware-sim/fault"
)

// choice is a fault that can be drawn: how often beside others, with what, and how long.
type choice struct {
	verb     string
	weight   int
	arg      func(*rand.Rand) string
	min, max time.Duration // 0: it does not last
}

func number(least, most int) func(*rand.Rand) string {
	return func(rng *rand.Rand) string { return fmt.Sprint(least + rng.IntN(most-least+1)) }
}

func oneOf(words ...string) func(*rand.Rand) string {
	return func(rng *rand.Rand) string { return words[rng.IntN(len(words))] }
}

const ms = time.Millisecond

// Each lane has one fault at a time; the lanes do not wait for each other.
var (
	gatewayLane = []choice{
		{verb: "kill", weight: 9, arg: oneOf("weir", "all", "box"), min: 1 * ms, max: 500 * ms},
		{verb: "pause", weight: 2, min: 200 * ms, max: 4000 * ms},
		{verb: "power", weight: 4, arg: oneOf("none", "half", "all"), min: 1 * ms, max: 500 * ms},
		{verb: "plug", weight: 3, min: 1 * ms, max: 500 * ms},
		{verb: "full", weight: 2, min: 1000 * ms, max: 4000 * ms},
		{verb: "clock", weight: 1, arg: oneOf("3650", "-3650", "0", "1", "-1")},
	}
	// The gateway hardly gets up before it is down again: 1,000 kills and 200 power cuts in half an hour.
	killLane = []choice{
		{verb: "kill", weight: 17, arg: oneOf("weir", "weir", "all", "all", "box"), min: 1 * ms, max: 500 * ms},
		{verb: "power", weight: 3, arg: oneOf("none", "half", "all"), min: 1 * ms, max: 500 * ms},
		{verb: "plug", weight: 1, min: 1 * ms, max: 500 * ms},
	}
	farLane = []choice{
		{verb: "stall", weight: 2, min: 200 * ms, max: 5000 * ms},
		{verb: "refuse", weight: 1, min: 200 * ms, max: 3000 * ms},
		{verb: "deaf", weight: 2, min: 200 * ms, max: 3000 * ms},
		{verb: "slow", weight: 1, arg: number(2000, 200_000), min: 500 * ms, max: 3000 * ms},
		{verb: "cut", weight: 2},
		{verb: "cut-after", weight: 2, arg: number(1, 50_000)},
	}
	deviceLane = []choice{
		{verb: "device-stall", weight: 1, min: 200 * ms, max: 3000 * ms},
		{verb: "device-deaf", weight: 2, min: 200 * ms, max: 2000 * ms},
		{verb: "device-cut", weight: 2},
		{verb: "device-cut-after", weight: 2, arg: number(1, 20_000)},
	}
)

// The outage begins after two fifths of the time and lasts a fifth of it, up to a limit: what waits
// has to fit on the disk.
const longestOutage = time.Minute

// Draw makes the script of a seed that lasts d, without the verbs that cannot be had. It has an
// outage, and bits are turned during it, when sealed segments wait to be read. Equal seeds make equal
// scripts where the same verbs can be had. With kills there is little else than kills and power cuts.
//
// What is on the far link is over when the outage begins, or the outage would be part of it.
func Draw(seed uint64, d time.Duration, kills bool, skipped map[string]string) fault.Script {
	rng := rand.New(rand.NewPCG(seed, 0))
	outage := fault.Rule{At: d * 2 / 5, Verb: "outage", For: min(d/5, longestOutage)}
	s := fault.Script{outage}
	for range 3 {
		at := outage.At + outage.For/4 + time.Duration(rng.Int64N(int64(outage.For*3/4)))
		if _, no := skipped["flip"]; !no {
			s = append(s, fault.Rule{At: at.Round(ms), Verb: "flip", Arg: number(1, 4)(rng)})
		}
	}
	never := fault.Rule{At: d + 1}
	if kills {
		s = append(s, lane(rng, killLane, skipped, 300*ms, 1300*ms, d, never)...)
	} else {
		s = append(s, lane(rng, gatewayLane, skipped, 1500*ms, 5000*ms, d, never)...)
	}
	s = append(s, lane(rng, farLane, skipped, 500*ms, 4000*ms, d, outage)...)
	s = append(s, lane(rng, deviceLane, skipped, 2000*ms, 8000*ms, d, never)...)
	slices.SortStableFunc(s, func(a, b fault.Rule) int { return cmp.Compare(a.At, b.At) })
	for i := range s {
		s[i].Line = i + 1
	}
	return s
}

// lane draws one fault after the other until d, with a pause of least to most between them. None
// is on while busy is.
func lane(rng *rand.Rand, from []choice, skipped map[string]string, least, most, d time.Duration, busy fault.Rule) (s fault.Script) {
	for at := time.Duration(0); ; {
		r := pick(rng, from, skipped)
		at += between(rng, least, most)
		if at+r.For >= busy.At && at <= busy.At+busy.For {
			at = busy.At + busy.For
			continue
		}
		if at+r.For > d {
			return s
		}
		r.At = at
		s, at = append(s, r), at+r.For
	}
}

func pick(rng *rand.Rand, from []choice, skipped map[string]string) fault.Rule {
	all := 0
	can := slices.DeleteFunc(slices.Clone(from), func(c choice) bool { _, no := skipped[c.verb]; return no })
	for _, c := range can {
		all += c.weight
	}
	n := rng.IntN(all)
	for _, c := range can {
		if n -= c.weight; n >= 0 {
			continue
		}
		r := fault.Rule{Verb: c.verb}
		if c.arg != nil {
			r.Arg = c.arg(rng)
		}
		if c.max > 0 {
			r.For = between(rng, c.min, c.max)
		}
		return r
	}
	panic("unreachable: the weights add up")
}

func between(rng *rand.Rand, least, most time.Duration) time.Duration {
	return (least + time.Duration(rng.Int64N(int64(most-least)))).Round(ms)
}
