package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAddDevice(t *testing.T) {
	fine := func(*Config) error { return nil }
	heater := []Field{{"driver", "mqtt"}, {"name", "Heater \"two\"\n# x"}, {"from", []string{"tele/+/SENSOR", "a/b"}}}
	written := `  heater: {driver: "mqtt", name: "Heater \"two\"\n# x", from: ["tele/+/SENSOR", "a/b"]}` + "\n"
	for _, c := range []struct {
		name, before, id string
		section          []Field
		check            func(*Config) error
		want, fails      string
	}{
		{name: "the first", id: "heater", want: devicesHeader + "devices:\n" + written},
		{name: "comments stay", before: "# ours\ndevices:\n  a: {driver: x} # one\n\n# end\n", id: "heater", want: "# ours\ndevices:\n  a: {driver: x} # one\n" + written + "\n# end\n"},
		{name: "there already", before: "devices:\n  heater: {driver: x}\n", id: "heater", fails: `devices.yaml:2:3: device "heater" is defined here; give the new one another id`},
		{name: "in another file", id: "main", fails: `weir.yaml:2:3: device "main" is defined here`},
		{name: "no id", id: "a/b", fails: `"a/b" cannot be the id of a device`},
		{name: "not by lines", before: "devices: {a: {driver: x}}\n", id: "heater", fails: "edit it by hand"},
		{name: "refused", id: "heater", check: func(c *Config) error {
			if len(c.Devices) != 2 || c.Devices["heater"].Name() != "heater" {
				t.Errorf("checked is %v", c.Devices)
			}
			return errors.New("no such driver")
		}, fails: "no such driver"},
		{name: "a secret", id: "heater", section: []Field{{"base", "x/${file:/etc/hostname}"}}, fails: "${ would stand for a secret"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := map[string]string{"weir.yaml": "devices:\n  main: {driver: x}\n"}
			if c.before != "" {
				files["conf.d/devices.yaml"] = c.before
			}
			file := tree(t, files)
			if c.check == nil {
				c.check = fine
			}
			if c.section == nil {
				c.section = heater
			}
			name, err := AddDevice(file, c.id, c.section, c.check)
			path := filepath.Join(filepath.Dir(file), "conf.d", "devices.yaml")
			got, _ := os.ReadFile(path)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) || string(got) != c.before {
					t.Errorf("got %v, and the file is\n%s", err, got)
				}
				return
			}
			if err != nil || name != path || string(got) != c.want {
				t.Errorf("%v: %s is\n%s\nwant\n%s", err, name, got, c.want)
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			var section struct {
				Driver, Name string
				From         []string
			}
			cfg, err := Load(file)
			if err == nil {
				err = cfg.Devices["heater"].Decode(&section)
			}
			if err != nil || section.Name != "Heater \"two\"\n# x" || len(section.From) != 2 {
				t.Errorf("read back %+v, %v", section, err)
			}
		})
	}
}
