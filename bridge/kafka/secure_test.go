package kafka_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/weir-iot/weir/bridge/kafka"
	"github.com/weir-iot/weir/gateway"
)

// The account that brokers of these tests know, besides those that may do everything.
const (
	account  = "gw7"
	password = "s3cret"
)

// papers are an authority, and a certificate of it for a broker and for a client, as PEM files.
type papers struct{ ca, serverCert, serverKey, clientCert, clientKey string }

func issue(t *testing.T) (p papers) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	make1 := func(name string, n int64, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, string, string) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(n), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			BasicConstraintsValid: true, IsCA: parent == nil, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
		c.Subject.CommonName = name
		if parent == nil {
			parent, signer = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return c, key, write(name+".pem", "CERTIFICATE", der), write(name+".key", "PRIVATE KEY", pkcs8)
	}
	ca, caKey, caFile, _ := make1("authority", 1, nil, nil)
	p.ca = caFile
	_, _, p.serverCert, p.serverKey = make1("broker", 2, ca, caKey)
	_, _, p.clientCert, p.clientKey = make1("client", 3, ca, caKey)
	return p
}

// secure is a Config's way in: mutual TLS and an account.
func (p papers) secure(mechanism string) func(*kafka.Config) {
	return func(c *kafka.Config) {
		c.TLS, c.CAFile, c.CertFile, c.KeyFile = true, p.ca, p.clientCert, p.clientKey
		c.SASL, c.Username, c.Password = mechanism, account, password
	}
}

// checkAccounts logs in at addr over mutual TLS with each mechanism.
func checkAccounts(t *testing.T, c *cluster, addr string, p papers) {
	topic := c.newTopic(t, 1)
	for _, mechanism := range []string{"plain", "scram-256", "scram-512"} {
		if got, err := send(t, newSink(t, addr, topic, p.secure(mechanism)), event("a", mechanism)); err != nil || len(got.events) != 1 {
			t.Errorf("%s: settled %v, ended with %v", mechanism, got.errs, err)
		}
		wrong := func(c *kafka.Config) { c.Password = "wrong" }
		got, err := send(t, newSink(t, addr, topic, p.secure(mechanism), wrong), event("a", "wrong"))
		if len(got.events) != 0 || err == nil {
			t.Errorf("%s with a wrong password: settled %v, ended with %v", mechanism, got.errs, err)
		}
		t.Logf("%s with a wrong password: %v", mechanism, err)
	}
	for name, change := range map[string]func(*kafka.Config){
		"another authority":     func(c *kafka.Config) { c.CAFile = issue(t).ca },
		"another name":          func(c *kafka.Config) { c.ServerName = "elsewhere" },
		"no client certificate": func(c *kafka.Config) { c.CertFile, c.KeyFile = "", "" },
	} {
		got, err := send(t, newSink(t, addr, topic, p.secure("plain"), change), event("a", name))
		if len(got.events) != 0 || err == nil {
			t.Errorf("%s: settled %v, ended with %v", name, got.errs, err)
		}
		t.Logf("%s: %v", name, err)
	}
	if got := payloads((&reader{c: c, t: t, topic: topic}).arrivals()); fmt.Sprint(got) != "[plain scram-256 scram-512]" {
		t.Errorf("arrived %v", got)
	}
}

// checkDenied sends to a topic that the account may not write to.
func checkDenied(t *testing.T, c *cluster, addr string, p papers, open, closed string) {
	all := []*gateway.Event{event(open, "1"), event(closed, "2"), event(closed, "3"), event(open, "4")}
	got, err := send(t, newSink(t, addr, "{topic}", p.secure("plain")), all...)
	if err != nil || got.errs[all[0]] != nil || got.errs[all[3]] != nil || len(got.events) != 4 ||
		!errors.Is(got.errs[all[1]], gateway.ErrDenied) || !errors.Is(got.errs[all[2]], gateway.ErrDenied) {
		t.Errorf("settled %v, ended with %v", got.errs, err)
	}
	got, err = send(t, newSink(t, addr, closed, p.secure("plain")), all...)
	if len(got.events) != 0 || !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("all to a closed topic: settled %v, ended with %v", got.errs, err)
	}
	if got := payloads((&reader{c: c, t: t, topic: open}).arrivals()); fmt.Sprint(got) != "[1 4]" {
		t.Errorf("arrived %v", got)
	}
}

func TestFakeAccounts(t *testing.T) {
	p := issue(t)
	broker, err := tls.LoadX509KeyPair(p.serverCert, p.serverKey)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := os.ReadFile(p.ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	write := func(topic string) kfake.ACL {
		return kfake.ACL{Resource: kmsg.ACLResourceTypeTopic, Name: topic, Pattern: kmsg.ACLResourcePatternTypePrefixed, Operation: kmsg.ACLOperationWrite, Allow: true}
	}
	options := []kfake.Opt{
		kfake.TLS(&tls.Config{Certificates: []tls.Certificate{broker}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}),
		kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "admin"),
	}
	for _, m := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		options = append(options, kfake.User(m, account, password, write("t"), write("open")))
	}
	c, _ := startFake(t, options...)
	client, err := tls.LoadX509KeyPair(p.clientCert, p.clientKey)
	if err != nil {
		t.Fatal(err)
	}
	c.options = []kgo.Opt{kgo.SASL(plain.Auth{User: "admin", Pass: "admin"}.AsMechanism())}
	c.tls = &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{client}, ServerName: "127.0.0.1"}
	checkAccounts(t, c, c.link.Addr(), p)
	checkDenied(t, c, c.link.Addr(), p, c.create(t, "open", 1), c.create(t, "closed", 1))
}

// properties are server.properties for a listener SASL_SSL.
func (p papers) properties(t *testing.T) []string {
	t.Helper()
	inline := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(text), "\n", `\n`)
	}
	const on = "listener.name.sasl_ssl."
	return []string{
		on + "ssl.keystore.type=PEM",
		on + "ssl.keystore.certificate.chain=" + inline(p.serverCert),
		on + "ssl.keystore.key=" + inline(p.serverKey),
		on + "ssl.truststore.type=PEM",
		on + "ssl.truststore.certificates=" + inline(p.ca),
		on + "ssl.client.auth=required",
		on + "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
		on + `plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_` + account + `="` + password + `";`,
		on + "scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;",
		on + "scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;",
		"authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
		"super.users=User:ANONYMOUS", // who comes without TLS, from the test itself
		"allow.everyone.if.no.acl.found=true",
	}
}

// close leaves topic to somebody else.
func (c *cluster) close(t *testing.T, topic string) string {
	t.Helper()
	cl := c.client(t)
	defer cl.Close()
	req := kmsg.NewPtrCreateACLsRequest()
	acl := kmsg.NewCreateACLsRequestCreation()
	acl.ResourceType, acl.ResourceName, acl.ResourcePatternType = kmsg.ACLResourceTypeTopic, topic, kmsg.ACLResourcePatternTypeLiteral
	acl.Principal, acl.Host, acl.Operation, acl.PermissionType = "User:somebody-else", "*", kmsg.ACLOperationAll, kmsg.ACLPermissionTypeAllow
	req.Creations = append(req.Creations, acl)
	resp, err := req.RequestWith(t.Context(), cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.Results[0].ErrorCode)
	}
	if err != nil {
		t.Fatal(err)
	}
	return topic
}
