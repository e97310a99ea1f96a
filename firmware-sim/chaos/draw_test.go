package chaos

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/weir-iot/weir/firmware-sim/fault"
)

func TestDraw(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(50) {
		s := Draw(seed, time.Minute, false, nil)
		again, err := fault.Parse(s.String())
		if err != nil {
			t.Fatalf("seed %d: %v in\n%s", seed, err, s)
		}
		if !slices.Equal(s, again) || !slices.Equal(s, Draw(seed, time.Minute, false, nil)) {
			t.Fatalf("seed %d: not the same when it is drawn or read again:\n%s", seed, s)
		}
		for _, r := range s {
			seen[r.Verb] = true
			if r.At+r.For > time.Minute {
				t.Errorf("seed %d: %s is not over in time", seed, r)
			}
			if toFarEnd(r.Verb) && r.Verb != "outage" && r.At+r.For > 24*time.Second && r.At < 36*time.Second {
				t.Errorf("seed %d: %s while there is the outage", seed, r)
			}
		}
	}
	for _, lane := range [][]choice{gatewayLane, farLane, deviceLane, {{verb: "outage"}, {verb: "flip"}}} {
		for _, c := range lane {
			if !seen[c.verb] {
				t.Errorf("%s is never drawn", c.verb)
			}
		}
	}
	for _, r := range Draw(1, 10*time.Minute, false, map[string]string{"power": "no", "plug": "no", "flip": "no"}) {
		if r.Verb == "power" || r.Verb == "plug" || r.Verb == "flip" {
			t.Errorf("%s cannot be had and is drawn", r)
		}
		if r.Verb == "outage" && r.For > longestOutage {
			t.Errorf("%s", r)
		}
	}
}

// What docs/chaos.md says of the long campaign, also for those who cannot mount.
func TestDrawKills(t *testing.T) {
	for seed := range uint64(10) {
		kills, cuts := 0, 0
		for _, r := range Draw(seed, 30*time.Minute, true, map[string]string{"plug": "no"}) {
			switch {
			case r.Verb == "kill" && r.Arg != "box":
				kills++
			case r.Verb == "power":
				cuts++
			}
		}
		if kills < 1000 || cuts < 200 {
			t.Errorf("seed %d: %d kills of the gateway, %d power cuts", seed, kills, cuts)
		}
	}
}

func TestFlipSparesTheNewestSegment(t *testing.T) {
	c := &campaign{disk: &disk{data: t.TempDir()}}
	dir := filepath.Join(c.disk.data, "journal")
	names := []string{"0001.seg", "0002.seg", "0003.seg", "0001.idx"}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 100), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.flip(rand.New(rand.NewPCG(1, 1)), "9"); err != nil {
		t.Fatal(err)
	}
	bits := map[string]int{}
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range data {
			for ; b != 0; b &= b - 1 {
				bits[name]++
			}
		}
	}
	if bits["0001.seg"] == 0 || bits["0002.seg"] == 0 || bits["0001.seg"]+bits["0002.seg"] != 9 {
		t.Errorf("turned: %v", bits)
	}
	for _, arg := range []string{"", "x", "0"} {
		if c.flip(nil, arg) == nil {
			t.Errorf("flip %q is taken", arg)
		}
	}
}
