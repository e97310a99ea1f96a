// Package dial reaches far ends: through a proxy where there is one, under TLS where it is
// asked for, with a client certificate where the far end wants one. Sinks embed Config in their
// own, so that these keys are the same in every uplink.
package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// Config is the part of an uplink's section that says how its far end is reached.
type Config struct {
	// Proxy is http://, https:// or socks5://, with [user:password@]host:port. Names are
	// resolved by the proxy. The certificate of an https:// one has to be of an authority that the
	// system knows. Default: none; the environment is not asked.
	Proxy string `yaml:"proxy"`
	// CAFile holds the authorities for TLS, as PEM; default: the system's.
	CAFile string `yaml:"ca_file"`
	// CertFile and KeyFile are the client's certificate, as PEM. They are read again for each
	// connection, so that a renewed one needs no restart.
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
	// ServerName is what the far end's certificate has to be for; default: the host of its address.
	ServerName string `yaml:"server_name"`
	// ConnectTimeout bounds a connection from dialling to the protocol's own hello; default 10s.
	ConnectTimeout time.Duration `yaml:"connect_timeout"`
}

// Dialer makes connections.
type Dialer struct {
	c      Config
	proxy  *url.URL
	tls    *tls.Config // nil without TLS
	direct direct
}

const proxyForms = "http://host:port, https://host:port or socks5://host:port"

// New returns a Dialer; secure says that its connections are TLS. It reads the files once, to
// find mistakes; errors are gateway.KeyErrors.
func New(c Config, secure bool) (*Dialer, error) {
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 10 * time.Second
	}
	if c.ConnectTimeout < 10*time.Millisecond || c.ConnectTimeout > time.Hour {
		return nil, gateway.BadKey("connect_timeout", "%v is not from 10ms to 1h", c.ConnectTimeout)
	}
	d := &Dialer{c: c}
	if c.Proxy != "" {
		u, err := url.Parse(c.Proxy)
		if err != nil || u.Host == "" || u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" { // err may show a password
			return nil, gateway.BadKey("proxy", "not a proxy: %s", proxyForms)
		}
		switch {
		case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5":
			return nil, gateway.BadKey("proxy", "unknown scheme %q: %s", u.Scheme, proxyForms)
		case u.Port() == "":
			return nil, gateway.BadKey("proxy", "proxy has no port: %s", proxyForms)
		}
		d.proxy = u
	}
	if !secure {
		for _, k := range []struct{ key, value string }{{"ca_file", c.CAFile}, {"cert_file", c.CertFile}, {"key_file", c.KeyFile}, {"server_name", c.ServerName}} {
			if k.value != "" {
				return nil, gateway.BadKey(k.key, "%s is for TLS, and this url has none", k.key)
			}
		}
		return d, nil
	}
	d.tls = &tls.Config{ServerName: c.ServerName, MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, gateway.BadKey("ca_file", "%w", err)
		}
		d.tls.RootCAs = x509.NewCertPool()
		if !d.tls.RootCAs.AppendCertsFromPEM(pem) {
			return nil, gateway.BadKey("ca_file", "%s: no certificate in PEM form", c.CAFile)
		}
	}
	switch {
	case c.CertFile != "" && c.KeyFile == "":
		return nil, gateway.BadKey("cert_file", "cert_file needs a key_file")
	case c.CertFile == "" && c.KeyFile != "":
		return nil, gateway.BadKey("key_file", "key_file needs a cert_file")
	case c.CertFile != "":
		if _, err := d.certificate(); err != nil {
			return nil, gateway.BadKey("cert_file", "%w", err)
		}
		d.tls.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return d.certificate() }
	}
	return d, nil
}

func (d *Dialer) certificate() (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(d.c.CertFile, d.c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("client certificate: %w", err)
	}
	return &c, nil
}

// CertificateExpiry is when the client certificate ends; zero if there is none.
func (d *Dialer) CertificateExpiry() time.Time {
	if d.c.CertFile == "" {
		return time.Time{}
	}
	c, err := d.certificate()
	if err != nil || c.Leaf == nil {
		return time.Time{}
	}
	return c.Leaf.NotAfter
}

// Timeout is ConnectTimeout with its default filled in.
func (d *Dialer) Timeout() time.Duration { return d.c.ConnectTimeout }

// Offer sets the application protocols of the TLS hello (ALPN, RFC 7301). It belongs before the
// first connection, and is for a far end that tells services on one port apart by them.
func (d *Dialer) Offer(protocols ...string) {
	if d.tls != nil {
		d.tls.NextProtos = protocols
	}
}

// WriteBuffer bounds what the kernel takes of each connection before the peer has it, in bytes. It
// belongs before the first connection.
func (d *Dialer) WriteBuffer(bytes int) { d.direct.writeBuffer = bytes }

// QuickAck has the kernel tell the peer at once what was read, without waiting for up to 40 ms for something to
// say with it. It is for a far end that answers in many small packets and, by Nagle's algorithm (RFC 896), holds back
// all but the first until it hears of that. It belongs before the first connection.
func (d *Dialer) QuickAck() { d.direct.quickAck = true }

// Proxied tells whether there is a proxy.
func (d *Dialer) Proxied() bool { return d.proxy != nil }

// TLS returns the configuration for a connection to address, or nil without TLS. It is a copy.
func (d *Dialer) TLS(address string) *tls.Config {
	if d.tls == nil {
		return nil
	}
	c := d.tls.Clone()
	if c.ServerName == "" {
		c.ServerName, _, _ = net.SplitHostPort(address)
	}
	return c
}

// Dial connects to address, host:port, by TCP, through the proxy, and under TLS if the Dialer
// is secure. It ends with ctx or after Timeout, all of it together. Errors are for people to read.
func (d *Dialer) Dial(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.c.ConnectTimeout)
	defer cancel()
	conn, err := d.DialTCP(ctx, address)
	if err != nil || d.tls == nil {
		return conn, err
	}
	secure := tls.Client(conn, d.TLS(address))
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("TLS: %w", d.words(err))
	}
	return secure, nil
}

// DialTCP is Dial without TLS, for libraries that bring their own.
func (d *Dialer) DialTCP(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.c.ConnectTimeout)
	defer cancel()
	var conn net.Conn
	var err error
	switch {
	case d.proxy == nil:
		conn, err = d.direct.DialContext(ctx, "tcp", address)
		return conn, d.words(err)
	case d.proxy.Scheme == "socks5":
		conn, err = d.socks(ctx, address)
	default:
		conn, err = d.connectMethod(ctx, address)
	}
	if err != nil {
		return nil, fmt.Errorf("through the proxy %s: %w", d.proxy.Host, d.words(err))
	}
	return conn, nil
}

func (d *Dialer) words(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("no answer within %v", d.c.ConnectTimeout)
	}
	return err
}
