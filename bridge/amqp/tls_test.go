package amqp_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/amqp"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
)

// papers are the files of an authority, a server and the client "box".
type papers struct{ ca, server, serverKey, client, clientKey string }

// certificates are the same for all tests, as the server is.
var certificates = func() func(t *testing.T) papers {
	var once sync.Once
	var p papers
	return func(t *testing.T) papers {
		t.Helper()
		once.Do(func() { p = issue(t, paperDir) })
		return p
	}
}()

func issue(t *testing.T, dir string) (p papers) {
	authorityKey, authority := key(t), template("authority")
	authority.IsCA, authority.BasicConstraintsValid = true, true
	p.ca, _ = write(t, dir, "ca", authority, authority, authorityKey, authorityKey)
	server := template("server")
	server.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	p.server, p.serverKey = write(t, dir, "server", server, authority, key(t), authorityKey)
	p.client, p.clientKey = write(t, dir, "client", template("box"), authority, key(t), authorityKey)
	return p
}

func key(t *testing.T) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

func write(t *testing.T, dir, name string, c, parent *x509.Certificate, own, signer *ecdsa.PrivateKey) (cert, keyFile string) {
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &own.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	cert, keyFile = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, keyFile
}

// Over TLS, with a certificate for the account.
func TestTLS(t *testing.T) {
	r := start(t)
	p := certificates(t)
	q := bind(t, channel(t, r), "amq.topic", nil, "tls.#")
	secure := func(c *amqp.Config) {
		c.URL, c.CAFile, c.CertFile, c.KeyFile = "amqps://"+r.TLSAddr, p.ca, p.client, p.clientKey
	}
	c := bridgetest.Send(t, newSink(t, "", secure))
	c.Event(gateway.Event{Topic: "tls/a", Payload: make([]byte, 250000)}) // several frames
	if err := c.Outcome(); err != nil {
		t.Fatal(err)
	}
	bridgetest.Until(t, "it has arrived whole", func() bool { d := q.deliveries(); return len(d) == 1 && len(d[0].Body) == 250000 })

	for _, f := range []struct {
		name   string
		change func(*amqp.Config)
		want   string
	}{
		{"unknown authority", func(c *amqp.Config) { c.CAFile = "" }, "unknown authority"},
		{"another name", func(c *amqp.Config) { c.ServerName = "elsewhere.example" }, "elsewhere.example"},
		{"no client certificate", func(c *amqp.Config) { c.CertFile, c.KeyFile = "", "" }, "connect to "}, // TLS 1.3 says why, and may be cut short by the reset behind it
	} {
		if err := bridgetest.Send(t, newSink(t, "", secure, f.change)).End(); err == nil || !strings.Contains(err.Error(), f.want) {
			t.Errorf("%s: %v", f.name, err)
		}
	}
}

// A TLS link that lies still ends with its context at once, and within ack_timeout by itself.
func TestTLSLiesStill(t *testing.T) {
	r := start(t)
	p := certificates(t)
	for _, canceled := range []bool{true, false} {
		proxy := bridgetest.NewProxy(t, r.TLSAddr)
		c := bridgetest.Send(t, newSink(t, "", func(c *amqp.Config) {
			c.URL, c.CAFile, c.CertFile, c.KeyFile = "amqps://"+proxy.Addr(), p.ca, p.client, p.clientKey
			if !canceled {
				c.AckTimeout = 500 * time.Millisecond
			}
		}))
		<-c.Up
		proxy.Stall()
		for range 100 { // more than all buffers take
			c.Event(gateway.Event{Topic: "tls/a", Payload: make([]byte, 250000)})
		}
		began := time.Now()
		if canceled {
			bridgetest.Until(t, "some are taken", func() bool { return len(c.Events) < 100 })
			c.Cancel()
		}
		err := c.End()
		if took := time.Since(began); err == nil || took > 3*time.Second {
			t.Errorf("canceled %v: %v after %v", canceled, err, took)
		}
		proxy.Heal()
	}
}
