package config

import (
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/weir-iot/weir/gateway"
)

func TestDefaults(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "comment": "# nothing\n", "marker": "---\n", "BOM": "\ufeff\n", "null": "~\n"} {
		c, err := Load(tree(t, map[string]string{"weir.yaml": text}))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c.Gateway.Site != "weir" || !validID(c.Gateway.ID) || !filepath.IsAbs(c.Gateway.DataDir) {
			t.Errorf("%s: gateway is %+v", name, c.Gateway)
		}
		if c.Listeners.MQTT.Address != "127.0.0.1:1883" || c.Listeners.HTTP.Address != "127.0.0.1:8080" || c.Listeners.HTTP.Origins != nil {
			t.Errorf("%s: listeners are %+v", name, c.Listeners)
		}
		if c.Journal != (Journal{MaxSize: 2 << 30, MaxAge: 7 * 24 * time.Hour, MinFree: Share{Percent: 5}, FlushInterval: time.Second}) {
			t.Errorf("%s: journal is %+v", name, c.Journal)
		}
		if c.Health != (Health{Interval: time.Minute, Topic: "weir/" + c.Gateway.ID + "/health"}) {
			t.Errorf("%s: health is %+v", name, c.Health)
		}
		if c.Auth == nil || !c.Auth.Open() || len(c.Files) != 1 {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

// The sum is of the files as they are, so that sha256sum says the same, and a secret is not in it.
func TestSum(t *testing.T) {
	main, more := "gateway: {id: gw, site: \"${file:secret}\"}\nhealth: {topic: \"{site}/{gateway}/health\"}\n", "journal: {max_size: 1GiB}\n"
	sum := func(secret string) [sha256.Size]byte {
		c, err := Load(tree(t, map[string]string{"weir.yaml": main, "conf.d/a.yaml": more, "secret": secret}))
		if err != nil {
			t.Fatal(err)
		}
		if c.Health.Topic != secret+"/gw/health" {
			t.Errorf("health goes to %s", c.Health.Topic)
		}
		return c.Sum
	}
	if a, b := sum("one"), sum("two"); a != b || a != sha256.Sum256([]byte(main+more)) {
		t.Errorf("sums %x and %x, want %x", a, b, sha256.Sum256([]byte(main+more)))
	}
	if c, err := Load(""); err != nil || c.Sum != sha256.Sum256(nil) {
		t.Errorf("without a file: %x, %v", c.Sum, err)
	}
}

func TestHostID(t *testing.T) {
	for host, want := range map[string]string{
		"raspberrypi": "raspberrypi", "gw7.plant1.lan": "gw7.plant1.lan", "Küche": "K-che", "my host!": "my-host-", "-x": "x", "..": "weir", "": "weir",
		"_gw": "_gw", strings.Repeat("a", 80): strings.Repeat("a", 64),
	} {
		if got := hostID(host, nil); got != want || !validID(got) {
			t.Errorf("host %q gives id %q, want %q", host, got, want)
		}
	}
	if got := hostID("", errors.New("no name")); got != "weir" {
		t.Errorf("without a host name the id is %q", got)
	}
}

func TestStateDir(t *testing.T) {
	if os.Geteuid() == 0 {
		if dir, err := stateDir(); dir != "/var/lib/weir" || err != nil {
			t.Errorf("root's data is in %s, %v", dir, err)
		}
	}
	t.Setenv("HOME", "/home/ann")
	for xdg, want := range map[string]string{"": "/home/ann/.local/state/weir", "/state": "/state/weir", "not/absolute": "/home/ann/.local/state/weir"} {
		t.Setenv("XDG_STATE_HOME", xdg)
		if dir, err := userStateDir(); dir != want || err != nil {
			t.Errorf("with XDG_STATE_HOME=%q a user's data is in %s, %v, want %s", xdg, dir, err, want)
		}
	}
	t.Setenv("XDG_STATE_HOME", "")
	t.Setenv("HOME", "")
	if dir, err := userStateDir(); err == nil {
		t.Errorf("without a home data is in %s", dir)
	}
}

func TestLoadMerges(t *testing.T) {
	file := tree(t, map[string]string{
		"weir.yaml":          "gateway: {site: plant1, data_dir: data}\nlisteners:\n  http: {address: 127.0.0.1:9090}\ndevices:\nroutes: {a: {topics: [x], uplink: up}}\n",
		"conf.d/20.yaml":     "listeners: {http: {origins: [https://a.lan]}, mqtt: {address: 127.0.0.1:1}}\ndevices:\n  d: {driver: serial}\n",
		"conf.d/10.yaml":     "gateway: {id: gw}\njournal:\nlisteners:\nuplinks: {up: {sink: mqtt}}\nroutes: {b: {topics: [y/#, \"#\"], uplink: up}}\n",
		"conf.d/.hidden.yml": "nonsense",
		"conf.d/README":      "nonsense",
		"other.yaml":         "nonsense",
	})
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(file)
	if c.Gateway != (Gateway{"gw", "plant1", filepath.Join(dir, "data")}) {
		t.Errorf("gateway is %+v", c.Gateway)
	}
	if h := c.Listeners.HTTP; h.Address != "127.0.0.1:9090" || len(h.Origins) != 1 || c.Listeners.MQTT.Address != "127.0.0.1:1" {
		t.Errorf("listeners are %+v", c.Listeners)
	}
	if len(c.Devices) != 1 || len(c.Uplinks) != 1 || len(c.Routes) != 2 || len(c.Routes["b"].Topics) != 2 || !c.Routes["b"].Topics.Match("y") {
		t.Errorf("config is %+v", c)
	}
	if got := strings.Join(c.Files, " "); got != strings.Join([]string{file, dir + "/conf.d/10.yaml", dir + "/conf.d/20.yaml"}, " ") {
		t.Errorf("files are %s", got)
	}
	// What is decoded later still knows its file.
	if err := c.Devices["d"].Errorf("driver", "oops"); !strings.HasPrefix(err.Error(), dir+"/conf.d/20.yaml:3:15: oops\n") {
		t.Errorf("a device's error is at %v", err)
	}
}

func TestLoadFails(t *testing.T) {
	dir := t.TempDir()
	for name, prepare := range map[string]func(file string) string{
		"no such file or directory": func(string) string { return "" },
		"is a directory":            func(f string) string { return errText(os.Mkdir(f, 0o755)) },
		"is larger than 262144 bytes": func(f string) string {
			return errText(os.WriteFile(f, []byte(strings.Repeat("# many\n", 160_000)), 0o600))
		},
		"lists and maps are nested": func(f string) string {
			return errText(os.WriteFile(f, []byte(strings.Repeat("[\n", 100_000)), 0o600))
		},
		"nested more than 64 deep": func(f string) string {
			return errText(os.WriteFile(f, []byte("devices: "+strings.Repeat("[", 100)+strings.Repeat("]", 100)), 0o600))
		},
	} {
		file := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if msg := prepare(file); msg != "" {
			t.Fatal(msg)
		}
		_, err := Load(file)
		if err == nil || !strings.HasPrefix(err.Error(), file) || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %s", err, name)
		}
	}
	file := tree(t, map[string]string{"weir.yaml": "", "conf.d": "a file"})
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("conf.d that is a file: %v", err)
	}
}

func errText(err error) string {
	if err != nil {
		return err.Error()
	}
	return ""
}

func TestSecrets(t *testing.T) {
	t.Setenv("WEIR_TEST_NAME", "gw 7")
	file := tree(t, map[string]string{
		"weir.yaml":       "devices: {x: {a: \"${env:WEIR_TEST_NAME}-${file:pw}\", b: '${file:crlf}', c: 'x${3}${}${A:b}$${', d: \"${env:WEIR_TEST_PORT}\", e: [\"${file:pw}\"]}}\n",
		"conf.d/y.yaml":   "devices: {y: {a: \"${file:pw}\"}}\n",
		"pw":              "top secret\n",
		"crlf":            "two\n\nlines\r\n",
		"conf.d/pw":       "not this one",
		"conf.d/nul.yaml": "",
	})
	t.Setenv("WEIR_TEST_PORT", "1883")
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	var x struct {
		A, B, C string
		D       int
		E       []string
	}
	if err := c.Devices["x"].Decode(&x); err != nil {
		t.Fatal(err)
	}
	if x.A != "gw 7-top secret" || x.B != "two\n\nlines" || x.C != "x${3}${}${A:b}$${" || x.D != 1883 || x.E[0] != "top secret" {
		t.Errorf("got %+v", x)
	}
	var y struct{ A string }
	if err := c.Devices["y"].Decode(&y); err != nil || y.A != "top secret" {
		t.Errorf("got %+v, %v", y, err)
	}
}

// Neither an excerpt nor a message shows what a reference stands for, also when
// somebody else's error repeats it.
func TestSecretsStayOut(t *testing.T) {
	t.Setenv("WEIR_TEST_SECRET", "hunter2\tx\"")
	file := tree(t, map[string]string{"weir.yaml": `devices:
  x:
    url: "mqtt://a:${env:WEIR_TEST_SECRET}@b"
    port: "${env:WEIR_TEST_SECRET}"
    password: correct horse
    other: {token: tick tock, port: x}
`})
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	var into struct {
		URL, Password string
		Port          int
		Other         struct {
			Token string
			Port  int
		}
	}
	err = errors.Join(c.Devices["x"].Decode(&into),
		c.Devices["x"].Errorf("url", "parse %q: bad", into.URL),
		c.Devices["x"].Errorf("url", "parse %s: bad", into.URL),
		c.Devices["x"].Errorf("password", "is weak"))
	if !strings.Contains(into.URL, "hunter2") || into.Password != "correct horse" {
		t.Fatalf("decoded %+v", into)
	}
	for _, secret := range []string{"hunter2", "correct", "horse", "tick"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("%s is shown:\n%v", secret, err)
		}
	}
	for _, shown := range []string{
		`weir.yaml:4:11: expected a whole number, found "${env:WEIR_TEST_SECRET}"`, `parse "mqtt://a:${env:WEIR_TEST_SECRET}@b": bad`,
		`password: *************`, `other: {token: *******************`,
	} {
		if !strings.Contains(err.Error(), shown) {
			t.Errorf("%s is not shown:\n%v", shown, err)
		}
	}
}

func TestAddresses(t *testing.T) {
	users := "users: {a: {password_hash: \"" + testHash + "\"}}\n"
	tests := []struct {
		mqtt, http  string
		alone, with string // what is wrong without users, and with some
	}{
		{"127.0.0.1:1883", "127.0.0.1:8080", "", ""},
		{"127.8.9.10:1", "localhost:2", "", ""},
		{"[::1]:1883", "[::1]:65535", "", ""},
		{"[::ffff:127.0.0.1]:1883", "localhost:0", "", ""},
		{"localhost:0", "localhost:0", "", ""},
		{"127.0.0.1:80", "127.0.0.2:80", "", ""},
		{"127.0.0.1:80", "127.0.0.1:80", "the port is the same", "the port is the same"},
		{"0.0.0.0:80", "127.0.0.1:80", "weir user add", "the port is the same"},
		{":80", "10.0.0.1:80", "weir user add", "the port is the same"},
		{"[::]:1883", "127.0.0.1:8080", "weir user add", ""},
		{"0.0.0.0:1883", "127.0.0.1:8080", "weir user add", ""},
		{":1883", "127.0.0.1:8080", "weir user add", ""},
		{"10.1.2.3:1883", "127.0.0.1:8080", "weir user add", ""},
		{"gw.lan:1883", "127.0.0.1:8080", "weir user add", ""},
		{"localhost.evil.lan:1883", "127.0.0.1:8080", "weir user add", ""},
		{"127.0.0.1:1883", "0.0.0.0:8080", "weir user add", ""},
		{"[fe80::1%eth0]:1883", "127.0.0.1:8080", "weir user add", ""},
		{"127.0.0.1", "127.0.0.1:8080", "has no port", "has no port"},
		{"127.0.0.1:", "127.0.0.1:8080", "port must be", "port must be"},
		{"127.0.0.1:mqtt", "127.0.0.1:8080", "port must be", "port must be"},
		{"127.0.0.1:65536", "127.0.0.1:8080", "port must be", "port must be"},
		{"127.0.0.1:-1", "127.0.0.1:8080", "port must be", "port must be"},
		{"::1:1883", "127.0.0.1:8080", "in brackets", "in brackets"},
		{"[::1:1883", "127.0.0.1:8080", "is not host:port", "is not host:port"},
		{"[127.0.0.1]:1883", "127.0.0.1:8080", "is not host:port", "is not host:port"},
		{"127.1:1883", "127.0.0.1:8080", "is not an IP address", "is not an IP address"},
		{"user@127.0.0.1:1883", "127.0.0.1:8080", "is not host:port", "is not host:port"},
		{"tcp://127.0.0.1:1883", "127.0.0.1:8080", "is not host:port", "is not host:port"},
		{" 127.0.0.1:1883", "127.0.0.1:8080", "is not host:port", "is not host:port"},
	}
	for _, test := range tests {
		for extra, want := range map[string]string{"": test.alone, users: test.with} {
			text := extra + "listeners:\n  mqtt: {address: \"" + test.mqtt + "\"}\n  http: {address: \"" + test.http + "\"}\n"
			_, err := Load(tree(t, map[string]string{"weir.yaml": text}))
			switch {
			case want == "" && err != nil:
				t.Errorf("%s and %s, users %v: %v", test.mqtt, test.http, extra != "", err)
			case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
				t.Errorf("%s and %s, users %v: got %v, want %s", test.mqtt, test.http, extra != "", err, want)
			}
		}
	}
}

func TestExcerpt(t *testing.T) {
	long := strings.Repeat("x", 1000)
	for text, want := range map[string]string{
		"a: 1\nb:\tc":          "b: c\n",
		"a: \x1b[31mred\x07":   "a: ?[31mred?\n",
		"a: üü # \u202e\u200b": "a: üü # ??\n",
		"a: " + long:           "a: " + strings.Repeat("x", excerptWidth-3) + "…\n",
	} {
		src := &source{name: "f", lines: strings.Split(text, "\n"), secrets: &secrets{}}
		if got := src.errorf(len(src.lines), 1, "m").Error(); !strings.Contains(got, " | "+want) {
			t.Errorf("%q is shown as\n%s", text, got)
		}
	}
	// The caret stands below its column wherever that is.
	src := &source{name: "f", lines: []string{strings.Repeat("x", 500) + "Y" + long}, secrets: &secrets{}}
	lines := strings.Split(src.errorf(1, 501, "m").Error(), "\n")
	if i := strings.IndexByte(lines[2], '^'); []rune(lines[1])[i] != 'Y' {
		t.Errorf("the caret is elsewhere:\n%s\n%s", lines[1], lines[2])
	}
}

func TestSuggest(t *testing.T) {
	known := []string{"topics", "uplink", "id"}
	for word, want := range map[string]string{
		"topic": `, did you mean "topics"?`, "TOPICS": `, did you mean "topics"?`, "upilnk": `, did you mean "uplink"?`, "ip": `, did you mean "id"?`,
		"keep": "; there is id, topics, uplink", "": "; there is id, topics, uplink", strings.Repeat("x", 100): "; there is id, topics, uplink",
	} {
		if got := Suggest(word, known); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
	if got := Suggest("x", nil); got != "" {
		t.Errorf("nothing is known: got %q", got)
	}
}

// FuzzLoad: whatever stands in a file, Load returns a config that holds together or
// placed errors, and never panics.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"weir.yaml", "good/*.yaml", "good/*/*.yaml", "good/*/conf.d/*.yaml", "bad/*.yaml", "bad/*/conf.d/*.yaml"} {
		files, err := filepath.Glob(filepath.Join(configs, pattern))
		if err != nil || len(files) == 0 {
			f.Fatal(pattern, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	file := filepath.Join(f.TempDir(), "weir.yaml")
	f.Fuzz(func(t *testing.T, data []byte) {
		if strings.Contains(string(data), "${file") { // reads whatever is named
			return
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(file)
		if err != nil {
			var errs Errors
			if !errors.As(err, &errs) {
				t.Fatalf("%v are no Errors", err)
			}
			for _, e := range errs {
				if e.File != file || e.Message == "" || strings.ContainsAny(e.Error(), "\x00\x1b\x07") {
					t.Errorf("%q: %#v", data, e)
				}
				if e.Line != 0 && (e.Line > len(e.lines) || e.Column < 1 || e.Column > utf8.RuneCountInString(e.lines[e.Line-1])+1) {
					t.Errorf("%q: the place %s is not in the file", data, e.place())
				}
			}
			return
		}
		if !validID(c.Gateway.ID) || gateway.ValidateTopic(c.Gateway.Site) != nil || c.Auth == nil || c.Journal.MaxSize < minJournal {
			t.Errorf("%q: %+v", data, c)
		}
		for id, s := range c.Devices {
			var cfg struct {
				common
				Any map[string]any
			}
			if !validID(id) {
				t.Errorf("%q: device %q", data, id)
			}
			_ = s.Decode(&cfg)
		}
		for id, r := range c.Routes {
			if _, ok := c.Uplinks[r.Uplink]; !ok || len(r.Topics) == 0 {
				t.Errorf("%q: route %q is %+v", data, id, r)
			}
		}
	})
}
