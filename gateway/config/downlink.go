package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Downlink takes in what the far end of an uplink has under its topics.
type Downlink struct {
	Uplink string
	Topics gateway.Filters // at the far end
	// StripPrefix are the levels that are taken off a topic of the far end; each of Topics begins with them.
	StripPrefix string `yaml:"strip_prefix"`
	// Topic is the topic here, with {topic} for what is left of the far end's; default "{topic}".
	Topic string
	// TTL is the longest that a message is worth delivering; default: as long as it says itself.
	TTL    time.Duration
	Retain bool // keeps the last message of each topic for who subscribes later
	// User is the account whose rights count; must be given where there are users.
	User string
}

// Local is the topic here of a message that has topic far at the far end. The error is gateway.ErrInvalid.
func (d Downlink) Local(far string) (string, error) {
	if !d.Topics.Match(far) {
		return "", gateway.Errorf(gateway.ErrInvalid, "topic %q is not asked for", far)
	}
	rest, ok := far, true
	if prefix := d.prefix(); prefix != "" {
		rest, ok = strings.CutPrefix(far, prefix+"/")
	}
	if !ok || rest == "" {
		return "", gateway.Errorf(gateway.ErrInvalid, "topic %q has nothing behind strip_prefix", far)
	}
	topic := strings.Replace(d.Topic, placeholder, rest, 1)
	if err := gateway.ValidateTopic(topic); err != nil {
		return "", err
	}
	if topic[0] == '$' {
		return "", gateway.Errorf(gateway.ErrInvalid, "topic %q would begin with $", topic)
	}
	return topic, nil
}

const placeholder = "{topic}"

func (d Downlink) prefix() string { return strings.TrimSuffix(d.StripPrefix, "/") }

func (k *checker) downlinks() {
	for _, id := range slices.Sorted(maps.Keys(k.Downlinks)) {
		d := k.Downlinks[id]
		if d.Topic == "" {
			d.Topic = placeholder
		}
		k.Downlinks[id] = d
		path := func(key ...string) []string { return append([]string{"downlinks", id}, key...) }
		switch _, ok := k.Uplinks[d.Uplink]; {
		case d.Uplink == "":
			k.fail(path(), "downlink %q has no uplink", id)
		case !ok:
			k.fail(path("uplink"), "there is no uplink %q%s", d.Uplink, Suggest(d.Uplink, slices.Collect(maps.Keys(k.Uplinks))))
		}
		if len(d.Topics) == 0 {
			k.fail(path(), "downlink %q has no topics: what is it to ask the far end for?", id)
		}
		for i := range d.Topics {
			if err := d.checkFilter(i); err != nil {
				k.fail(path("topics", strconv.Itoa(i)), "%v", err)
			}
		}
		if d.StripPrefix != "" {
			if err := gateway.ValidateTopic(d.StripPrefix); err != nil {
				k.fail(path("strip_prefix"), "strip_prefix: %v", err)
			}
		}
		if err := checkTemplate(d.Topic); err != nil {
			k.fail(path("topic"), "%v", err)
		}
		if d.TTL != 0 && d.TTL < time.Second {
			k.fail(path("ttl"), "a ttl is 1s or more; leave it out for none")
		}
		switch _, ok := k.Users[d.User]; {
		case d.User == "" && len(k.Users) > 0:
			k.fail(path(), "downlink %q needs a user: what that may publish, it may bring in", id)
		case d.User != "" && !ok:
			k.fail(path("user"), "there is no user %q%s", d.User, Suggest(d.User, slices.Collect(maps.Keys(k.Users))))
		}
	}
}

// checkFilter looks at the ith filter, beside those before it.
func (d Downlink) checkFilter(i int) error {
	s := d.Topics[i].String()
	if strings.HasPrefix(s, "$share/") {
		return fmt.Errorf("filter %q: a downlink is a single reader, leave $share and the group out", s)
	}
	if prefix := d.prefix(); prefix != "" && (!strings.HasPrefix(s, prefix+"/") || s == prefix+"/") {
		return fmt.Errorf("filter %q does not begin with strip_prefix %q and a level behind it", s, prefix)
	}
	for _, other := range d.Topics[:i] {
		if other.Overlaps(d.Topics[i]) { // the far end may send a message once for each
			return fmt.Errorf("filter %q matches topics that %q matches too", s, other)
		}
	}
	return nil
}

// checkTemplate looks at the key topic of a downlink.
func checkTemplate(template string) error {
	text := strings.Replace(template, placeholder, "x", 1)
	if strings.ContainsAny(text, "{}") {
		return fmt.Errorf("topic %q: the one placeholder is %s, and it stands there once", template, placeholder)
	}
	if err := gateway.ValidateTopic(text); err != nil {
		return err
	}
	if text[0] == '$' {
		return fmt.Errorf("topic %q: topics that begin with $ are the broker's own", template)
	}
	return nil
}
