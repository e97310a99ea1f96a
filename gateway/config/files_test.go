package config

import (
	"encoding"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what is found to configs/bad/*.txt")

const configs = "../../configs"

// configFiles are the example configs in dir: its files, and weir.yaml of each directory.
func configFiles(t *testing.T, dir string) (files []string) {
	t.Helper()
	for _, pattern := range []string{"*.yaml", "*/weir.yaml"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range found {
			rel, err := filepath.Rel(dir, file)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, rel)
		}
	}
	return files
}

func TestGoodConfigs(t *testing.T) {
	files := configFiles(t, filepath.Join(configs, "good"))
	if len(files) < 7 {
		t.Fatalf("only %d good configs found", len(files))
	}
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			if _, err := Load(filepath.Join(configs, "good", file)); err != nil {
				t.Error(err)
			}
		})
	}
}

// Each bad config has its message beside it: x.yaml and x.txt, x/weir.yaml and x.txt.
func TestBadConfigs(t *testing.T) {
	t.Chdir(filepath.Join(configs, "bad"))
	files := configFiles(t, ".")
	if len(files) < 60 {
		t.Fatalf("only %d bad configs found", len(files))
	}
	goldens := map[string]bool{}
	for _, file := range files {
		golden := strings.TrimSuffix(strings.TrimSuffix(file, "/weir.yaml"), ".yaml") + ".txt"
		goldens[golden] = true
		t.Run(file, func(t *testing.T) {
			_, err := Load(file)
			var errs Errors
			if !errors.As(err, &errs) {
				t.Fatalf("got %v, want Errors", err)
			}
			got := err.Error() + "\n"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
	texts, err := filepath.Glob("*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range texts {
		if !goldens[text] {
			t.Errorf("%s belongs to no config", text)
		}
	}
}

// uncommented returns weir.yaml with its keys in force. A line of prose has one blank
// behind the #, a key has none or more.
func uncommented(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(configs, "weir.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(data)) {
		if key, ok := strings.CutPrefix(line, "#"); ok && (strings.HasPrefix(key, "  ") || key[0] >= 'a' && key[0] <= 'z') {
			line = key
		}
		b.WriteString(line)
	}
	return b.String()
}

// The commented file says nothing, and what it says in comments are the defaults.
func TestCommentedConfig(t *testing.T) {
	empty, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	asIs, err := Load(filepath.Join(configs, "weir.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Config{empty, asIs} {
		c.Auth, c.Files, c.Sum = nil, nil, empty.Sum
	}
	if !reflect.DeepEqual(empty, asIs) {
		t.Errorf("weir.yaml is %+v\nan empty file %+v", asIs, empty)
	}

	text := strings.Replace(uncommented(t), "${file:/etc/weir/cloud.password}", "x", 1)
	all, err := Load(tree(t, map[string]string{"weir.yaml": text}))
	if err != nil {
		t.Fatal(err)
	}
	if all.Gateway.Site != empty.Gateway.Site || all.Journal != empty.Journal || all.Health.Interval != empty.Health.Interval || all.Listeners.MQTT != empty.Listeners.MQTT ||
		all.Listeners.HTTP.Address != empty.Listeners.HTTP.Address || len(all.Listeners.HTTP.Origins) != 0 {
		t.Errorf("weir.yaml shows other defaults than there are: %+v", all)
	}
	shown, bare := *all.Listeners.MQTTSN, MQTTSN{}
	if err := bare.UnmarshalYAML(func(any) error { return nil }); err != nil {
		t.Fatal(err)
	}
	shown.Clients, shown.Connectionless, shown.Predefined, shown.Advertise.Address = nil, nil, nil, ""
	if !reflect.DeepEqual(shown, bare) {
		t.Errorf("weir.yaml shows other defaults of mqttsn than there are: %+v", shown)
	}
}

// weir.yaml has every key of Config.
func TestCommentedConfigIsWhole(t *testing.T) {
	root, errs := parse(&source{name: "weir.yaml", secrets: &secrets{}}, []byte(uncommented(t)))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	var look func(n *node, v reflect.Value, path string)
	look = func(n *node, v reflect.Value, path string) {
		switch {
		case v.Kind() == reflect.Map && v.Type().Elem().Kind() == reflect.Struct && v.Type().Elem() != reflect.TypeFor[Section]():
			if len(n.entries) == 0 {
				t.Errorf("weir.yaml shows no example of %s", path)
				return
			}
			look(n.entries[0].value, reflect.New(v.Type().Elem()).Elem(), path+".*")
		case reflect.PointerTo(v.Type()).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()): // a plain value
		case v.Type() == reflect.TypeFor[Identity](): // one of its keys stands alone
		case v.Kind() == reflect.Pointer:
			look(n, reflect.New(v.Type().Elem()).Elem(), path)
		case v.Kind() == reflect.Struct:
			fields := map[string][]reflect.Value{}
			collect(v, fields)
			for name, field := range fields {
				if e := n.get(name); e == nil {
					t.Errorf("weir.yaml does not have %s.%s", path, name)
				} else {
					look(e.value, field[0], path+"."+name)
				}
			}
		}
	}
	look(root, reflect.ValueOf(&Config{}).Elem(), "")
}
