package config

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

// Config is the whole of weir.yaml, checked, with defaults filled in.
type Config struct {
	Gateway   Gateway
	Listeners Listeners
	Journal   Journal
	Health    Health
	Discovery Discovery
	Buses     map[string]Section // by id; lines and connections that devices share
	Radios    map[string]Section // by adapter; Bluetooth adapters that devices share
	Devices   map[string]Section // by id; the driver decodes its own
	Uplinks   map[string]Section // by id; the sink decodes its own
	Routes    map[string]Route
	Downlinks map[string]Downlink
	Roles     map[string]auth.Role
	Users     map[string]auth.User

	Auth  *auth.Policy `yaml:"-"` // made of Users and Roles
	Files []string     `yaml:"-"` // what was read, in order
	// Sum is the SHA-256 of the files, one behind the other, as they were read: before references
	// were filled in, so that it tells nothing of a password.
	Sum [sha256.Size]byte `yaml:"-"`
}

// Gateway says who this gateway is.
type Gateway struct {
	// ID is part of every event id. Default: the host name, with what an id cannot
	// hold replaced by "-".
	ID string
	// Site is the first level of the topics that devices are given. Default "weir".
	Site string
	// DataDir is where the journal and the state live; relative to the config file.
	// Default /var/lib/weir for root, else $XDG_STATE_HOME/weir or ~/.local/state/weir.
	DataDir string `yaml:"data_dir"`
}

// Listeners are the addresses, host:port. Without users they must be on loopback.
type Listeners struct {
	MQTT struct {
		Address string // default 127.0.0.1:1883
	}
	HTTP struct {
		Address string // default 127.0.0.1:8080
		// Origins are the other web sites whose pages may connect, as
		// scheme://host[:port]. Pages of this gateway always may.
		Origins []string
	}
	MQTTSN *MQTTSN // nil: there is none
}

// Journal bounds the store.
type Journal struct {
	MaxSize       Size          `yaml:"max_size"`       // default 2GiB
	MaxAge        time.Duration `yaml:"max_age"`        // default 7d; 0: what there is room for
	MinFree       Share         `yaml:"min_free"`       // default 5%, but 1GiB at most; 48MiB at least
	FlushInterval time.Duration `yaml:"flush_interval"` // default 1s
}

// Health is what the gateway says of itself.
type Health struct {
	// Interval is how often; default 1m, 0: never.
	Interval time.Duration
	// Topic is where, with {gateway} and {site}. Default weir/{gateway}/health.
	Topic string
}

// Discovery is whether Home Assistant is told what devices there are.
type Discovery struct {
	// Enabled is true, false, or auto, the default: from when Home Assistant was first seen at this gateway.
	Enabled string
	// Prefix is of the topics on which Home Assistant listens; default homeassistant.
	Prefix string
}

// Route sends what its topics match to an uplink. A topic that several routes of one uplink match
// goes by the one of the highest priority; of several, by the first in order of id.
type Route struct {
	Topics gateway.Filters
	Uplink string
	// Key is the ordering key: text with {topic}, {device}, {1} … for a level. Default {topic}.
	Key   string
	Lanes int // connections over which keys are spread, 1 to 16; default 1
	// Priority is the share of the link while several routes want it: high 16, normal 4, low 1.
	Priority string
	// TTL is the longest that an event is worth sending; default: for ever.
	TTL   time.Duration
	Limit struct {
		Events int  // in a second; 0: as fast as it goes
		Bytes  Size // in a second; 0: as fast as it goes
	}
	// DeadAfter is how often the far end has to refuse an event for ever; default 1.
	DeadAfter int `yaml:"dead_after"`
	Retention `yaml:",inline"`
}

// Retention says what becomes of a route's backlog when the journal has no room for it.
type Retention struct {
	// OnFull is what happens at MaxSize: thin (default), drop-oldest, drop-newest or reject.
	OnFull string `yaml:"on_full"`
	// Keep is the ladder of thin. Default {for: 1d}, {for: 14d, every: 1m}, {latest: true}.
	Keep []Keep
	// MaxSize bounds the backlog beside the journal; default 1GiB.
	MaxSize Size `yaml:"max_size"`
}

// Keep is one step: everything, or one event of each topic in each Every, of what is younger than For;
// or the latest of each topic, however old.
type Keep struct {
	For, Every time.Duration
	Latest     bool
}

// weights are what a priority counts as.
var weights = map[string]int{"high": 16, "normal": 4, "low": 1}

// Weight is Priority as a number.
func (r Route) Weight() int { return weights[r.Priority] }

// The defaults of a route.
const backlogSize = 1 << 30

func defaultKeep() []Keep {
	return []Keep{{For: 24 * time.Hour}, {For: 14 * 24 * time.Hour, Every: time.Minute}, {Latest: true}}
}

func (r *Route) fill() {
	if r.Priority == "" {
		r.Priority = "normal"
	}
	if r.Lanes == 0 {
		r.Lanes = 1
	}
	if r.DeadAfter == 0 {
		r.DeadAfter = 1
	}
	if r.OnFull == "" {
		r.OnFull = "thin"
	}
	if r.OnFull == "thin" && r.Keep == nil {
		r.Keep = defaultKeep()
	}
	if r.MaxSize == 0 {
		r.MaxSize = backlogSize
	}
}

// Load reads file and the conf.d/*.yaml beside it, in order of name. Maps of several
// files are put together; to define a key twice is an error. An empty file is valid,
// and no file at all ("") is as good. The error is an Errors.
func Load(file string) (*Config, error) { return load(file, nil) }

// load is Load with the text of files in place of what they hold, or where there are none.
func load(file string, in map[string]string) (*Config, error) {
	root, files, err := readExpanded(file, in)
	if err != nil {
		return nil, err
	}
	c := defaults()
	c.Files, c.Sum = files.names, files.sum
	if errs := decode(root, c); len(errs) > 0 {
		return nil, errs.orNil()
	}
	if errs := c.check(root); len(errs) > 0 {
		return nil, errs.orNil()
	}
	return c, nil
}

func defaults() *Config {
	c := &Config{
		Gateway:   Gateway{ID: hostID(os.Hostname()), Site: "weir"},
		Journal:   Journal{MaxSize: 2 << 30, MaxAge: 7 * 24 * time.Hour, MinFree: Share{Percent: 5}, FlushInterval: time.Second},
		Health:    Health{Interval: time.Minute, Topic: "weir/{gateway}/health"},
		Discovery: Discovery{Enabled: "auto", Prefix: "homeassistant"},
	}
	c.Listeners.MQTT.Address = "127.0.0.1:1883"
	c.Listeners.HTTP.Address = "127.0.0.1:8080"
	return c
}

// hostID makes an id of a host name.
func hostID(host string, err error) string {
	if err != nil {
		return "weir"
	}
	id := strings.Map(func(r rune) rune {
		if validID(string(r)) || r == '.' || r == '-' {
			return r
		}
		return '-'
	}, host)
	if id = strings.TrimLeft(id, ".-"); id == "" {
		return "weir"
	}
	return id[:min(len(id), maxID)]
}

// files is what was read.
type files struct {
	names []string // in order
	sum   [sha256.Size]byte
}

// readExpanded is read with the references filled in.
func readExpanded(file string, in map[string]string) (*node, files, error) {
	root, found, err := read(file, in)
	if err != nil {
		return nil, files{}, err
	}
	return root, found, root.src.secrets.expand(root).orNil()
}

// read returns the files as one tree, those of in as if they stood there. The tree's own place is the main file as a whole.
func read(file string, in map[string]string) (*node, files, error) {
	shared := &secrets{dir: filepath.Dir(file)}
	root := &node{kind: dict, place: place{&source{name: file, secrets: shared}, 0, 0}}
	if file == "" {
		return root, files{sum: sha256.Sum256(nil)}, nil
	}
	names, errs := fragments(file, shared)
	for name := range in {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	names = append([]string{file}, names...)
	sum := sha256.New()
	for _, name := range names {
		src := &source{name: name, secrets: shared}
		text, given := in[name]
		data, err := []byte(text), error(nil)
		if !given {
			data, err = readFile(name)
		}
		if err != nil {
			errs = append(errs, src.errorf(0, 0, "%v", err))
			continue
		}
		sum.Write(data)
		n, parseErrs := parse(src, data)
		if errs = append(errs, parseErrs...); len(parseErrs) == 0 {
			errs = append(errs, root.merge(n)...)
		}
	}
	return root, files{names, [sha256.Size]byte(sum.Sum(nil))}, errs.orNil()
}

// fragments are the files of conf.d. One that would be passed over because of its
// name is an error: somebody thinks that it counts.
func fragments(file string, shared *secrets) (names []string, errs Errors) {
	dir := filepath.Join(filepath.Dir(file), "conf.d")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, Errors{{File: dir, Message: reason(err).Error()}}
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."):
		case strings.HasSuffix(name, ".yaml"):
			names = append(names, name)
		case strings.HasSuffix(name, ".yml"):
			errs = append(errs, &Error{File: name, Message: "files in conf.d must end in .yaml"})
		}
	}
	return names, errs
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, reason(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	return data, reason(err)
}

// reason is err without the file's name, which is in front of the message already.
func reason(err error) error {
	if path := (*os.PathError)(nil); errors.As(err, &path) {
		return path.Err
	}
	return err
}
