package verify

import (
	"fmt"
	"strings"
	"testing"
)

// check adds arrivals, "id topic payload", or "id within:topic payload", and returns the report in a line.
func check(t *testing.T, gateway string, arrivals ...string) (*Checker, *Report) {
	t.Helper()
	c := New(gateway)
	for _, a := range arrivals {
		part := strings.SplitN(a, " ", 3)
		if part[0] == "-" {
			part[0] = ""
		}
		within, topic, ok := strings.Cut(part[1], ":")
		if !ok {
			within, topic = "", part[1]
		}
		c.Add(within, topic, part[0], []byte(part[2]))
	}
	return c, c.Report()
}

func line(r *Report) string {
	s := fmt.Sprintf("%d of %d ids on %d topics, %d repeats", r.Arrivals, r.IDs, r.Topics, r.Repeats)
	for _, n := range []struct {
		what string
		n    uint64
	}{{"reordered", r.Reordered.Count}, {"twofold", r.Twofold.Count}, {"without", r.WithoutID}, {"others", r.Others}} {
		if n.n > 0 {
			s += fmt.Sprintf(", %d %s", n.n, n.what)
		}
	}
	if r.Wrong() {
		s += ": wrong"
	}
	return s
}

func TestChecker(t *testing.T) {
	for _, c := range []struct {
		name, gateway string
		arrivals      []string
		want          string
	}{
		{"nothing", "", nil, "0 of 0 ids on 0 topics, 0 repeats: wrong"},
		{"in order, sparse", "", []string{"gw/a-1 x 1", "gw/a-5 x 2", "gw/a-3 y 3"}, "3 of 3 ids on 2 topics, 0 repeats"},
		{"a burst again", "", []string{"gw/a-1 x 1", "gw/a-2 x 2", "gw/a-1 x 1", "gw/a-2 x 2", "gw/a-3 x 3"}, "5 of 3 ids on 1 topics, 2 repeats"},
		{"a smaller one first seen late", "", []string{"gw/a-1 x 1", "gw/a-3 x 3", "gw/a-2 x 2"}, "3 of 3 ids on 1 topics, 0 repeats, 1 reordered: wrong"},
		{"and what is newer again is a repeat", "", []string{"gw/a-3 x 3", "gw/a-2 x 2", "gw/a-3 x 3"}, "3 of 2 ids on 1 topics, 1 repeats, 1 reordered: wrong"},
		{"another payload", "", []string{"gw/a-1 x 1", "gw/a-1 x 2"}, "2 of 1 ids on 1 topics, 1 repeats, 1 twofold: wrong"},
		{"another topic", "", []string{"gw/a-1 x 1", "gw/a-1 y 1"}, "2 of 1 ids on 1 topics, 1 repeats, 1 twofold: wrong"},
		{"topic and payload do not run together", "", []string{"gw/a-1 x 11", "gw/a-1 x1 1"}, "2 of 1 ids on 1 topics, 1 repeats, 1 twofold: wrong"},
		{"two gateways", "", []string{"gw/a-2 x 1", "gx/b-1 x 1"}, "2 of 2 ids on 2 topics, 0 repeats"},
		{"one of two gateways", "gx", []string{"gw/a-2 x 1", "gx/b-1 x 1"}, "1 of 1 ids on 1 topics, 0 repeats, 1 others"},
		{"not the gateway", "gy", []string{"gw/a-2 x 1"}, "0 of 0 ids on 0 topics, 0 repeats, 1 others: wrong"},
		{"a new epoch with a new data directory", "", []string{"gw/a-9 x 1", "gw/b-1 x 1"}, "2 of 2 ids on 1 topics, 0 repeats"},
		{"the old epoch behind it", "", []string{"gw/a-9 x 1", "gw/b-1 x 1", "gw/a-10 x 2"}, "3 of 3 ids on 1 topics, 0 repeats, 1 reordered: wrong"},
		{"each place has an order of its own", "", []string{"gw/a-3 p0:x 1", "gw/a-1 p1:x 1", "gw/a-2 p1:x 1"}, "3 of 3 ids on 1 topics, 0 repeats"},
		{"and there it counts", "", []string{"gw/a-1 p0:x 1", "gw/a-3 p1:x 1", "gw/a-2 p1:x 1", "gw/a-1 p1:x 1"}, "4 of 3 ids on 1 topics, 1 repeats, 1 reordered: wrong"},
		{"no id", "", []string{"- x 1", "what/ever x 1", "gw/a-0 x 1", "gw/a-01 x 1", "gw/a-1 x 1"}, "1 of 1 ids on 1 topics, 0 repeats, 4 without"},
		{"the id in the payload", "", []string{`- far {"id":"gw/a-2","topic":"x"}`, `- far {"id":"gw/a-1","subject":"x"}`, `- far {"id":"gw/a-1","topic":"y"}`},
			"3 of 2 ids on 1 topics, 1 repeats, 1 reordered, 1 twofold: wrong"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, r := check(t, c.gateway, c.arrivals...); line(r) != c.want {
				t.Errorf("found %s\nnot   %s", line(r), c.want)
			}
		})
	}
}

func TestEpochsAndNames(t *testing.T) {
	arrivals := []string{"gw/a-7 x 1", "gw/a-3 y 1"}
	for i := range 30 {
		arrivals = append(arrivals, fmt.Sprintf("gw/b-%d x 1", 100-i))
	}
	_, r := check(t, "", arrivals...)
	if len(r.Epochs) != 2 || r.Epochs[0] != (Epoch{"gw", "a", 3, 7, 2}) || r.Epochs[1] != (Epoch{"gw", "b", 71, 100, 30}) {
		t.Errorf("epochs %+v", r.Epochs)
	}
	if f := r.Reordered; f.Count != 29 || len(f.First) != maxNamed || f.First[0] != (Finding{"gw/b-99", "x", "first seen after gw/b-100"}) {
		t.Errorf("%d reordered, %d named, first %+v", f.Count, len(f.First), f.First[0])
	}
}

func TestAgainst(t *testing.T) {
	c, _ := check(t, "", "gw/a-3 x 1", "gw/a-9 x 1", "gw/b-20 x 1")
	due := []Due{{"gw/a-1", "x", ""}, {"gw/a-3", "x", ""}, {"gw/a-5", "y", ""}, {"gw/a-6", "x", "a dead letter"}, {"gw/a-9", "x", ""}, {"gw/b-20", "x", ""}, {"gw/b-22", "x", ""}}
	s := c.Against(due)
	if s.Due != 5 || s.Missing.Count != 1 || s.Missing.First[0] != (Finding{"gw/a-5", "y", ""}) || s.Excused["a dead letter"] != 1 {
		t.Errorf("%+v", s)
	}
	r := c.Report()
	if r.Sent = s; !r.Wrong() {
		t.Error("an event is missing, and nothing is wrong")
	}
	if r.Sent = c.Against(due[:1]); r.Sent.Due != 0 || r.Sent.Missing.Count != 0 || !r.Wrong() {
		t.Errorf("nothing of it was seen: %+v", r.Sent)
	}
	if r.Sent = c.Against(due[:2]); r.Sent.Due != 1 || r.Wrong() {
		t.Errorf("one was sent, and has arrived: %+v", r.Sent)
	}
}
