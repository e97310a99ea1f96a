package gateway

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// heldJournal keeps what is appended until the test says how it went.
type heldJournal struct {
	refuse error
	held   []held
}

type held struct {
	e    *Event
	need Durability
	done func(error)
}

func (j *heldJournal) Append(_ context.Context, e *Event, need Durability, done func(error)) error {
	if j.refuse != nil {
		return j.refuse
	}
	j.held = append(j.held, held{e, need, done})
	return nil
}

func (j *heldJournal) finish(err error) {
	for _, h := range j.held {
		h.done(err)
	}
	j.held = nil
}

func TestIngestRefusesWhatIsWrong(t *testing.T) {
	for name, e := range map[string]*Event{
		"no topic":          {},
		"wildcard":          {Topic: "a/+/b"},
		"NUL":               {Topic: "a\x00b"},
		"bad UTF-8":         {Topic: "a\xff"},
		"too many levels":   {Topic: strings.Repeat("/", MaxTopicLevels)},
		"too long":          {Topic: strings.Repeat("a", MaxTopicBytes+1)},
		"QoS 3":             {Topic: "a", QoS: 3},
		"payload too large": {Topic: "a", Payload: make([]byte, 11)},
	} {
		t.Run(name, func(t *testing.T) {
			j := &heldJournal{}
			var refused error
			g := New(Options{Journal: j, MaxPayload: 10, Observer: Observer{Refused: func(_ *Event, err error) { refused = err }}})
			err := g.Ingest(t.Context(), e, func(error) { t.Error("done was called") })
			if !errors.Is(err, ErrInvalid) || refused != err {
				t.Errorf("Ingest: %v, observed: %v; want the same ErrInvalid", err, refused)
			}
			if len(j.held) != 0 {
				t.Error("it was handed to the journal")
			}
		})
	}
}

func TestIngestTellsWhenItIsStoredAndNotBefore(t *testing.T) {
	for name, outcome := range map[string]error{"stored": nil, "full": Errorf(ErrFull, "journal is full")} {
		t.Run(name, func(t *testing.T) {
			j := &heldJournal{}
			var accepted, refused int
			g := New(Options{Journal: j, Observer: Observer{
				Accepted: func(*Event) { accepted++ },
				Refused:  func(*Event, error) { refused++ },
			}})
			var told []error
			if err := g.Ingest(t.Context(), &Event{Topic: "a"}, func(err error) { told = append(told, err) }); err != nil {
				t.Fatal(err)
			}
			if len(told) != 0 || accepted != 0 {
				t.Fatal("the sender was told before the journal was done")
			}
			if j.held[0].need != Synced {
				t.Error("an event somebody waits for must be synced")
			}
			j.finish(outcome)
			if len(told) != 1 || told[0] != outcome {
				t.Errorf("told %v, want %v once", told, outcome)
			}
			if want := map[bool]int{true: 1}[outcome == nil]; accepted != want || refused != 1-want {
				t.Errorf("accepted %d, refused %d", accepted, refused)
			}
		})
	}
}

func TestNobodyWaitsMeansNoSync(t *testing.T) {
	j := &heldJournal{}
	if err := New(Options{Journal: j}).Ingest(t.Context(), &Event{Topic: "a"}, nil); err != nil {
		t.Fatal(err)
	}
	if j.held[0].need != Written {
		t.Error("a reading nobody waits for asked for a sync")
	}
	j.finish(nil)
}

func TestRecordTellsWithoutASync(t *testing.T) {
	j := &heldJournal{}
	g := New(Options{Journal: j})
	for _, want := range []error{nil, ErrFull} {
		told := []error{}
		if err := g.Record(t.Context(), &Event{Topic: "a"}, func(err error) { told = append(told, err) }); err != nil {
			t.Fatal(err)
		}
		if j.held[0].need != Written || len(told) != 0 {
			t.Errorf("needs %v, told %v", j.held[0].need, told)
		}
		if j.finish(want); len(told) != 1 || told[0] != want {
			t.Errorf("told %v, want %v", told, want)
		}
	}
}

func TestIngestWaitGivesUpWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	err := New(Options{Journal: &heldJournal{}}).IngestWait(ctx, &Event{Topic: "a"})
	if !errors.Is(err, ErrTransient) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v; want a transient error that says why", err)
	}
}

type split struct{ into []*Event }

func (s split) Apply(*Event) ([]*Event, error) { return s.into, nil }

func TestRulesSplitAndTheSenderHearsOnce(t *testing.T) {
	for _, n := range []int{0, 1, 3} {
		j := &heldJournal{}
		var into []*Event
		for range n {
			into = append(into, &Event{Topic: "b"})
		}
		told := 0
		g := New(Options{Journal: j, Rules: split{into}})
		if err := g.Ingest(t.Context(), &Event{Topic: "a"}, func(err error) {
			if err != nil {
				t.Error(err)
			}
			told++
		}); err != nil {
			t.Fatal(err)
		}
		if n > 0 && told != 0 {
			t.Errorf("%d events: told before they are stored", n)
		}
		j.finish(nil)
		if told != 1 {
			t.Errorf("%d events: told %d times", n, told)
		}
	}
}

func TestErrorKinds(t *testing.T) {
	cause := errors.New("no space left on device")
	err := Errorf(ErrFull, "append: %w", cause)
	if !errors.Is(err, ErrFull) || !errors.Is(err, cause) || errors.Is(err, ErrTransient) {
		t.Error("an error must be of its kind, of its cause, and of no other kind")
	}
	if got, want := err.Error(), "append: no space left on device"; got != want {
		t.Errorf("text is %q, want %q", got, want)
	}
}
