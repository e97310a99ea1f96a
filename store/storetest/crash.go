package storetest

import (
	"bufio"
	"context"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/store"
)

func testPowerCut(t *testing.T, open Open) {
	d := NewDisk()
	boot := 0
	o := store.Options{
		Dir: t.TempDir(), Disk: d, SegmentSize: 8 << 10, FlushInterval: time.Hour, MachineID: same("m"),
		BootID: func() string { return fmt.Sprint(boot) },
	}
	rnd := rand.New(rand.NewSource(3))
	given := map[uint64]string{} // every offset that was ever given out, and to what
	epochs := map[string]bool{}
	var promised []*gateway.Event // synced: these must be there for ever
	var seen []*gateway.Event
	for round := range 25 {
		r := start(t, open, o)
		if epochs[r.Epoch()] {
			t.Fatalf("round %d: epoch %s goes on after a power cut", round, r.Epoch())
		}
		epochs[r.Epoch()] = true
		got, gaps := r.readAll(1, all, 100)
		checkServed(t, fmt.Sprintf("round %d", round), seen, got, gaps)
		at := map[uint64]*gateway.Event{}
		for _, e := range got {
			at[e.Offset] = e
		}
		for _, e := range promised {
			if got := at[e.Offset]; got == nil || differ(got, e) != "" {
				t.Fatalf("round %d: %s was acknowledged and is gone", round, e.Position())
			}
		}
		seen = got
		for i := range rnd.Intn(60) {
			need := gateway.Durability(rnd.Intn(2))
			e := r.mustPut(event("a", fmt.Sprintf("%d/%d", round, i)), need)
			if before, twice := given[e.Offset]; twice {
				t.Fatalf("round %d: offset %d was given to %s before", round, e.Offset, before)
			}
			given[e.Offset] = string(e.Payload)
			seen = append(seen, e)
		}
		synced := r.syncedUpTo()
		for _, e := range seen {
			if e.Offset < synced && e.Epoch == r.Epoch() {
				promised = append(promised, e)
			}
		}
		d.Kill()
		r.stop()
		if err := d.PowerCut(rnd, []float64{0, 0.5, 1}[round%3]); err != nil {
			t.Fatal(err)
		}
		d.Revive()
		boot++
	}
	if segs := files(t, o.Dir, ".seg"); len(segs) > 30 {
		t.Errorf("25 power cuts left %d segments", len(segs))
	}
	if torn := files(t, o.Dir, ""); len(torn) > 80 {
		t.Errorf("%d files", len(torn))
	}
}

func testClone(t *testing.T, open Open) {
	for _, clean := range []bool{true, false} {
		o := store.Options{Dir: t.TempDir(), MachineID: same("m"), BootID: same("b")}
		d := NewDisk()
		o.Disk = d
		r := start(t, open, o)
		epoch := r.Epoch()
		r.mustPut(event("a", ""), gateway.Synced)
		if !clean {
			d.Kill()
		}
		r.stop()
		d.Revive()
		clone := o
		clone.Dir = t.TempDir() // on the same machine: a copy, or what a backup restored
		copyDir(t, o.Dir, clone.Dir)
		moved := o
		moved.Dir = t.TempDir()
		copyDir(t, o.Dir, moved.Dir)
		moved.MachineID = same("another")
		names := map[string]bool{epoch: true}
		for _, o := range []store.Options{clone, moved} {
			r := start(t, open, o)
			if names[r.Epoch()] || r.recovery.NewEpoch == "" {
				t.Errorf("a clone goes on in epoch %s: %+v", r.Epoch(), r.recovery)
			}
			names[r.Epoch()] = true
			if e := r.mustPut(event("a", ""), gateway.Synced); e.Offset <= 2 {
				t.Errorf("a clone gives out offset %d", e.Offset)
			}
			events, gaps := r.readAll(1, all, 10)
			if len(events) != 2 || clean && gaps != nil || !clean && len(gaps) != 1 {
				t.Errorf("clean stop %v: %d events, gaps %v", clean, len(events), gaps)
			}
			r.mustStop()
		}
		r = start(t, open, o) // the original does not notice
		if r.Epoch() != epoch {
			t.Errorf("the original has a new epoch: %+v", r.recovery)
		}
		r.mustStop()
	}
}

const childDir = "WEIR_STORETEST_CHILD"

// child is the process that is killed: it appends for ever and says what was
// acknowledged, and what was visible although nobody waited for it.
func child(open Open, dir string) {
	out := bufio.NewWriter(os.Stdout)
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	j, err := open(store.Options{Dir: dir, SegmentSize: 64 << 10, FlushInterval: 5 * time.Millisecond})
	if err != nil {
		fail(err)
	}
	fmt.Printf("epoch %s\n", j.Epoch())
	go func() { fail(j.Run(context.Background(), quiet{})) }()
	inFlight := make(chan struct{}, 200)
	for i := j.Next(); ; i++ {
		inFlight <- struct{}{}
		e := event("t", fmt.Sprintf("%d:%s", i, strings.Repeat("k", int(i%300))))
		need := gateway.Durability(i % 2)
		err := j.Append(context.Background(), e, need, func(err error) {
			if err != nil {
				fail(err)
			}
			fmt.Fprintf(out, "%d %s\n", e.Offset, e.Payload)
			out.Flush()
			<-inFlight
		})
		if err != nil {
			fail(err)
		}
	}
}

type quiet struct{}

func (quiet) Released([]*gateway.Event, uint64) {}
func (quiet) Synced(uint64)                     {}

func testKill(t *testing.T, open Open) {
	dir := t.TempDir()
	name, _, _ := strings.Cut(t.Name(), "/")
	acked := map[uint64]string{}
	rounds := 8
	if testing.Short() {
		rounds = 3
	}
	epoch := ""
	for round := range rounds {
		line := append(strings.Fields(os.Getenv("WEIR_EMULATOR")), os.Args[0], "-test.run=^"+name+"$")
		cmd := exec.Command(line[0], line[1:]...)
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		cmd.Stderr = os.Stderr
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(pipe)
		enough := 300 + 77*round
		for n := 0; lines.Scan(); n++ {
			var offset uint64
			var text string
			if e, ok := strings.CutPrefix(lines.Text(), "epoch "); ok {
				if epoch != "" && e != epoch {
					t.Errorf("round %d: epoch %s after %s: kill -9 began a new one", round, e, epoch)
				}
				epoch = e
				continue
			}
			if _, err := fmt.Sscan(lines.Text(), &offset, &text); err != nil || !strings.HasPrefix(text, fmt.Sprint(offset)+":") && round == 0 {
				continue // the last line may be half
			}
			if before, twice := acked[offset]; twice {
				t.Fatalf("round %d: offset %d is %.20s and was %.20s", round, offset, text, before)
			}
			acked[offset] = text
			if n == enough {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("round %d: the child ended with %v", round, err)
		}
	}
	r := start(t, open, store.Options{Dir: dir})
	defer r.mustStop()
	if r.Epoch() != epoch {
		t.Errorf("epoch %s after %s: %+v", r.Epoch(), epoch, r.recovery)
	}
	got, gaps := r.readAll(1, all, 500)
	if gaps != nil {
		t.Errorf("gaps %v", gaps)
	}
	for _, e := range got {
		if text, ok := acked[e.Offset]; ok && text != string(e.Payload) {
			t.Fatalf("offset %d is %.20s, acknowledged was %.20s", e.Offset, e.Payload, text)
		}
		delete(acked, e.Offset)
	}
	if len(acked) > 0 {
		t.Errorf("%d acknowledged events are gone", len(acked))
	}
}
