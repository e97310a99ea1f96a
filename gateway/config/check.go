package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

// maxID is the longest id.
const maxID = 64

// validID tells whether s can be an id. Ids become parts of event ids, topic levels
// and file names, so they are plain.
func validID(s string) bool {
	if s == "" || len(s) > maxID || s[0] == '.' || s[0] == '-' {
		return false
	}
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r)) {
			return false
		}
	}
	return true
}

const idRule = "an id has up to 64 letters, digits and . _ -, and begins with none of . -"

// checker looks at what no single value shows.
type checker struct {
	*Config
	root *node
	errs Errors
}

// check completes c and returns what is wrong with it.
func (c *Config) check(root *node) Errors {
	k := checker{Config: c, root: root}
	k.ids()
	k.gateway()
	k.journal()
	k.health()
	k.discovery()
	k.routes()
	k.downlinks()
	k.auth()
	k.listeners() // needs auth
	k.mqttsn()    // so does this
	return k.errs
}

func (k *checker) fail(path []string, format string, args ...any) {
	k.errs = append(k.errs, k.root.find(path...).errorf(format, args...))
}

func at(path ...string) []string { return path }

func (k *checker) ids() {
	for _, section := range k.root.entries {
		if !keyed[section.name] {
			continue
		}
		for _, e := range section.value.entries {
			if !validID(e.name) {
				k.errs = append(k.errs, e.errorf("%q cannot be an id: %s", e.name, idRule))
			}
		}
	}
}

func (k *checker) gateway() {
	g := &k.Config.Gateway
	if !validID(g.ID) {
		k.fail(at("gateway", "id"), "%q cannot be an id: %s", g.ID, idRule)
	}
	if err := checkSite(g.Site); err != nil {
		k.fail(at("gateway", "site"), "%v", err)
	}
	if g.DataDir == "" {
		dir, err := stateDir()
		if err != nil {
			k.fail(at("gateway"), "gateway.data_dir has to be set: %v", err)
		}
		g.DataDir = dir
	} else if !filepath.IsAbs(g.DataDir) {
		dir, err := filepath.Abs(filepath.Join(k.root.src.secrets.dir, g.DataDir))
		if err != nil {
			k.fail(at("gateway", "data_dir"), "%v", err)
		}
		g.DataDir = dir
	}
}

func checkSite(site string) error {
	if err := gateway.ValidateTopic(site); err != nil {
		return fmt.Errorf("site is the first level of topics: %w", err)
	}
	if site[0] == '$' || strings.HasPrefix(site, "/") || strings.HasSuffix(site, "/") || strings.Contains(site, "//") {
		return fmt.Errorf("site %q is the first level of topics: it cannot begin with $ or have an empty level", site)
	}
	return nil
}

// stateDir is where data goes unless the file says otherwise.
func stateDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/weir", nil
	}
	return userStateDir()
}

func userStateDir() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "weir"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(home, ".local", "state", "weir"), nil
}

// The smallest journal has room for a few of the largest payloads, and flash is not
// written more often than a page of it can bear.
const (
	minJournal = 8 * gateway.MaxPayload
	minAge     = time.Second
	minFlush   = 10 * time.Millisecond
	maxFlush   = time.Hour
)

func (k *checker) journal() {
	j := k.Config.Journal
	if j.MaxSize < minJournal {
		k.fail(at("journal", "max_size"), "max_size %s is too small; the least is %s", j.MaxSize, Size(minJournal))
	}
	if j.MaxAge != 0 && j.MaxAge < minAge {
		k.fail(at("journal", "max_age"), "max_age must be %v or more, or 0 to keep what there is room for", minAge)
	}
	if p := j.MinFree.Percent; p < 0 || p > 90 {
		k.fail(at("journal", "min_free"), "min_free must be 0%% to 90%%, or a size")
	}
	if j.FlushInterval < minFlush || j.FlushInterval > maxFlush {
		k.fail(at("journal", "flush_interval"), "flush_interval must be 10ms to 1h")
	}
}

// The health event is for people and dashboards: more often it wears flash, and less often nobody
// can tell a gateway that is silent from one that is gone.
const (
	minHealth = time.Second
	maxHealth = 24 * time.Hour
)

// health fills in the topic.
func (k *checker) health() {
	h := &k.Config.Health
	if h.Interval != 0 && (h.Interval < minHealth || h.Interval > maxHealth) {
		k.fail(at("health", "interval"), "interval must be 1s to 24h, or 0 to say nothing")
	}
	h.Topic = strings.NewReplacer("{gateway}", k.Config.Gateway.ID, "{site}", k.Config.Gateway.Site).Replace(h.Topic)
	if err := gateway.ValidateTopic(h.Topic); err != nil {
		k.fail(at("health", "topic"), "%v", err)
	} else if strings.HasPrefix(h.Topic, "$") {
		k.fail(at("health", "topic"), "topics that begin with $ are the broker's own and are not stored")
	}
}

func (k *checker) discovery() {
	d := k.Config.Discovery
	if !slices.Contains([]string{"auto", "true", "false"}, d.Enabled) {
		k.fail(at("discovery", "enabled"), "enabled is true, false or auto, and not %q", d.Enabled)
	}
	if err := gateway.ValidateTopic(d.Prefix); err != nil {
		k.fail(at("discovery", "prefix"), "%v", err)
	} else if strings.HasPrefix(d.Prefix, "$") || strings.HasSuffix(d.Prefix, "/") {
		k.fail(at("discovery", "prefix"), "prefix %q cannot begin with $ or end in /", d.Prefix)
	}
}

func (k *checker) routes() {
	used, sure := map[string]bool{}, true
	for _, d := range k.Downlinks {
		used[d.Uplink] = true
	}
	for _, id := range slices.Sorted(maps.Keys(k.Routes)) {
		r := k.Routes[id]
		if len(r.Topics) == 0 {
			k.fail(at("routes", id), `route %q has no topics; "#" is all of them`, id)
		}
		k.policy(id, &r)
		k.Routes[id] = r
		for i, f := range r.Topics {
			if err := checkRouted(f); err != nil {
				k.fail(at("routes", id, "topics", strconv.Itoa(i)), "%v", err)
			}
		}
		switch _, ok := k.Uplinks[r.Uplink]; {
		case ok:
			used[r.Uplink] = true
		case r.Uplink == "":
			sure = false
			k.fail(at("routes", id), "route %q has no uplink", id)
		default:
			sure = false
			k.fail(at("routes", id, "uplink"), "there is no uplink %q%s", r.Uplink, Suggest(r.Uplink, slices.Collect(maps.Keys(k.Uplinks))))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(k.Uplinks)) {
		if sure && !used[id] {
			k.errs = append(k.errs, k.Uplinks[id].at.errorf(
				`no route leads to uplink %q, it would send nothing; add routes: {all: {topics: ["#"], uplink: %s}}`, id, id))
		}
	}
}

// The smallest backlog has room for a few chunks, and for an event of the largest size.
const minBacklog = 4 << 20

// policy checks what a route says beside its topics, and fills in the defaults.
func (k *checker) policy(id string, r *Route) {
	r.fill()
	path := func(key ...string) []string { return append([]string{"routes", id}, key...) }
	if _, ok := weights[r.Priority]; !ok {
		k.fail(path("priority"), "there is no priority %q: high, normal or low%s", r.Priority, Suggest(r.Priority, slices.Collect(maps.Keys(weights))))
	}
	if r.Lanes < 1 || r.Lanes > 16 {
		k.fail(path("lanes"), "lanes must be 1 to 16")
	}
	if r.DeadAfter < 1 || r.DeadAfter > 100 {
		k.fail(path("dead_after"), "dead_after must be 1 to 100")
	}
	if r.TTL < 0 || r.Limit.Events < 0 {
		k.fail(path(), "a ttl or a limit cannot be negative")
	}
	if r.Limit.Bytes != 0 && r.Limit.Bytes < 128 {
		k.fail(path("limit", "bytes"), "a limit of %s in a second lets next to nothing through; the least is 128B", r.Limit.Bytes)
	}
	if !slices.Contains(onFull, r.OnFull) {
		k.fail(path("on_full"), "on_full cannot be %q: %s%s", r.OnFull, strings.Join(onFull, ", "), Suggest(r.OnFull, onFull))
	}
	if r.MaxSize < minBacklog {
		k.fail(path("max_size"), "max_size %s is too small; the least is %s", r.MaxSize, Size(minBacklog))
	}
	if r.OnFull != "thin" && r.Keep != nil {
		k.fail(path("keep"), "keep is for on_full: thin")
	}
	last := time.Duration(0)
	for i, s := range r.Keep {
		at := path("keep", strconv.Itoa(i))
		switch {
		case s.Latest && (s.For != 0 || s.Every != 0):
			k.fail(at, "latest stands alone: {latest: true}")
		case s.Latest && i != len(r.Keep)-1:
			k.fail(at, "latest is the last step")
		case !s.Latest && s.For <= last:
			k.fail(at, "each step has a longer for than the one before")
		case s.Every < 0 || s.Every > s.For:
			k.fail(at, "every must be shorter than for")
		}
		last = s.For
	}
}

var onFull = []string{"thin", "drop-oldest", "drop-newest", "reject"}

// checkRouted finds filters that match nothing which is ever in the journal.
func checkRouted(f gateway.Filter) error {
	s := f.String()
	switch {
	case strings.HasPrefix(s, "$share/"):
		return fmt.Errorf("filter %q matches nothing: a route is a single reader, leave $share and the group out", s)
	case strings.HasPrefix(s, "$"):
		return fmt.Errorf("filter %q matches nothing: topics that begin with $ are the broker's own and are not stored", s)
	}
	return nil
}

func (k *checker) auth() {
	policy, err := auth.New(k.Users, k.Roles)
	k.Config.Auth = policy
	var many interface{ Unwrap() []error }
	if !errors.As(err, &many) {
		return
	}
	for _, err := range many.Unwrap() {
		var where *auth.ConfigError
		if !errors.As(err, &where) {
			k.fail(nil, "%v", err)
			continue
		}
		hint := ""
		if len(where.Path) == 3 && where.Path[2] == "role" {
			hint = Suggest(k.Users[where.Path[1]].Role, slices.Collect(maps.Keys(k.Roles)))
		}
		k.fail(where.Path, "%v%s", where.Err, hint)
	}
}

func (k *checker) listeners() {
	l := k.Config.Listeners
	mqtt := k.listener(at("listeners", "mqtt", "address"), l.MQTT.Address)
	http := k.listener(at("listeners", "http", "address"), l.HTTP.Address)
	if mqtt.port == http.port && mqtt.port != 0 && (mqtt.host == http.host || mqtt.every || http.every) {
		path := at("listeners", "http", "address")
		if !k.root.has(path...) {
			path = at("listeners", "mqtt", "address")
		}
		k.fail(path, "mqtt listens on %s and http on %s: the port is the same", l.MQTT.Address, l.HTTP.Address)
	}
	for i, origin := range l.HTTP.Origins {
		if err := checkOrigin(origin); err != nil {
			k.fail(at("listeners", "http", "origins", strconv.Itoa(i)), "%v", err)
		}
	}
}

type address struct {
	host     string
	port     int
	every    bool // on every interface
	loopback bool
}

// listener is address, of a listener that needs users to be open to the network.
func (k *checker) listener(path []string, s string) (a address) {
	a, ok := k.address(path, s)
	if ok && !a.loopback && len(k.Users) == 0 {
		k.fail(path, "address %q is open to the network and there are no users: whoever reaches it could do everything; "+
			"add one with `weir user add NAME`, or listen on 127.0.0.1:%d", s, a.port)
	}
	return a
}

// address reads host:port. It returns false if that is wrong, which it has said.
func (k *checker) address(path []string, s string) (a address, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		k.fail(path, "address %q has no port, as in 127.0.0.1:1883", s)
		return a, false
	}
	host, port := s[:i], s[i+1:]
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		k.fail(path, "address %q: port must be 0 to 65535; 0 lets the system choose", s)
		return a, false
	}
	bare := host
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		bare = host[1 : len(host)-1]
	}
	ip, ipErr := netip.ParseAddr(bare)
	switch {
	case strings.ContainsAny(bare, "/ []@") || bare != host && (ipErr != nil || !ip.Is6()):
		k.fail(path, "address %q is not host:port, as in 127.0.0.1:1883", s)
		return a, false
	case bare == host && strings.Contains(bare, ":"):
		k.fail(path, "address %q: an IPv6 address stands in brackets, as in [::1]:1883", s)
		return a, false
	case ipErr != nil && bare != "" && strings.Trim(bare, "0123456789.") == "":
		k.fail(path, "address %q: %q is not an IP address", s, bare)
		return a, false
	}
	return address{
		host: bare, port: int(n),
		every:    bare == "" || ipErr == nil && ip.IsUnspecified(),
		loopback: bare == "localhost" || ipErr == nil && ip.IsLoopback(),
	}, true
}

func checkOrigin(origin string) error {
	if origin == "*" {
		return errors.New(`origin "*" would let every page of the web in; name them, as in https://dash.example.com`)
	}
	u, err := url.Parse(origin)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Scheme+"://"+u.Host != origin {
		return fmt.Errorf("origin %q is not scheme://host or scheme://host:port, as in https://dash.example.com", origin)
	}
	return nil
}
