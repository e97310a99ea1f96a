package fault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo is a server that sends back what it gets, and an end after an end.
func echo(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	return l.Addr().String()
}

func link(t *testing.T) *Link {
	k, err := Listen(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func dial(t *testing.T, k *Link) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", k.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func say(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, c net.Conn, text string) {
	t.Helper()
	buf := make([]byte, len(text))
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != text {
		t.Fatalf("heard %q, %v, want %q", buf, err, text)
	}
}

func hearReset(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := c.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("heard %v, want a reset", err)
	}
}

// dialReset: the reset may be there before the dial has returned.
func dialReset(t *testing.T, k *Link) {
	t.Helper()
	c, err := net.Dial("tcp", k.Addr())
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	hearReset(t, c)
}

func hearNothing(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Read(make([]byte, 10)); n != 0 || !errors.Is(err, context.DeadlineExceeded) && !err.(net.Error).Timeout() {
		t.Fatalf("heard %d bytes, %v, want silence", n, err)
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
}

func TestPass(t *testing.T) {
	k := link(t)
	c := dial(t, k)
	big := bytes.Repeat([]byte("0123456789"), 100_000)
	go c.Write(big)
	got := make([]byte, len(big))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, big) {
		t.Fatal("bytes changed on the way")
	}
	c.(*net.TCPConn).CloseWrite()
	if n, err := c.Read(got); n != 0 || err != io.EOF {
		t.Fatalf("an end is not passed on: %v", err)
	}
}

func TestStallHoldsAndDelivers(t *testing.T) {
	k := link(t)
	old := dial(t, k)
	say(t, old, "a")
	hear(t, old, "a")
	k.Stall()
	say(t, old, "b")
	fresh := dial(t, k) // half-open: accepted
	say(t, fresh, "c")
	hearNothing(t, old)
	hearNothing(t, fresh)
	k.Pass()
	hear(t, old, "b")
	hear(t, fresh, "c")
}

func TestCutAndRefuse(t *testing.T) {
	k := link(t)
	c := dial(t, k)
	say(t, c, "a")
	hear(t, c, "a")
	k.Refuse()
	dialReset(t, k)
	say(t, c, "b")
	hear(t, c, "b")
	k.Stall()
	k.Cut() // also what is held
	hearReset(t, c)
	k.Pass()
	c = dial(t, k)
	say(t, c, "d")
	hear(t, c, "d")
}

func TestDeafLosesAnswersAndTheirConnection(t *testing.T) {
	k := link(t)
	c, idle := dial(t, k), dial(t, k)
	say(t, c, "a")
	hear(t, c, "a")
	k.Deaf()
	say(t, c, "b")
	hearNothing(t, c)
	k.Pass()
	hearReset(t, c) // it would never fit again
	say(t, idle, "c")
	hear(t, idle, "c")
}

func TestCutAfter(t *testing.T) {
	k := link(t)
	c := dial(t, k)
	k.CutAfter(3)
	say(t, c, "ab")
	hear(t, c, "ab")
	say(t, c, "cd")
	buf := make([]byte, 10)
	if n, err := io.ReadAtLeast(c, buf, 2); n > 1 || err == nil {
		t.Fatalf("heard %q, %v behind the cut", buf[:n], err)
	}
	c = dial(t, k) // once
	say(t, c, "efgh")
	hear(t, c, "efgh")
}

func TestSlow(t *testing.T) {
	k := link(t)
	c := dial(t, k)
	k.Slow(1000)
	began := time.Now()
	say(t, c, strings.Repeat("x", 200))
	hear(t, c, strings.Repeat("x", 200))
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("200 bytes at 1000 a second took %v", took)
	}
	k.Pass()
}

func TestTargetThatIsNotThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	k, err := Listen(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	dialReset(t, k)
}

func TestParse(t *testing.T) {
	s, err := Parse("# faults\nat 3s stall 2s\n\nevery 10s~4s slow 1000 3s # by the seed\nat 0s kill weir\nevery 5s cut\n")
	if err != nil {
		t.Fatal(err)
	}
	want := Script{
		{At: 3 * time.Second, Verb: "stall", For: 2 * time.Second, Line: 2},
		{Every: 10 * time.Second, Jitter: 4 * time.Second, Verb: "slow", Arg: "1000", For: 3 * time.Second, Line: 4},
		{Verb: "kill", Arg: "weir", Line: 5},
		{Every: 5 * time.Second, Verb: "cut", Line: 6},
	}
	if !slices.Equal(s, want) {
		t.Errorf("got\n%swant\n%s", s, want)
	}
	if again := s.String(); again != "at 3s stall 2s\nevery 10s~4s slow 1000 3s\nat 0s kill weir\nevery 5s cut\n" {
		t.Errorf("written again it is\n%s", again)
	}
	for text, want := range map[string]string{
		"at 3s":                 `script line 1: "at 3s" is not: at|every TIME VERB [ARG] [FOR]`,
		"\nat x cut":            `script line 2: time: invalid duration "x"`,
		"every 0s cut":          `script line 1: every 0s is no time`,
		"every 1s~1s cut":       `script line 1: jitter 1s is not less than 1s`,
		"soon 1s cut":           `script line 1: soon 1s is no time`,
		"at 1s slow 100 a":      `script line 1: "a" is no time`,
		"at 1s slow 100 3s 4 5": `script line 1: "at 1s slow 100 3s 4 5" is not: at|every TIME VERB [ARG] [FOR]`,
	} {
		if _, err := Parse(text); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestTimeline(t *testing.T) {
	s, err := Parse("every 5s~1s cut\nat 7s stall 30s\nevery 4s stall 6s")
	if err != nil {
		t.Fatal(err)
	}
	text := func(seed uint64) string {
		var b strings.Builder
		for _, st := range s.Timeline(seed, 20*time.Second) {
			fmt.Fprintf(&b, "%d:%s:%t:%v ", st.Rule.Line, st.Rule.Verb, st.Begin, st.At.Round(time.Second))
		}
		return b.String()
	}
	if a, b := text(1), text(1); a != b {
		t.Errorf("one seed, two timelines:\n%s\n%s", a, b)
	}
	if fmt.Sprint(s.Timeline(1, time.Minute)) == fmt.Sprint(s.Timeline(2, time.Minute)) {
		t.Error("two seeds, one timeline")
	}
	plain := Script{s[1], s[2]}
	var got []string
	for _, st := range plain.Timeline(1, 20*time.Second) {
		got = append(got, fmt.Sprintf("%d %t %v", st.Rule.Line, st.Begin, st.At))
	}
	want := "3 true 4s, 2 true 7s, 3 false 10s, 3 true 12s, 3 false 18s, 2 false 20s, 3 true 20s, 3 false 20s"
	if strings.Join(got, ", ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), want)
	}
}

func TestRunScript(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Parse("every 5s cut\nat 6s stall 3s\nat 14s stall 1m")
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		var got []string
		note := func(what string) { got = append(got, fmt.Sprint(what, " ", time.Since(began))) }
		verbs := map[string]Verb{
			"cut":   {Begin: func(string) error { note("cut"); return nil }},
			"stall": {Begin: func(string) error { note("stall"); return nil }, End: func() { note("pass") }},
		}
		ctx, cancel := context.WithTimeout(t.Context(), 16*time.Second)
		defer cancel()
		if err := s.Run(ctx, 1, time.Minute, verbs, nil); err != nil {
			t.Fatal(err)
		}
		want := "cut 5s, stall 6s, pass 9s, cut 10s, stall 14s, cut 15s, pass 16s"
		if strings.Join(got, ", ") != want {
			t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), want)
		}
		for text, want := range map[string]string{
			"at 1s explode": `script line 1: there is no verb "explode"`,
			"at 1s cut 2s":  "script line 1: cut lasts: false, and a time is given: true",
			"at 1s stall":   "script line 1: stall lasts: true, and a time is given: false",
		} {
			s, err := Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Run(t.Context(), 1, time.Second, verbs, nil); err == nil || err.Error() != want {
				t.Errorf("%s: %v", text, err)
			}
		}
	})
}
