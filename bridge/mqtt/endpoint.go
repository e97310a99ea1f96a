package mqtt

import (
	"net"
	"net/url"

	"github.com/weir-iot/weir/gateway"
)

// endpoint is where a broker listens.
type endpoint struct {
	host    string
	address string // host:port
	secure  bool
	path    string // with its query, of WebSocket; empty: MQTT over TCP or TLS
}

var schemes = map[string]struct {
	port   string
	secure bool
	ws     bool
}{
	"mqtt":  {port: "1883"},
	"mqtts": {port: "8883", secure: true},
	"ws":    {port: "80", ws: true},
	"wss":   {port: "443", secure: true, ws: true},
}

const urlForms = "mqtt://host, mqtts://host, ws://host/path or wss://host/path"

// parseURL reads the key url; p knows the service's own ports and path.
func parseURL(text string, p preset) (endpoint, error) {
	if text == "" {
		return endpoint{}, gateway.BadKey("url", "url is missing: %s", urlForms)
	}
	u, err := url.Parse(text)
	if err != nil {
		return endpoint{}, gateway.BadKey("url", "not a URL: %s", urlForms) // err may show a password
	}
	scheme, known := schemes[u.Scheme]
	switch {
	case !known:
		return endpoint{}, gateway.BadKey("url", "unknown scheme %q: %s", u.Scheme, urlForms)
	case u.Hostname() == "":
		return endpoint{}, gateway.BadKey("url", "url has no host")
	case u.User != nil:
		return endpoint{}, gateway.BadKey("url", "the account goes into username and password, not into the url")
	case !scheme.ws && (u.Path != "" && u.Path != "/" || u.RawQuery != ""), u.Fragment != "":
		return endpoint{}, gateway.BadKey("url", "an MQTT url ends after host and port")
	}
	port := u.Port()
	if port == "" {
		port = scheme.port
		if own := p.ports[u.Scheme]; own != "" {
			port = own
		}
	}
	at := endpoint{host: u.Hostname(), address: net.JoinHostPort(u.Hostname(), port), secure: scheme.secure}
	if scheme.ws {
		if at.path = u.RequestURI(); at.path == "/" && u.Path == "" {
			at.path = "/mqtt"
			if p.path != "" {
				at.path = p.path
			}
		}
	}
	return at, nil
}
