package blueprint_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weir-iot/weir/devices/blueprint"
	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/devices/devicetest"
)

func TestConformance(t *testing.T) {
	devicetest.Conformance(t, func(t *testing.T) *devicetest.Rig {
		file := filepath.Join(t.TempDir(), "temp")
		write := func(text string) { // whole at once, as the kernel does
			next := file + ".next"
			if err := errors.Join(os.WriteFile(next, []byte(text), 0o600), os.Rename(next, file)); err != nil {
				t.Error(err)
			}
		}
		line, err := codec.NewFormat(map[string]any{"csv": []any{"seq"}}, map[string]codec.Measurement{"seq": {Unit: "1"}})
		if err != nil {
			t.Fatal(err)
		}
		d, err := blueprint.New(blueprint.Config{Path: file, Interval: time.Millisecond}, line)
		if err != nil {
			t.Fatal(err)
		}
		write("0\n")
		return &devicetest.Rig{
			Driver: d,
			Say:    func(n int) { write(fmt.Sprintln(n)) },
			Noise:  func() { write("n/a\n") },
			Unplug: func() { os.Remove(file) },
			Plug:   func() { write("0\n") },
		}
	})
}

func TestConfigErrors(t *testing.T) {
	for want, cfg := range map[string]blueprint.Config{
		"path: missing; it is the file to read": {},
		"interval: -1s is less than 0":          {Path: "/sys/x", Interval: -time.Second},
	} {
		if _, err := blueprint.New(cfg, nil); err == nil || err.Error() != want {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}
