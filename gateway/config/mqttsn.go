package config

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

// MQTTSN is the MQTT-SN gateway. A client proves nothing about who it is, so beyond loopback those that may connect
// have to be named.
type MQTTSN struct {
	Address string // UDP; default 127.0.0.1:1884
	// Clients are those that may connect, by client id. None: everybody may, which needs that there are no users.
	Clients map[string]Identity
	// Connectionless is who publishes at QoS -1 without a connection. None: nobody may, unless there are no clients
	// either.
	Connectionless *Identity
	Predefined     map[string]string // topics by id
	GatewayID      uint8             `yaml:"gateway_id"`     // default 1
	MaxClients     int               `yaml:"max_clients"`    // default 1000
	MaxPacket      Size              `yaml:"max_packet"`     // default 1472B
	RetryInterval  time.Duration     `yaml:"retry_interval"` // default 10s
	Retries        int               // default 4
	Advertise      struct {
		Address  string        // ip:port; empty: the gateway does not advertise
		Interval time.Duration // default 15m
	}
}

// UnmarshalYAML reads the section over its defaults.
func (m *MQTTSN) UnmarshalYAML(unmarshal func(any) error) error {
	type plain MQTTSN
	p := plain{Address: "127.0.0.1:1884", GatewayID: 1, MaxClients: 1000, MaxPacket: 1472, RetryInterval: 10 * time.Second, Retries: 4}
	p.Advertise.Interval = 15 * time.Minute
	err := unmarshal(&p)
	*m = MQTTSN(p)
	return err
}

// Identity is who somebody is that has no password: a user, or nobody else, with a role. One of the two is given.
type Identity struct{ User, Role string }

// Account is the account of somebody who goes by that name.
func (i Identity) Account(p *auth.Policy, name string) (*auth.Account, error) {
	if i.User != "" {
		return p.Account(i.User)
	}
	return p.Named(name, i.Role)
}

// Topics are the predefined topics by their ids.
func (m *MQTTSN) Topics() map[uint16]string {
	all := map[uint16]string{}
	for id, topic := range m.Predefined {
		if n, err := strconv.ParseUint(id, 10, 16); err == nil {
			all[uint16(n)] = topic
		}
	}
	return all
}

func (k *checker) mqttsn() {
	m := k.Config.Listeners.MQTTSN
	if m == nil {
		return
	}
	path := func(key ...string) []string { return append([]string{"listeners", "mqttsn"}, key...) }
	if a, ok := k.address(path("address"), m.Address); ok && !a.loopback && len(m.Clients) == 0 {
		k.fail(path("address"), "address %q is open to the network and no clients are named: whoever reaches it could do everything; "+
			"name those that may connect, as in clients: {node7: {role: sensor}}, or listen on 127.0.0.1:%d", m.Address, a.port)
	} else if len(k.Users) > 0 && len(m.Clients) == 0 {
		k.fail(path(), "no client may connect: MQTT-SN has no passwords, so with users those that may are named, as in clients: {node7: {role: sensor}}")
	}
	for _, id := range slices.Sorted(maps.Keys(m.Clients)) {
		if id == "" || len(id) > 255 {
			k.fail(path("clients", id), "a client id has 1 to 255 bytes")
		}
		k.identity(path("clients", id), id, m.Clients[id])
	}
	if m.Connectionless != nil {
		k.identity(path("connectionless"), "mqtt-sn", *m.Connectionless)
	}
	if len(m.Predefined) > 4096 { // so that there are ids left for other topics
		k.fail(path("predefined"), "there can be 4096 predefined topics, not %d", len(m.Predefined))
	}
	topics := map[string]string{}
	for _, id := range slices.Sorted(maps.Keys(m.Predefined)) {
		topic := m.Predefined[id]
		if n, err := strconv.ParseUint(id, 10, 16); err != nil || n == 0 || n == 0xFFFF || strconv.FormatUint(n, 10) != id {
			k.fail(path("predefined", id), "a predefined topic has an id of 1 to 65534, not %q", id)
		}
		if err := gateway.ValidateTopic(topic); err != nil {
			k.fail(path("predefined", id), "%v", err)
		} else if other := topics[topic]; other != "" {
			k.fail(path("predefined", id), "topic %q is predefined as %s too", topic, other)
		}
		topics[topic] = id
	}
	if m.MaxClients < 1 || m.MaxClients > 4000 {
		k.fail(path("max_clients"), "max_clients must be 1 to 4000")
	}
	if m.MaxPacket < 64 || m.MaxPacket > 65507 {
		k.fail(path("max_packet"), "max_packet must be 64B to 65507B")
	}
	if m.RetryInterval < 100*time.Millisecond || m.RetryInterval > 10*time.Minute {
		k.fail(path("retry_interval"), "retry_interval must be 100ms to 10m")
	}
	if m.Retries < 1 || m.Retries > 20 {
		k.fail(path("retries"), "retries must be 1 to 20")
	}
	if m.Advertise.Address != "" {
		if _, err := netip.ParseAddrPort(m.Advertise.Address); err != nil {
			k.fail(path("advertise", "address"), "address %q is not ip:port, as in 192.168.1.255:1884", m.Advertise.Address)
		}
		if m.Advertise.Interval < 10*time.Second || m.Advertise.Interval > 18*time.Hour {
			k.fail(path("advertise", "interval"), "interval must be 10s to 18h")
		}
	}
}

func (k *checker) identity(path []string, name string, who Identity) {
	switch {
	case (who.User == "") == (who.Role == ""):
		k.fail(path, "either a user or a role has to be given, as in {user: boiler} or {role: sensor}")
		return
	case k.Config.Auth == nil: // something else is wrong there
		return
	}
	if _, err := who.Account(k.Config.Auth, name); err != nil {
		switch {
		case who.User != "":
			path = append(path, "user")
			k.fail(path, "%v%s", err, Suggest(who.User, slices.Collect(maps.Keys(k.Users))))
		case strings.Contains(err.Error(), "is a user"):
			k.fail(path, "%v; write {user: %s}", err, name)
		default:
			k.fail(append(path, "role"), "%v%s", err, Suggest(who.Role, slices.Collect(maps.Keys(k.Roles))))
		}
	}
}
