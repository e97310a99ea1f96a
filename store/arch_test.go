package store_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/store"
)

// archDir is set for the child that TestOtherArchitectures builds for another machine: the directory
// in which it reads what this one wrote and writes something itself.
const archDir = "WEIR_ARCH_DIR"

// TestOtherArchitectures: what a 64-bit machine wrote a 32-bit one reads, and the other way round. The 386
// binary runs on amd64 as it is, the ARMv6 one under qemu.
func TestOtherArchitectures(t *testing.T) {
	if dir := os.Getenv(archDir); dir != "" {
		archRead(t, filepath.Join(dir, "there"), 2000)
		archWrite(t, filepath.Join(dir, "back"), 2000)
		return
	}
	if testing.Short() {
		t.Skip("builds test binaries for other architectures")
	}
	for _, target := range []struct{ arch, arm, runner string }{{"386", "", ""}, {"arm", "6", "qemu-arm"}} {
		t.Run(target.arch, func(t *testing.T) {
			if target.runner == "" && runtime.GOARCH != "amd64" {
				t.Skip("386 binaries run on amd64 only")
			}
			if target.runner != "" {
				if _, err := exec.LookPath(target.runner); err != nil {
					t.Skipf("%s is not installed (apt-get install qemu-user)", target.runner)
				}
			}
			dir := t.TempDir()
			binary := filepath.Join(dir, "store.test")
			build := exec.Command("go", "test", "-c", "-o", binary, ".")
			build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+target.arch, "GOARM="+target.arm)
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			archWrite(t, filepath.Join(dir, "there"), 2000)
			args := []string{binary, "-test.run", "^TestOtherArchitectures$"}
			if target.runner != "" {
				args = append([]string{target.runner}, args...)
			}
			child := exec.Command(args[0], args[1:]...)
			child.Env = append(os.Environ(), archDir+"="+dir)
			if out, err := child.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			archRead(t, filepath.Join(dir, "back"), 2000)
		})
	}
}

func archEvent(i int) *gateway.Event {
	return &gateway.Event{
		Topic: fmt.Sprintf("a/%d", i%7), Payload: fmt.Appendf(nil, "%0*d", i%900, i), QoS: byte(i % 3), Retain: i%5 == 0,
		Accepted: time.Unix(int64(i), int64(i)*1e6).UTC(), Expiry: time.Duration(i%3) * time.Hour, PacketID: uint16(i),
		Origin: gateway.Origin{Via: "mqtt", ID: "c"}, UserProperties: []gateway.UserProperty{{Key: "k", Value: "v"}},
	}
}

// archOptions make the journal believe that both are one machine; the epoch goes on.
func archOptions(dir string) store.Options {
	same := func(name string) func() string { return func() string { return name } }
	return store.Options{Dir: filepath.Join(dir, "journal"), SegmentSize: 128 << 10, BootID: same("b"), MachineID: same("m"), MinFree: store.MinFree{Bytes: 1}}
}

// archWrite fills a journal, a state and a reservoir.
func archWrite(t *testing.T, dir string, n int) {
	t.Helper()
	j, err := store.Open(archOptions(dir))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- j.Run(ctx, deaf{}) }()
	stored := make(chan error, n)
	for i := range n {
		if err := j.Append(ctx, archEvent(i), gateway.Synced, func(err error) { stored <- err }); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		if err := <-stored; err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-over; err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := store.OpenState(filepath.Join(dir, "state"), nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := store.OpenReservoir(filepath.Join(dir, "reservoir"), nil)
	if err != nil {
		t.Fatal(err)
	}
	changes := map[string][]byte{}
	var records []store.Record
	for i := range n {
		changes[fmt.Sprint("key", i)] = fmt.Appendf(nil, "%0*d", i, i)
		records = append(records, store.Record{Offset: uint64(i + 1), Epoch: "e1", Age: int64(i), Key: uint64(i % 7), Body: fmt.Appendf(nil, "%0*d", i, i)})
	}
	if err := s.Apply("b", changes); err != nil {
		t.Fatal(err)
	}
	if err := r.Put("h", uint64(n+1), records); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// archRead checks what archWrite wrote.
func archRead(t *testing.T, dir string, n int) {
	t.Helper()
	j, err := store.Open(archOptions(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	at := 0
	for from := uint64(1); from < j.Next(); {
		b, err := j.Read(from, everything, 100)
		if err != nil || b.Gap != nil {
			t.Fatalf("%v, gap %v", err, b.Gap)
		}
		for _, e := range b.Events {
			want := archEvent(at)
			if e.Topic != want.Topic || string(e.Payload) != string(want.Payload) || !e.Accepted.Equal(want.Accepted) || e.Expiry != want.Expiry ||
				e.QoS != want.QoS || e.Retain != want.Retain || e.PacketID != want.PacketID || e.Offset != uint64(at+1) || len(e.UserProperties) != 1 {
				t.Fatalf("event %d is %+v", at, e)
			}
			at++
		}
		from = b.Next
	}
	if at != n {
		t.Errorf("%d of %d events", at, n)
	}
	s, err := store.OpenState(filepath.Join(dir, "state"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := store.OpenReservoir(filepath.Join(dir, "reservoir"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i := range n {
		v, ok, err := s.Get("b", fmt.Sprint("key", i))
		if err != nil || !ok || string(v) != fmt.Sprintf("%0*d", i, i) {
			t.Fatalf("key %d: %q, %v, %v", i, v, ok, err)
		}
	}
	got := 0
	for from := uint64(1); from <= uint64(n); {
		b, err := r.Read("h", from, 0)
		if err != nil || len(b.Lost) > 0 || b.Next <= from {
			t.Fatalf("from %d: %+v, %v", from, b.Lost, err)
		}
		for _, rec := range b.Records {
			if i := int(rec.Offset) - 1; string(rec.Body) != fmt.Sprintf("%0*d", i, i) || rec.Epoch != "e1" || rec.Age != int64(i) {
				t.Fatalf("record %d is %q", rec.Offset, rec.Body)
			}
			got++
		}
		from = b.Next
	}
	if got != n {
		t.Errorf("%d of %d records", got, n)
	}
}
