package fault

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Script says when which fault happens. Each line is one rule; "#" begins a comment:
//
//	at 3s stall 2s          once, for two seconds
//	every 5s cut            at 5 s, 10 s, …
//	every 10s~4s slow 1000 3s   around every 10 s, up to 4 s earlier or later, by the seed
//
// A rule is: when, a verb, the verb's argument if it has one, and how long it lasts if it
// lasts. The verbs are those that are handed to Run, so a script can kill a process as
// well as cut a link.
type Script []Rule

// Rule is a line of a script.
type Rule struct {
	At, Every time.Duration // exactly one is set
	Jitter    time.Duration
	Verb, Arg string
	For       time.Duration // 0: it does not last
	Line      int
}

// Verb is something a script can do. End is called when its time is over; a verb without
// one does not last. Arg is empty where none is given.
type Verb struct {
	Begin func(arg string) error
	End   func()
}

// String is the script as Parse reads it.
func (s Script) String() string {
	var b strings.Builder
	for _, r := range s {
		fmt.Fprintln(&b, r)
	}
	return b.String()
}

func (r Rule) String() string {
	words := []string{"at", r.At.String(), r.Verb}
	if r.Every > 0 {
		words[0], words[1] = "every", r.Every.String()
	}
	if r.Jitter > 0 {
		words[1] += "~" + r.Jitter.String()
	}
	if r.Arg != "" {
		words = append(words, r.Arg)
	}
	if r.For > 0 {
		words = append(words, r.For.String())
	}
	return strings.Join(words, " ")
}

// Parse reads a script.
func Parse(text string) (Script, error) {
	var s Script
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		r, err := parseRule(words)
		if err != nil {
			return nil, fmt.Errorf("script line %d: %w", i+1, err)
		}
		r.Line = i + 1
		s = append(s, r)
	}
	return s, nil
}

func parseRule(words []string) (Rule, error) {
	if len(words) < 3 || len(words) > 5 {
		return Rule{}, fmt.Errorf("%q is not: at|every TIME VERB [ARG] [FOR]", strings.Join(words, " "))
	}
	var r Rule
	when, jitter, jittered := strings.Cut(words[1], "~")
	t, err := time.ParseDuration(when)
	if err != nil {
		return r, err
	}
	if jittered {
		if r.Jitter, err = time.ParseDuration(jitter); err != nil {
			return r, err
		}
	}
	switch {
	case words[0] == "at" && t >= 0:
		r.At = t
	case words[0] == "every" && t > 0:
		r.Every = t
	default:
		return r, fmt.Errorf("%s %s is no time", words[0], words[1])
	}
	if r.Jitter < 0 || r.Every > 0 && r.Jitter >= r.Every {
		return r, fmt.Errorf("jitter %v is not less than %v", r.Jitter, r.Every)
	}
	r.Verb = words[2]
	rest := words[3:]
	if n := len(rest); n > 0 {
		if d, err := time.ParseDuration(rest[n-1]); err == nil && d > 0 {
			r.For, rest = d, rest[:n-1]
		}
	}
	switch len(rest) {
	case 0:
	case 1:
		r.Arg = rest[0]
	default:
		return r, fmt.Errorf("%q is no time", rest[1])
	}
	return r, nil
}

// Step is something that begins or ends.
type Step struct {
	At    time.Duration
	Rule  Rule
	Begin bool
}

// Timeline is what s does up to a time, in order; equal seeds make equal timelines. A rule
// does not begin again before it has ended. What lasts ends within the time.
func (s Script) Timeline(seed uint64, until time.Duration) []Step {
	var steps []Step
	for i, r := range s {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		jitter := func() time.Duration {
			if r.Jitter == 0 {
				return 0
			}
			return time.Duration(rng.Int64N(int64(2*r.Jitter+1))) - r.Jitter
		}
		free := time.Duration(0)
		for n := 1; ; n++ {
			at := r.At
			if r.Every > 0 {
				at = time.Duration(n) * r.Every
			}
			if at-r.Jitter > until {
				break
			}
			at = max(0, at+jitter())
			if at >= free && at <= until {
				free = at + r.For
				steps = append(steps, Step{at, r, true})
				if r.For > 0 {
					steps = append(steps, Step{min(free, until), r, false})
				}
			}
			if r.Every == 0 {
				break
			}
		}
	}
	slices.SortStableFunc(steps, func(a, b Step) int { return cmp.Compare(a.At, b.At) })
	return steps
}

// Run does what the script says until the time is over or ctx ends, and ends what lasts.
// Told, if not nil, is called before each step. An error is a verb that is not there or
// failed.
func (s Script) Run(ctx context.Context, seed uint64, until time.Duration, verbs map[string]Verb, told func(Step)) (err error) {
	for _, r := range s {
		v, ok := verbs[r.Verb]
		if !ok {
			return fmt.Errorf("script line %d: there is no verb %q", r.Line, r.Verb)
		}
		if (r.For > 0) != (v.End != nil) {
			return fmt.Errorf("script line %d: %s lasts: %t, and a time is given: %t", r.Line, r.Verb, v.End != nil, r.For > 0)
		}
	}
	lasting := map[int]Verb{}
	defer func() {
		for _, v := range lasting {
			v.End()
		}
	}()
	began := time.Now()
	for _, step := range s.Timeline(seed, until) {
		select {
		case <-time.After(time.Until(began.Add(step.At))):
		case <-ctx.Done():
			return nil
		}
		if told != nil {
			told(step)
		}
		v := verbs[step.Rule.Verb]
		if !step.Begin {
			v.End()
			delete(lasting, step.Rule.Line)
			continue
		}
		if err := v.Begin(step.Rule.Arg); err != nil {
			return fmt.Errorf("script line %d: %w", step.Rule.Line, err)
		}
		if v.End != nil {
			lasting[step.Rule.Line] = v
		}
	}
	select {
	case <-time.After(time.Until(began.Add(until))):
	case <-ctx.Done():
	}
	return nil
}
