package mqtt

import (
	"strings"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// preset is what is known of a service. None of it is more than its documentation says: the
// services themselves are not there to be tested with.
type preset struct {
	defaults Config            // for keys that the file leaves out
	thing    bool              // the client id names a device in the service's registry: by default the gateway's id
	ports    map[string]string // by scheme, where they differ from the usual ones
	path     string            // of WebSocket
	complete func(s *Sink, lane int) error
	offer    func(s *Sink) []string // ALPN
	check    func(m *message) error
	address  func(m *message)
}

const azure = "azure-iot-hub"

var presets = map[string]preset{
	"": {},
	"aws-iot": {
		// 100 publishes a second and 100 in flight are fixed quotas of a connection; what is beyond the first
		// is discarded without an answer. A retained publish needs a policy of its own.
		defaults: Config{Retain: "never", Window: 100, Rate: 90, MaxPacket: 128 << 10},
		thing:    true, complete: completeAWS, offer: offerAWS, check: checkAWS,
	},
	azure: {
		defaults: Config{Version: "3.1.1", Retain: "never", MaxPacket: 256 << 10},
		thing:    true, path: "/$iothub/websocket", complete: completeAzure, address: azureBag,
	},
	"emqx": {
		ports:    map[string]string{"ws": "8083", "wss": "8084"},
		complete: cloudHosts(".emqxsl.com"),
	},
	"hivemq": {
		ports:    map[string]string{"ws": "8000", "wss": "8884"},
		complete: cloudHosts(".hivemq.cloud"),
	},
	"thingsboard": {
		defaults: Config{Retain: "never", Format: "thingsboard-gateway", MaxPacket: 64 << 10},
		complete: completeThingsBoard,
	},
}

// fill sets what c leaves open to what d says.
func (c *Config) fill(d Config) {
	for _, f := range []struct {
		have *string
		want string
	}{{&c.Version, d.Version}, {&c.Topic, d.Topic}, {&c.Format, d.Format}, {&c.Retain, d.Retain}, {&c.Username, d.Username}} {
		if *f.have == "" {
			*f.have = f.want
		}
	}
	for _, f := range []struct {
		have *int
		want int
	}{{&c.Window, d.Window}, {&c.Rate, d.Rate}, {&c.MaxPacket, d.MaxPacket}} {
		if *f.have == 0 {
			*f.have = f.want
		}
	}
}

// onlyTLS refuses a url without TLS.
func (s *Sink) onlyTLS() error {
	if !s.at.secure {
		return gateway.BadKey("url", "%s takes TLS only: mqtts:// or wss://", s.at.host)
	}
	return nil
}

// cloudHosts is for a broker that people run themselves, and that also is a service under names
// that end with suffix: that takes TLS only, and nobody without an account.
func cloudHosts(suffix string) func(*Sink, int) error {
	return func(s *Sink, _ int) error {
		if !strings.HasSuffix(s.at.host, suffix) {
			return nil
		}
		if s.c.Username == "" && s.c.CertFile == "" {
			return gateway.BadKey("username", "%s needs a username and password, or a cert_file", s.at.host)
		}
		return s.onlyTLS()
	}
}

func completeAWS(s *Sink, _ int) error {
	if err := s.onlyTLS(); err != nil {
		return err
	}
	if s.c.CertFile == "" && s.c.Username == "" { // a username is for a custom authorizer
		if s.at.path != "" {
			return gateway.BadKey("url", "AWS IoT Core wants a signed request for wss://: use mqtts:// with a cert_file, on port 443 if 8883 is closed")
		}
		return gateway.BadKey("cert_file", "AWS IoT Core needs a cert_file and key_file")
	}
	return nil
}

// offerAWS tells the services on port 443 apart.
func offerAWS(s *Sink) []string {
	switch {
	case s.at.path != "" || !strings.HasSuffix(s.at.address, ":443"):
		return nil
	case s.c.CertFile != "":
		return []string{"x-amzn-mqtt-ca"}
	}
	return []string{"mqtt"}
}

// checkAWS refuses the topics at which AWS IoT Core ends the connection: more than 256 bytes or
// seven slashes, $aws/rules/<rule>/ not counted.
func checkAWS(m *message) error {
	topic := m.topic
	if rest, ok := strings.CutPrefix(topic, "$aws/rules/"); ok {
		_, topic, _ = strings.Cut(rest, "/")
	}
	if len(topic) > 256 || strings.Count(topic, "/") > 7 {
		return gateway.Errorf(gateway.ErrInvalid, "AWS IoT Core takes topics of at most 256 bytes and 8 levels")
	}
	return nil
}

// hub is the IoT Hub's host name: that of its certificate, also behind another address.
func (s *Sink) hub() string {
	if s.c.ServerName != "" {
		return s.c.ServerName
	}
	return s.at.host
}

func completeAzure(s *Sink, lane int) error {
	c := &s.c
	if err := s.onlyTLS(); err != nil {
		return err
	}
	switch {
	case lane > 0:
		return gateway.BadKey("preset", "Azure IoT Hub takes one connection per device, so there are no lanes")
	case c.SharedAccessKey == "" && c.Password == "" && c.CertFile == "":
		return gateway.BadKey("shared_access_key", "Azure IoT Hub needs a shared_access_key, or a cert_file and key_file")
	case c.KeepAlive > 1177*time.Second:
		return gateway.BadKey("keep_alive", "Azure IoT Hub takes at most 1177s")
	case c.Topic != "" && !strings.HasSuffix(c.Topic, "/"):
		return gateway.BadKey("topic", "the property bag comes behind the topic, so it ends with /")
	}
	if s.at.path == "/$iothub/websocket" && c.CertFile == "" {
		s.at.path += "?iothub-no-client-cert=true"
	}
	c.fill(Config{
		Topic:    "devices/" + c.ClientID + "/messages/events/",
		Username: s.hub() + "/" + c.ClientID + "/?api-version=" + azureVersion,
	})
	return nil
}

func completeThingsBoard(s *Sink, _ int) error {
	c := &s.c
	if c.Username == "" && c.CertFile == "" {
		return gateway.BadKey("username", "ThingsBoard needs the device's access token as username, or a cert_file")
	}
	switch c.Format {
	case "thingsboard-gateway":
		c.fill(Config{Topic: "v1/gateway/telemetry"})
	case "thingsboard-device":
		c.fill(Config{Topic: "v1/devices/me/telemetry"})
	}
	return nil
}
