package nats_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/weir-iot/weir/bridge/nats"
)

// Each way to log in works, and a wrong one says so.
func TestLogin(t *testing.T) {
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	public, err := user.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	otherSeed, err := other.Seed()
	if err != nil {
		t.Fatal(err)
	}
	trust, creds := operated(t, user, public)
	for _, c := range []struct {
		name         string
		server       func(*server.Options)
		right, wrong func(*nats.Config)
		own          client.Option
	}{
		{
			"username", func(o *server.Options) { o.Username, o.Password = "gw", "pw" },
			func(c *nats.Config) { c.Username, c.Password = "gw", "pw" },
			func(c *nats.Config) { c.Username, c.Password = "gw", "no" }, client.UserInfo("gw", "pw"),
		},
		{
			"token", func(o *server.Options) { o.Authorization = "t0k3n" },
			func(c *nats.Config) { c.Token = "t0k3n" },
			func(c *nats.Config) { c.Token = "no" }, client.Token("t0k3n"),
		},
		{
			"nkey", func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} },
			func(c *nats.Config) { c.NkeyFile = file(t, "seed", seed) },
			func(c *nats.Config) { c.NkeyFile = file(t, "seed", otherSeed) }, client.Nkey(public, user.Sign),
		},
		{
			"creds", trust,
			func(c *nats.Config) { c.CredsFile = creds },
			func(c *nats.Config) { c.NkeyFile = file(t, "seed", seed) }, client.UserCredentials(creds),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, c.server)
			newStream(t, connect(t, s.ClientURL(), c.own))
			if err := outcomes(t, newSink(t, address(s), c.right), event("up/a", 1))[0]; err != nil {
				t.Error(err)
			}
			u := startUplink(t, newSink(t, address(s), c.wrong))
			u.add(1)
			u.isDownBecause(t, "Authorization Violation")
			if d := u.Status().Dead; d != 0 {
				t.Error("an event pays for a wrong login")
			}
		})
	}
}

// operated is a server that trusts an operator, and the credentials of a user of its account.
func operated(t *testing.T, user nkeys.KeyPair, public string) (func(*server.Options), string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pair := func(make func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		k, err := make()
		must(err)
		public, err := k.PublicKey()
		must(err)
		return k, public
	}
	operator, operatorID := pair(nkeys.CreateOperator)
	account, accountID := pair(nkeys.CreateAccount)
	_, systemID := pair(nkeys.CreateAccount)
	resolver := &server.MemAccResolver{}
	for _, id := range []string{accountID, systemID} {
		claims := jwt.NewAccountClaims(id)
		if id == accountID {
			claims.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: -1, MemoryStorage: -1, Streams: -1, Consumer: -1}
		}
		token, err := claims.Encode(operator)
		must(err)
		must(resolver.Store(id, token))
	}
	token, err := jwt.NewUserClaims(public).Encode(account)
	must(err)
	seed, err := user.Seed()
	must(err)
	creds, err := jwt.FormatUserConfig(token, seed)
	must(err)
	return func(o *server.Options) {
		o.TrustedKeys, o.SystemAccount, o.AccountResolver = []string{operatorID}, systemID, resolver
	}, file(t, "gw.creds", creds)
}

func file(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Over TLS with a client certificate, through a proxy that alone can resolve the name.
func TestTLS(t *testing.T) {
	ca, cert, pair := certificates(t, "nats.invalid")
	s := start(t, func(o *server.Options) {
		o.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: ca.pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}
		o.TLSTimeout = 5
	})
	own := client.Secure(&tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{pair}, ServerName: "nats.invalid"})
	newStream(t, connect(t, s.ClientURL(), own))
	through := func(c *nats.Config) {
		c.URLs = []string{"tls://nats.invalid:4222"}
		c.Proxy = tunnel(t, "nats.invalid:4222", address(s))
		c.CAFile = ca.file
	}
	mutual := func(c *nats.Config) { c.CertFile, c.KeyFile = cert.file, cert.key }
	if err := outcomes(t, newSink(t, "", through, mutual), event("up/a", 1))[0]; err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		change func(*nats.Config)
		reason string
	}{
		"no client certificate": {func(*nats.Config) {}, "certificate required"},
		"another name":          {func(c *nats.Config) { mutual(c); c.ServerName = "other.invalid" }, "not other.invalid"},
		"another authority":     {func(c *nats.Config) { mutual(c); other, _, _ := certificates(t, "x"); c.CAFile = other.file }, "unknown authority"},
		"the proxy refuses":     {func(c *nats.Config) { mutual(c); c.URLs = []string{"tls://other.invalid:4222"} }, "502"},
	} {
		t.Run(name, func(t *testing.T) {
			u := startUplink(t, newSink(t, "", through, c.change))
			u.add(1)
			u.isDownBecause(t, c.reason)
		})
	}
}

// tunnel is an HTTP proxy that knows one name.
func tunnel(t *testing.T, name, target string) (proxyURL string) {
	t.Helper()
	var work sync.WaitGroup
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to, err := net.Dial("tcp", target)
		if r.Method != http.MethodConnect || r.Host != name || err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusOK)
		from, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		work.Go(func() { io.Copy(to, from); to.Close() })
		work.Go(func() { io.Copy(from, to); from.Close() })
	}))
	t.Cleanup(func() { s.Close(); work.Wait() })
	return s.URL
}

type certFile struct {
	file, key string
	pool      *x509.CertPool
}

// certificates makes an authority, and a certificate by it for name, for a server and a client.
func certificates(t *testing.T, name string) (ca, leaf certFile, pair tls.Certificate) {
	t.Helper()
	sign := func(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if signer == nil {
			signer = key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key
	}
	until := time.Now().Add(time.Hour)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: until, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	rootPEM, rootKey := sign(root, root, nil)
	leafPEM, leafKey := sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{name}, NotAfter: until,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, root, rootKey)
	der, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if pair, err = tls.X509KeyPair(leafPEM, keyPEM); err != nil {
		t.Fatal(err)
	}
	ca = certFile{file: file(t, "ca.pem", rootPEM), pool: x509.NewCertPool()}
	ca.pool.AppendCertsFromPEM(rootPEM)
	return ca, certFile{file: file(t, "cert.pem", leafPEM), key: file(t, "key.pem", keyPEM)}, pair
}
