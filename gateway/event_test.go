package gateway

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"
)

func TestPosition(t *testing.T) {
	for _, p := range []Position{{"e1", 0}, {"e1", 7}, {"a-b.c", MaxOffset}} {
		back, err := ParsePosition(p.String())
		if err != nil || back != p {
			t.Errorf("%v came back as %v, %v", p, back, err)
		}
	}
	for _, s := range []string{"", ":", "e1", "e1:", ":1", "e1:-1", "e1:+1", "e1:1.5", "e1:x", "e1: 1", "e1:1:2", "e1:9007199254740992", "e1:99999999999999999999"} {
		if p, err := ParsePosition(s); !errors.Is(err, ErrInvalid) || p != (Position{}) {
			t.Errorf("%q is position %v, %v", s, p, err)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	f.Add("e1:7")
	f.Add("e1:9007199254740991")
	f.Add("e1:007")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePosition(s)
		if err != nil {
			return
		}
		if p.Epoch == "" || p.Offset > MaxOffset {
			t.Errorf("%q is position %v", s, p)
		}
		if back, err := ParsePosition(p.String()); err != nil || back != p {
			t.Errorf("%q: %v came back as %v, %v", s, p, back, err)
		}
	})
}

// A JavaScript number holds every offset, and none is 2^53, which it would confuse
// with its neighbour.
func TestMaxOffset(t *testing.T) {
	if n := uint64(MaxOffset); uint64(float64(n)) != n || MaxOffset != math.MaxUint64>>11 {
		t.Errorf("MaxOffset is %d", n)
	}
}

func TestEventID(t *testing.T) {
	e := &Event{Epoch: "e1", Offset: 42}
	if got := e.ID("plant1-gw7"); got != "plant1-gw7/e1-42" {
		t.Errorf("id is %s", got)
	}
	if got := e.Position(); got != (Position{"e1", 42}) {
		t.Errorf("position is %v", got)
	}
}

func TestParseID(t *testing.T) {
	e := Event{Epoch: "e1", Offset: 7}
	if at, err := ParseID("gw", e.ID("gw")); err != nil || at != e.Position() {
		t.Error(at, err)
	}
	for _, bad := range []string{"", "gw/", "gw/e1", "gw/-7", "gw/e1-", "gw/e1-x", "gw/e1-9007199254740992", "other/e1-7", "e1-7"} {
		if at, err := ParseID("gw", bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v, %v", bad, at, err)
		}
	}
}

func TestExpired(t *testing.T) {
	tests := []struct {
		expiry, after time.Duration
		want          bool
	}{
		{0, 1000 * time.Hour, false},
		{time.Minute, 0, false},
		{time.Minute, time.Minute - 1, false},
		{time.Minute, time.Minute, true},
		{time.Minute, time.Hour, true},
		{time.Minute, -time.Hour, false}, // the clock was set back
	}
	for _, test := range tests {
		e := &Event{Age: time.Hour, Expiry: test.expiry}
		if got := e.Expired(time.Hour + test.after); got != test.want {
			t.Errorf("expiry %v, %v later: %v", test.expiry, test.after, got)
		}
	}
}

// Size is what bounds are counted in: whatever a sender can make long has to count.
func TestSizeCountsWhatSendersChoose(t *testing.T) {
	long := string(make([]byte, 1000))
	base := (&Event{}).Size()
	for name, e := range map[string]*Event{
		"topic":            {Topic: long},
		"payload":          {Payload: []byte(long)},
		"content type":     {ContentType: long},
		"response topic":   {ResponseTopic: long},
		"correlation data": {CorrelationData: []byte(long)},
		"property key":     {UserProperties: []UserProperty{{Key: long}}},
		"property value":   {UserProperties: []UserProperty{{Value: long}}},
		"client id":        {Origin: Origin{ID: long}},
		"user":             {Origin: Origin{User: long}},
	} {
		if grown := e.Size() - base; grown < 1000 || grown > 1100 {
			t.Errorf("1000 bytes of %s count as %d", name, grown)
		}
	}
	if grown := (&Event{UserProperties: make([]UserProperty, 1000)}).Size() - base; grown < 32*1000 {
		t.Errorf("1000 empty properties count as %d, they take 32 bytes each", grown)
	}
}

func TestQuality(t *testing.T) {
	for q, want := range map[Quality]string{Good: "good", Uncertain: "uncertain", Bad: "bad", 9: "quality(9)"} {
		if got := q.String(); got != want {
			t.Errorf("%d is %q, want %q", q, got, want)
		}
	}
}

func TestGap(t *testing.T) {
	g := &Gap{From: 10, To: 20, Reason: GapTrimmed}
	if got := g.String(); got != "trimmed: offsets 10 to 19" {
		t.Errorf("gap reads %q", got)
	}
}

func TestErrorf(t *testing.T) {
	cause := errors.New("disk on fire")
	err := fmt.Errorf("append: %w", Errorf(ErrTransient, "write segment %d: %w", 7, cause))
	if err.Error() != "append: write segment 7: disk on fire" {
		t.Errorf("error reads %q", err)
	}
	if !errors.Is(err, ErrTransient) || !errors.Is(err, cause) {
		t.Error("the kind or the cause is lost")
	}
	for _, kind := range []error{ErrInvalid, ErrDenied, ErrFull} {
		if errors.Is(err, kind) {
			t.Errorf("a transient error is also %v", kind)
		}
	}
	if errors.Is(Errorf(ErrFull, "x"), ErrTransient) {
		t.Error("full is transient")
	}
}
