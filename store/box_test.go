package store

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/child"
)

const boxChild = "WEIR_TEST_BOX"

// itself is the command that runs this test binary again: below the emulator it runs under, which the kernel
// does not know of, if there is one (make store-arm).
func itself(args ...string) []string {
	return append(append(strings.Fields(os.Getenv("WEIR_EMULATOR")), os.Args[0]), args...)
}

func command(line []string) *exec.Cmd { return exec.Command(line[0], line[1:]...) }

// TestBoxChild is the main of the children of the other tests.
func TestBoxChild(t *testing.T) {
	if os.Getenv(boxChild) == "" {
		t.Skip("only as a child process")
	}
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	conn, err := child.Conn()
	if deaf := os.Getenv(boxDeaf); deaf != "" && err == nil {
		deafBox(conn, deaf)
	}
	if err == nil {
		err = ServeBox(os.Args[len(os.Args)-1], conn, slog.New(slog.NewJSONHandler(os.Stderr, nil)))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func boxOptions(t testing.TB, dir string) BoxOptions {
	t.Setenv(boxChild, "1")
	return BoxOptions{
		Dir: dir, Command: itself("-test.run=^TestBoxChild$"),
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

func openBox(t testing.TB, dir string) *Box {
	t.Helper()
	b, err := OpenBox(boxOptions(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func (b *Box) pid() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.child
}

// eventually waits for what must become so.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > within {
			t.Fatalf("after %v: %s", within, what)
		}
		time.Sleep(5 * time.Millisecond) // between two looks; the look decides
	}
	return time.Since(start)
}

func TestBox(t *testing.T) {
	dir := t.TempDir()
	b := openBox(t, dir)
	s, r := b.State(), b.Reservoir()
	large := bytes.Repeat([]byte("large "), 100_000)
	changes := map[string][]byte{"empty": {}, "large": large, "gone": nil}
	for i := range 3000 {
		changes[fmt.Sprintf("k/%04d", i)] = fmt.Appendf(nil, "%0200d", i)
	}
	if err := s.Apply("b", changes); err != nil {
		t.Fatal(err)
	}
	records := []Record{{Offset: 3, Epoch: "e1", Age: -5, Key: 1 << 63, Body: large}, {Offset: 9, Epoch: "e2", Age: 7, Body: []byte("x")}}
	if err := r.Put("up", 12, records); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if v, ok, err := s.Get("b", "large"); err != nil || !ok || !bytes.Equal(v, large) {
			t.Errorf("large: %d bytes, %v, %v", len(v), ok, err)
		}
		if v, ok, err := s.Get("b", "empty"); err != nil || !ok || len(v) != 0 {
			t.Errorf("empty: %q, %v, %v", v, ok, err)
		}
		if _, ok, err := s.Get("b", "gone"); err != nil || ok {
			t.Errorf("gone: %v, %v", ok, err)
		}
		n, last := 0, ""
		err := s.Each("b", "k/", func(key string, value []byte) error {
			if key <= last || string(value) != fmt.Sprintf("%0200d", n) {
				t.Fatalf("%s after %s: %q", key, last, value)
			}
			n, last = n+1, key
			return nil
		})
		if err != nil || n != 3000 {
			t.Errorf("each: %d, %v", n, err)
		}
		enough := errors.New("enough")
		if err := s.Each("b", "k/", func(string, []byte) error { return enough }); err != enough {
			t.Errorf("each ended with %v", err)
		}
		got, _ := r.Read("up", 0, 0)
		sameRecords(t, "read", got.Records, records)
		if st := r.Stat("up"); got.Next != 12 || st.Count != 2 || st.Mark != 12 || len(r.Holders()) != 1 {
			t.Errorf("next %d, %+v, %v", got.Next, st, r.Holders())
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Apply("b", map[string][]byte{"k": nil}); !errors.Is(err, gateway.ErrTransient) {
			t.Errorf("closed: %v", err)
		}
		b = openBox(t, dir)
		s, r = b.State(), b.Reservoir()
	}
	if err := s.Apply("", map[string][]byte{"k": nil}); !errors.Is(err, gateway.ErrInvalid) {
		t.Errorf("no bucket: %v", err)
	}
	if err := r.Put("up", 1, records); !errors.Is(err, gateway.ErrInvalid) {
		t.Errorf("above the mark: %v", err)
	}
	if err := shrink(r, "up", 0, Policy{Mode: DropOldest}, 100, 0); err != nil {
		t.Error(err)
	}
	if err := r.Release("up", 20); err != nil {
		t.Error(err)
	}
	st := r.Stat("up")
	checkLedger(t, "at the end", st)
	if st.Count != 0 || st.Dropped[DroppedOldest]+st.Released != 2 {
		t.Errorf("%+v", st)
	}
	if err := r.Discard("up"); err != nil || len(r.Holders()) != 0 {
		t.Errorf("discard: %v, %v", err, r.Holders())
	}
	if _, err := OpenBox(BoxOptions{Dir: filepath.Join(dir, "x"), Command: []string{"/nonexistent"}}); err == nil {
		t.Error("a box without a program was opened")
	}
}

// traffic applies and puts until it is stopped, and remembers what was acknowledged.
type traffic struct {
	b       *Box
	stop    chan struct{}
	wg      sync.WaitGroup
	mu      sync.Mutex
	applied map[string]bool
	put     uint64 // offsets below it
	strange []error
	acks    atomic.Int64
	fulls   atomic.Int64
	broken  atomic.Int64
}

func startTraffic(b *Box, size int) *traffic {
	l := &traffic{b: b, stop: make(chan struct{}), applied: map[string]bool{}}
	for worker := range 4 {
		l.wg.Go(func() {
			for n := 0; l.goesOn(); n++ {
				key := fmt.Sprint(worker, "/", n)
				if l.heard(b.State().Apply("b", map[string][]byte{key: bytes.Repeat([]byte(key), 1+size/len(key))})) {
					l.mu.Lock()
					l.applied[key] = true
					l.mu.Unlock()
				}
			}
		})
	}
	l.wg.Go(func() {
		for offset := uint64(1); l.goesOn(); {
			var all []Record
			next := offset
			for range 100 {
				all = append(all, Record{Offset: next, Epoch: "e", Age: int64(next), Body: fmt.Appendf(nil, "%0*d", size, next)})
				next++
			}
			if l.heard(b.Reservoir().Put("up", next, all)) {
				l.mu.Lock()
				l.put = next
				l.mu.Unlock()
				offset = next
			}
		}
	})
	return l
}

func (l *traffic) goesOn() bool {
	select {
	case <-l.stop:
		return false
	default:
		return true
	}
}

func (l *traffic) heard(err error) bool {
	switch {
	case err == nil:
		l.acks.Add(1)
		return true
	case errors.Is(err, gateway.ErrFull):
		l.fulls.Add(1)
	case errors.Is(err, gateway.ErrTransient):
		l.broken.Add(1)
	default:
		l.mu.Lock()
		l.strange = append(l.strange, err)
		l.mu.Unlock()
	}
	time.Sleep(2 * time.Millisecond) // between two tries, so that refusals do not take the processor
	return false
}

// end stops the load and checks that what was acknowledged is there.
func (l *traffic) end(t *testing.T) {
	t.Helper()
	close(l.stop)
	l.wg.Wait()
	for _, err := range l.strange {
		t.Error(err)
	}
	there := map[string]bool{}
	if err := l.b.State().Each("b", "", func(key string, value []byte) error {
		if !strings.HasPrefix(string(value), key) {
			t.Errorf("%s is wrong", key)
		}
		there[key] = true
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for key := range l.applied {
		if !there[key] {
			t.Fatalf("%s was acknowledged and is gone", key)
		}
	}
	next := uint64(1)
	for from := uint64(1); next < l.put; {
		b, err := l.b.Reservoir().Read("up", from, 0)
		if err != nil || len(b.Records) == 0 {
			t.Fatalf("from %d of %d: %v, lost %v", from, l.put, err, b.Lost)
		}
		for _, rec := range b.Records {
			if rec.Offset != next {
				t.Fatalf("offset %d is there, %d is not", rec.Offset, next)
			}
			next++
		}
		from = b.Next
	}
	checkLedger(t, "at the end", l.b.Reservoir().Stat("up"))
	t.Logf("%d acknowledged, %d refused as full, %d failed", l.acks.Load(), l.fulls.Load(), l.broken.Load())
}

// TestBoxKill kills the child under load.
func TestBoxKill(t *testing.T) {
	b := openBox(t, t.TempDir())
	l := startTraffic(b, 300)
	rounds := 20
	if testing.Short() {
		rounds = 4
	}
	rnd := rand.New(rand.NewSource(1))
	var longest time.Duration
	for range rounds {
		enough := l.acks.Load() + 20 + rnd.Int63n(200)
		eventually(t, 20*time.Second, "nothing is acknowledged", func() bool { return l.acks.Load() > enough })
		pid := b.pid()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		longest = max(longest, eventually(t, 20*time.Second, "there is no other child", func() bool { return b.pid() != pid && b.pid() != 0 }))
	}
	eventually(t, 20*time.Second, "the child does not answer", func() bool { _, _, err := b.State().Get("b", "x"); return err == nil })
	l.end(t)
	t.Logf("longest without a child: %v", longest)
	if aside, _ := filepath.Glob(b.o.Dir + "/*.damaged*"); aside != nil {
		t.Errorf("set aside: %v", aside)
	}
}

// TestBoxHistories is TestReservoirHistories through the wire, with a child that is killed.
func TestBoxHistories(t *testing.T) {
	h := &reservoirHistory{T: t, rnd: rand.New(rand.NewSource(100)), root: t.TempDir(), lives: map[string]*life{}}
	h.open = func() {
		b := openBox(t, h.root)
		h.r, h.close = b.Reservoir(), b.Close
		h.kill = func() {
			pid := b.pid()
			syscall.Kill(pid, syscall.SIGKILL)
			eventually(t, 20*time.Second, "there is no other child", func() bool { return b.pid() != pid && b.pid() != 0 })
		}
	}
	h.open()
	for range 120 {
		h.step()
	}
	h.check()
}

func TestBoxThatHangsIsKilled(t *testing.T) {
	o := boxOptions(t, t.TempDir())
	o.Command, o.OpenTimeout = []string{"/bin/sh", "-c", "exec sleep 1000"}, 50*time.Millisecond
	start := time.Now()
	if _, err := OpenBox(o); !errors.Is(err, errChildDied) || !strings.Contains(err.Error(), "killed") {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

// TestBoxThatIsStopped: a child that stands still is killed, but not before somebody waits for it.
func TestBoxThatIsStopped(t *testing.T) {
	o := boxOptions(t, t.TempDir())
	o.Silence = 300 * time.Millisecond
	b, err := OpenBox(o)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	apply := func(key string) error { return b.State().Apply("b", map[string][]byte{key: []byte("v")}) }
	if err := apply("before"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		pid := b.pid()
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		eventually(t, 20*time.Second, "it stands still", func() bool { return standsStill(pid) })
		var wg sync.WaitGroup
		for n := range 2 * boxCalls { // more than may be under way
			wg.Go(func() {
				var err error
				if n == 0 { // it does not fit in the wire
					err = b.Reservoir().Put("up", 2, []Record{{Offset: 1, Body: make([]byte, 4<<20)}})
				} else {
					_, err = b.Reservoir().Read("up", 0, 0)
				}
				// Who comes late finds the next child.
				if late := err == nil && b.pid() != pid; !late && !errors.Is(err, gateway.ErrTransient) {
					t.Errorf("call %d: %v", n, err)
				}
			})
		}
		wg.Wait()
		eventually(t, 20*time.Second, "there is no other child", func() bool { return b.pid() != pid && b.pid() != 0 })
		if err := apply("after"); err != nil {
			t.Fatal(err)
		}
		if syscall.Kill(pid, 0) == nil {
			t.Error("the child that was stopped is still there")
		}
	}
	if _, ok, err := b.State().Get("b", "before"); !ok || err != nil {
		t.Error(ok, err)
	}
	if aside, _ := filepath.Glob(b.o.Dir + "/*.damaged*"); aside != nil {
		t.Errorf("set aside: %v", aside)
	}
}

// standsStill tells whether all threads of a process are stopped, which takes a moment after SIGSTOP.
func standsStill(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, path := range threads {
		b, err := os.ReadFile(path)
		if err != nil || !bytes.HasPrefix(b[bytes.LastIndexByte(b, ')')+1:], []byte(" T")) { // proc_pid_stat(5)
			return false
		}
	}
	return len(threads) > 0
}

const boxDeaf = "WEIR_TEST_BOX_DEAF"

// TestBoxThatDoesNotAnswer: a child that says it lives, and does not answer a call, as one with a slow disk does, is left alone
// for much longer than one that is silent; and then it is killed, and the next one has twice the time.
func TestBoxThatDoesNotAnswer(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(boxDeaf, filepath.Join(dir, "pings"))
	o := boxOptions(t, dir)
	o.Silence, o.CallTimeout = 100*time.Millisecond, time.Second
	b, err := OpenBox(o)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	pid := b.pid()
	if _, _, err := b.State().Get("b", "k"); !errors.Is(err, gateway.ErrTransient) {
		t.Errorf("get: %v", err)
	}
	eventually(t, 20*time.Second, "there is no other child", func() bool { return b.pid() != pid && b.pid() != 0 })
	if err := b.State().Apply("b", map[string][]byte{"k": nil}); err != nil { // it is a whole one
		t.Error(err)
	}
	pings, err := os.ReadFile(os.Getenv(boxDeaf))
	if err != nil || len(pings) < 3*boxTicks {
		t.Errorf("it was killed after %d pings, %v; one that is silent has %d ticks", len(pings), err, boxTicks)
	}
	if err := b.Close(); err != nil || b.patience != 2 {
		t.Errorf("the next one has %d times the time, %v", b.patience, err)
	}
}

// deafBox answers pings, and no calls, and notes in a file how many those were. It is so once.
func deafBox(conn net.Conn, path string) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	w := newWire(conn)
	w.send(0, answerUp, nil)
	for {
		call, v, _, err := w.receive()
		if err != nil {
			os.Exit(1)
		}
		if v == ping {
			f.Write([]byte("."))
			w.send(call, answerUp, nil)
		}
	}
}

// TestBoxAnswersPings whatever its databases wait for.
func TestBoxAnswersPings(t *testing.T) {
	here, there := net.Pipe()
	here.SetDeadline(time.Now().Add(time.Minute))
	b := &box{dir: t.TempDir(), log: slog.New(slog.NewTextHandler(t.Output(), nil)), w: newWire(there)}
	over := make(chan error, 1)
	go func() { over <- b.serve() }()
	w := newWire(here)
	receive := func(what string, call uint64, answer verb) {
		t.Helper()
		if got, v, _, err := w.receive(); got != call || v != answer || err != nil {
			t.Fatalf("%s: answer %d to call %d: %v", what, v, got, err)
		}
	}
	receive("open", 0, answerUp)
	b.mu.Lock()
	const calls = 2 * boxCalls
	for n := range uint64(calls) {
		if err := w.send(n+1, getValue, appendString(appendString(nil, "b"), "k")); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if err := w.send(0, ping, nil); err != nil {
			t.Fatal(err)
		}
		receive("ping", 0, answerUp)
	}
	b.mu.Unlock()
	for range calls {
		if call, v, _, err := w.receive(); call == 0 || v != answerOK || err != nil {
			t.Fatalf("answer %d to call %d: %v", v, call, err)
		}
	}
	here.Close()
	if err := <-over; err != nil {
		t.Error(err)
	}
}

const boxParent = "WEIR_TEST_BOX_PARENT"

// TestBoxParentDies kills a gateway: its child closes the databases and ends, and the next gateway
// gets them.
func TestBoxParentDies(t *testing.T) {
	if dir := os.Getenv(boxParent); dir != "" {
		b := openBox(t, dir)
		if err := b.State().Apply("b", map[string][]byte{"k": []byte("v")}); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("child %d.\n", b.pid())
		select {}
	}
	dir := t.TempDir()
	for range 3 {
		cmd := command(itself("-test.run=^TestBoxParentDies$"))
		cmd.Env = append(os.Environ(), boxParent+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid := 0
		if _, err := fmt.Fscanf(out, "child %d.", &pid); err != nil {
			t.Fatal(err)
		}
		cmd.Process.Kill()
		cmd.Wait()
		b := openBox(t, dir)
		if _, ok, err := b.State().Get("b", "k"); err != nil || !ok {
			t.Fatalf("%v, %v", ok, err)
		}
		eventually(t, 10*time.Second, "the child of the killed gateway lives", func() bool { return syscall.Kill(pid, 0) != nil })
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if aside, _ := filepath.Glob(dir + "/*.damaged*"); aside != nil {
		t.Errorf("set aside: %v", aside)
	}
}

// TestBoxStrikes: a database that breaks the child three times while it is opened is set aside, and the box comes up. One
// whose child is killed by others is not.
func TestBoxStrikes(t *testing.T) {
	for _, c := range []struct {
		how    string // the child ends while it opens the state
		times  int
		struck bool
	}{
		{"kill -BUS $$", maxStrikes, true},
		{"kill -SEGV $$", maxStrikes, true},
		{"exit 2", maxStrikes, true}, // as of a panic
		{"kill -BUS $$", maxStrikes - 1, false},
		{"kill -KILL $$", 2 * maxStrikes, false},
		{"kill -TERM $$", 2 * maxStrikes, false},
		{"exit 1", 2 * maxStrikes, false},
	} {
		t.Run(fmt.Sprint(c.how, " ", c.times), func(t *testing.T) {
			dir := t.TempDir()
			b := openBox(t, dir)
			if err := b.State().Apply("b", map[string][]byte{"k": []byte("v")}); err != nil {
				t.Fatal(err)
			}
			b.Close()
			o := boxOptions(t, dir)
			o.Command = opening(fmt.Sprintf(`n=$(cat "$0/times" 2>/dev/null || echo 0)
				if [ "$n" -lt %d ]; then echo $((n+1)) >"$0/times"; %s; fi; exec %s '-test.run=^TestBoxChild$' "$0"`,
				c.times, c.how, strings.Join(itself(), " ")))
			b, err := OpenBox(o)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if _, ok, err := b.State().Get("b", "k"); ok == c.struck || err != nil {
				t.Errorf("%v, %v", ok, err)
			}
			if b.State().Lost() != c.struck {
				t.Errorf("set aside: %v", !c.struck)
			}
		})
	}
}

// opening is a child that notes, as openGuarded does, that the state is being opened, and goes on with a shell script.
func opening(script string) []string {
	return []string{"/bin/sh", "-c", `f="$0/state.opening"; read n rest 2>/dev/null <"$f" || n=0
		[ "$n" -ge 3 ] || echo "$n opening" >"$f"
		` + script}
}

// A child that does not open in time is killed by the gateway, which is a strike; one that somebody else kills is
// none.
func TestBoxThatOpensTooLate(t *testing.T) {
	dir := t.TempDir()
	o := boxOptions(t, dir)
	o.Command, o.OpenTimeout = opening("exec sleep 1000"), 300*time.Millisecond
	b := &Box{o: o}
	for n := range maxStrikes {
		if _, err := b.start(); !errors.Is(err, errChildDied) {
			t.Fatal(err)
		}
		if got, opening, err := strikesOf(filepath.Join(dir, "state")).read(); got != n+1 || opening || err != nil {
			t.Errorf("%d strikes after %d: %v", got, n+1, err)
		}
	}
}

// TestBoxMemory has a backlog of a million events in a box, thins it and drains it. A gateway has to do with 96 MB.
func TestBoxMemory(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("a million events take too long with -short or under the race detector; go test without them runs it")
	}
	dir := t.TempDir()
	b := openBox(t, dir)
	idle, peak := anonymous(b.pid()), int64(0)
	var part []Record
	for offset := uint64(1); offset <= 1_000_000; offset++ {
		part = append(part, Record{Offset: offset, Epoch: "epoch001", Age: int64(offset) * 100, Key: offset % 5000, Body: make([]byte, 256)})
		if len(part) == 4000 {
			if err := b.Reservoir().Put("up", offset+1, part); err != nil {
				t.Fatal(err)
			}
			part = part[:0]
			peak = max(peak, anonymous(b.pid()))
		}
	}
	t.Logf("idle %d MB, while a million is put %d MB", idle>>20, peak>>20)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	b = openBox(t, dir)
	t.Logf("opened in %v, %d MB", time.Since(start), anonymous(b.pid())>>20)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for from := uint64(1); from < 900_000; {
			l, err := b.Reservoir().Read("up", from, 0)
			if err != nil || len(l.Records) == 0 {
				t.Errorf("from %d: %d records, %v", from, len(l.Records), err)
				return
			}
			from = l.Next
		}
	}()
	start = time.Now()
	err := shrink(b.Reservoir(), "up", 900_000, Policy{Mode: Thin}, 200<<20, 100_000_000)
	if err == nil {
		err = shrink(b.Reservoir(), "up", 0, Policy{Mode: Thin}, 100<<20, 100_000_000)
	}
	if err != nil {
		t.Fatal(err)
	}
	<-done
	peak = max(peak, anonymous(b.pid()))
	st := b.Reservoir().Stat("up")
	t.Logf("thinned in %v to %d records and %d MB, %d MB of memory", time.Since(start), st.Count, st.Bytes>>20, anonymous(b.pid())>>20)
	checkLedger(t, "thinned", st)
	if err := b.Reservoir().Release("up", st.Last); err != nil {
		t.Fatal(err)
	}
	if peak > 64<<20 {
		t.Errorf("%d MB", peak>>20)
	}
}
