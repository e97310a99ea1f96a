package bridgetest

import (
	"context"
	"encoding/json"
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
)

// RabbitMQ is Debian's server as a child process, on loopback ports of its own, with an epmd of
// its own. It takes seconds to start, so one serves all tests of a binary; each test makes
// exchanges and queues of its own.
type RabbitMQ struct {
	Addr    string // AMQP
	TLSAddr string // AMQP over TLS, if it was asked for
	Version string

	dir, sbin string
	env       []string
	cmd       *exec.Cmd
	alive     *os.File // while it is open, the server lives
}

// RabbitOptions are for a server's first start.
type RabbitOptions struct {
	Config      []string // lines of rabbitmq.conf
	TLSConfig   []string // such lines for the TLS listener; none: there is none
	Plugins     []string
	Definitions map[string]any // users, permissions and the like, besides guest
}

var rabbit struct {
	sync.Mutex
	server *RabbitMQ
	err    error
}

// StartRabbitMQ returns the server, which the first call starts. It skips the test where none is installed.
func StartRabbitMQ(t testing.TB, o RabbitOptions) *RabbitMQ {
	t.Helper()
	rabbit.Lock()
	defer rabbit.Unlock()
	if rabbit.server == nil && rabbit.err == nil {
		rabbit.server, rabbit.err = startRabbitMQ(o)
	}
	switch {
	case os.IsNotExist(rabbit.err):
		t.Skip("rabbitmq-server is not installed (apt-get install rabbitmq-server): tests against a real one are left out")
	case rabbit.err != nil:
		t.Fatal(rabbit.err)
	}
	return rabbit.server
}

// StopRabbitMQ ends the server, if there is one: for TestMain.
func StopRabbitMQ() {
	rabbit.Lock()
	defer rabbit.Unlock()
	if rabbit.server != nil {
		rabbit.server.stop()
		rabbit.server = nil
	}
}

// rabbitScript ends with whoever holds the other end of its standard input, so that nothing is
// left of a test that is killed. epmd runs in the foreground: one that erl starts itself would stay.
const rabbitScript = `epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1 & epmd=$!
"$1"/rabbitmq-server </dev/null & server=$!
read -r _
kill -9 $server $epmd
wait`

func startRabbitMQ(o RabbitOptions) (*RabbitMQ, error) {
	binary, err := filepath.EvalSymlinks("/usr/lib/rabbitmq/bin/rabbitmq-server") // the one in PATH becomes another user
	if err != nil {
		return nil, err
	}
	r := &RabbitMQ{sbin: filepath.Dir(binary)}
	r.Version = strings.TrimPrefix(filepath.Base(filepath.Dir(r.sbin)), "rabbitmq_server-")
	if r.dir, err = os.MkdirTemp("", "rabbitmq"); err != nil {
		return nil, err
	}
	ports, err := freePorts(4)
	if err != nil {
		return nil, err
	}
	r.Addr, r.TLSAddr = ports[0], ports[1]
	_, distPort, _ := net.SplitHostPort(ports[2])
	_, epmdPort, _ := net.SplitHostPort(ports[3])

	conf := append([]string{"listeners.tcp.1 = " + r.Addr, "load_definitions = " + r.dir + "/definitions.json"}, o.Config...)
	if len(o.TLSConfig) > 0 {
		conf = append(append(conf, "listeners.ssl.1 = "+r.TLSAddr), o.TLSConfig...)
	}
	definitions := map[string]any{"users": []any{}, "permissions": []any{}, "vhosts": []any{map[string]string{"name": "/"}}}
	for k, v := range o.Definitions {
		definitions[k] = v
	}
	definitions["users"] = append(definitions["users"].([]any), map[string]string{"name": "guest", "password": "guest", "tags": "administrator"})
	definitions["permissions"] = append(definitions["permissions"].([]any), map[string]string{"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"})
	encoded, err := json.Marshal(definitions)
	if err != nil {
		return nil, err
	}
	for name, text := range map[string]string{
		"rabbitmq.conf": strings.Join(conf, "\n") + "\n", "definitions.json": string(encoded),
		"plugins": "[" + strings.Join(o.Plugins, ",") + "].\n", ".erlang.cookie": "WEIRTEST", "env.conf": "",
	} {
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	loopback := "-kernel inet_dist_use_interface {127,0,0,1}"
	r.env = append(os.Environ(),
		"HOME="+r.dir, "RABBITMQ_NODENAME=weir-test@localhost", "RABBITMQ_CONF_ENV_FILE="+r.dir+"/env.conf",
		"RABBITMQ_CONFIG_FILE="+r.dir+"/rabbitmq.conf", "RABBITMQ_ENABLED_PLUGINS_FILE="+r.dir+"/plugins",
		"RABBITMQ_MNESIA_BASE="+r.dir+"/mnesia", "RABBITMQ_LOG_BASE="+r.dir+"/log", "RABBITMQ_PID_FILE="+r.dir+"/pid",
		"RUNNING_UNDER_SYSTEMD=1", // its script becomes the server, instead of watching over it
		"RABBITMQ_DIST_PORT="+distPort, "ERL_EPMD_PORT="+epmdPort, "ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+loopback, "RABBITMQ_CTL_ERL_ARGS="+loopback,
	)
	if err := r.start(); err != nil {
		r.stop()
		return nil, err
	}
	return r, nil
}

func freePorts(n int) (addrs []string, err error) {
	for range n {
		address, err := fault.FreeAddress("tcp")
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, address)
	}
	return addrs, nil
}

func (r *RabbitMQ) start() error {
	log, err := os.Create(filepath.Join(r.dir, "output"))
	if err != nil {
		return err
	}
	defer log.Close()
	in, alive, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	r.alive = alive
	r.cmd = exec.Command("sh", "-c", rabbitScript, "sh", r.sbin)
	r.cmd.Env, r.cmd.Dir = r.env, r.dir
	r.cmd.Stdin, r.cmd.Stdout, r.cmd.Stderr = in, log, log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := r.cmd.Start(); err != nil {
		r.cmd = nil
		return err
	}
	deadline := time.Now().Add(2 * time.Minute)
	for {
		conn, err := net.DialTimeout("tcp", r.Addr, time.Second)
		if err == nil {
			conn.Close()
			return nil
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("rabbitmq does not listen: %s", text)
		}
		time.Sleep(50 * time.Millisecond) // a poll with a deadline
	}
}

func (r *RabbitMQ) stop() {
	if r.cmd != nil {
		r.alive.Close()
		r.cmd.Wait()
	}
	os.RemoveAll(r.dir)
}

// Ctl runs rabbitmqctl; that takes a second or two.
func (r *RabbitMQ) Ctl(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(r.sbin, "rabbitmqctl"), args...)
	cmd.Env, cmd.Dir = r.env, r.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("rabbitmqctl %v: %v: %s", args, err, out)
	}
	return string(out)
}
