package kafka_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weir-iot/weir/firmware-sim/fault"

	"github.com/weir-iot/weir/bridge/bridgetest"
)

// startKafka starts Apache Kafka, one node of KRaft, until the test ends; it skips the test where
// there is none. Besides the link it listens at secure, for who has p's papers and the account.
func startKafka(t *testing.T, p papers) (c *cluster, secure string) {
	t.Helper()
	libs, err := exec.Command("testdata/fetch").Output()
	if err != nil {
		why := err.Error()
		if exit, ok := err.(*exec.ExitError); ok {
			why = strings.TrimSpace(string(exit.Stderr))
		}
		t.Skipf("no Apache Kafka here, so tests against a real one are left out: %s", why)
	}
	ports := freePorts(t, 3)
	dir := t.TempDir()
	c = &cluster{direct: "127.0.0.1:" + ports[0]}
	c.link = bridgetest.NewProxy(t, c.direct)
	secure = "127.0.0.1:" + ports[2]
	properties := filepath.Join(dir, "server.properties")
	text := strings.Join(append([]string{
		"process.roles=broker,controller",
		"node.id=1",
		"controller.quorum.voters=1@127.0.0.1:" + ports[1],
		"controller.listener.names=CONTROLLER",
		"listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL",
		"inter.broker.listener.name=PLAINTEXT",
		fmt.Sprintf("listeners=PLAINTEXT://%s,SASL_SSL://%s,CONTROLLER://127.0.0.1:%s", c.direct, secure, ports[1]),
		fmt.Sprintf("advertised.listeners=PLAINTEXT://%s,SASL_SSL://%s", c.link.Addr(), secure),
		"log.dirs=" + filepath.Join(dir, "data"),
		"offsets.topic.replication.factor=1",
		"offsets.topic.num.partitions=1",
		"group.initial.rebalance.delay.ms=0",
		"auto.create.topics.enable=false",
	}, p.properties(t)...), "\n")
	if err := os.WriteFile(properties, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	java := func(ctx context.Context, args ...string) *exec.Cmd {
		return exec.CommandContext(ctx, "java", append([]string{
			"-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
			"-cp", strings.TrimSpace(string(libs)) + "/*",
		}, args...)...)
	}
	user := fmt.Sprintf(`[name=%s,password="%s"]`, account, password)
	out, err := java(t.Context(), "kafka.tools.StorageTool", "format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c", properties,
		"--add-scram", "SCRAM-SHA-256="+user, "--add-scram", "SCRAM-SHA-512="+user).CombinedOutput()
	if err != nil {
		t.Fatalf("format: %v\n%s", err, out)
	}

	var log lockedBuffer
	cmd := java(context.Background(), "kafka.Kafka", properties)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGKILL) // nothing of it is needed again
		<-ended
		if t.Failed() {
			t.Logf("Kafka's log:\n%s", log.String())
		}
	})
	deadline := time.After(40 * time.Second)
	for {
		conn, err := net.DialTimeout("tcp", c.direct, time.Second)
		if err == nil {
			conn.Close()
			return c, secure
		}
		select {
		case <-ended:
			t.Fatalf("Kafka ended:\n%s", log.String())
		case <-deadline:
			t.Fatalf("Kafka does not listen after 40 s:\n%s", log.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func freePorts(t *testing.T, n int) (ports []string) {
	t.Helper()
	for range n {
		address, err := fault.FreeAddress("tcp")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(address)
		ports = append(ports, port)
	}
	return ports
}

// lockedBuffer is a bytes.Buffer for a process that still writes to it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestKafka is everything against the real one.
func TestKafka(t *testing.T) {
	p := issue(t)
	c, secure := startKafka(t, p)
	bridgetest.Run(t, c.farEnd)
	t.Run("too large", func(t *testing.T) { checkTooLarge(t, c) })
	t.Run("small topic", func(t *testing.T) { checkSmallTopic(t, c) })
	t.Run("unknown topic", func(t *testing.T) { checkUnknownTopic(t, c) })
	t.Run("compression", func(t *testing.T) { checkCompression(t, c) })
	t.Run("reader", func(t *testing.T) { checkReader(t, c) })
	t.Run("recipe", func(t *testing.T) { checkRecipe(t, c) })
	t.Run("accounts", func(t *testing.T) { checkAccounts(t, c, secure, p) })
	t.Run("denied", func(t *testing.T) { checkDenied(t, c, secure, p, c.newTopic(t, 1), c.close(t, c.newTopic(t, 1))) })
}
