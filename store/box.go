package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/child"
)

// Box runs state and reservoir in a child process, so that what ends Badger does not end the gateway: it
// dies of SIGBUS when another program fills the disk, and panics in goroutines of its own, and no recover
// reaches either.
//
//	gateway ── State, Reservoir ── socket pair ── child: ServeBox ── Badger
//
// A child that ends is started again, and one that hangs is killed: see watch. Calls that waited fail with ErrTransient: a
// change may or may not have been made. One that ended because the disk is full, or found it full, opens for reading only and
// goes over to writing when there is room.
type Box struct {
	o    BoxOptions
	stop context.CancelFunc
	done chan struct{} // run has ended

	patience int // by how much the limits of watch are multiplied, of run

	mu     sync.Mutex // guards what follows
	client *client    // nil while there is no child that answers
	why    error      // why not
	child  int        // its process id

	state     BoxState
	reservoir BoxReservoir
}

// BoxOptions are what OpenBox needs. Dir is required.
type BoxOptions struct {
	Dir string // of the gateway's data: state/ and reservoir/ are made in it

	// Command starts a program that calls ServeBox with Dir and child.Conn; Dir is
	// appended. The default is this program with "box".
	Command []string
	// OpenTimeout is how long the databases may take to open before the child is killed, which counts
	// as a strike against the one that was being opened; default 30 s.
	OpenTimeout time.Duration
	// Silence is for how long the child may say nothing while calls wait, before it is killed; default 20 s. It answers
	// this whatever the databases wait for, so it is for a child that is stopped, or that stands still as a
	// whole.
	Silence time.Duration
	// CallTimeout is how long a call may take before the child is killed; default 2 min. A slow disk is no reason to
	// be killed, and a call cannot be given up alone: the change might be made after a later one. Both times
	// double with every such kill, up to eightfold, until a child has lived for an hour.
	CallTimeout time.Duration
	Logger      *slog.Logger
}

const (
	boxTicks    = 10 // Silence is counted in so many
	boxPatience = 8
	boxCalm     = time.Hour

	boxMemory     = "32MiB" // soft limit of the child, GOMEMLIMIT
	boxBackoff    = 50 * time.Millisecond
	boxBackoffMax = time.Second
	boxSteady     = 10 * time.Second // a child that lived as long begins with the shortest backoff again
)

// OpenBox starts the child and returns when it has opened both databases. It fails with what the child could
// not do, and if it does not come up in so many attempts that each database that breaks it would have been set aside.
func OpenBox(o BoxOptions) (*Box, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.OpenTimeout <= 0 {
		o.OpenTimeout = 30 * time.Second
	}
	if o.Silence <= 0 {
		o.Silence = 20 * time.Second
	}
	if o.CallTimeout <= 0 {
		o.CallTimeout = 2 * time.Minute
	}
	if len(o.Command) == 0 {
		var err error
		if o.Command, err = child.Command("box"); err != nil {
			return nil, fmt.Errorf("open box: %w", err)
		}
	}
	if err := os.MkdirAll(o.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("open box: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	b := &Box{o: o, stop: stop, done: make(chan struct{}), patience: 1}
	b.state.b, b.reservoir.b = b, b
	b.reservoir.stats = map[string]Stat{}
	var c *boxProcess
	var err error
	for range 2*maxStrikes + 2 { // for two databases
		if c, err = b.start(); err == nil || !errors.Is(err, errChildDied) {
			break
		}
	}
	if err != nil {
		stop()
		return nil, fmt.Errorf("open box: %w", err)
	}
	go b.run(ctx, c)
	b.reservoir.Holders()
	return b, nil
}

// State is the state in the box.
func (b *Box) State() *BoxState { return &b.state }

// Reservoir is the reservoir in the box.
func (b *Box) Reservoir() *BoxReservoir { return &b.reservoir }

// Close lets the child close its databases, and returns when it has ended.
func (b *Box) Close() error {
	b.stop()
	<-b.done
	return nil
}

var (
	errBoxClosed = gateway.Errorf(gateway.ErrTransient, "the box is closed")
	errChildDied = errors.New("the process with the databases ended")
)

// do is a call to the child there is.
func (b *Box) do(v verb, body []byte) ([][]byte, error) {
	b.mu.Lock()
	c, why := b.client, b.why
	b.mu.Unlock()
	if c == nil {
		return nil, why
	}
	return c.do(v, body)
}

// boxProcess is one child.
type boxProcess struct {
	process *child.Process
	client  *client
	ended   chan error // of cmd.Wait, once
	born    time.Time
	late    atomic.Bool // it did not open in time
	hung    bool        // watch said so; known when serve returns
}

// start starts a child and waits until it answers.
func (b *Box) start() (*boxProcess, error) {
	command := append(b.o.Command[:len(b.o.Command):len(b.o.Command)], b.o.Dir)
	env := []string{"GOMEMLIMIT=" + boxMemory, "GOTRACEBACK=single"}
	process, err := child.Start(command, env, "the process with the databases", b.o.Logger)
	if err != nil {
		return nil, err
	}
	c := &boxProcess{
		process: process, client: newClient(process.Conn), ended: make(chan error, 1), born: time.Now(),
	}
	go func() { c.ended <- process.Wait() }()
	late := time.AfterFunc(b.o.OpenTimeout, func() {
		c.late.Store(true)
		b.o.Logger.Error("the databases do not open; their process is killed", "after", b.o.OpenTimeout)
		process.Kill()
	})
	_, v, body, err := c.client.w.receive()
	late.Stop()
	switch {
	case err != nil:
		err = errors.Join(errChildDied, b.reap(c))
	case v == answerFailed:
		err = errors.Join(decodeError(body), b.end(c))
	}
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.client, b.why, b.child = c.client, nil, process.Pid()
	return c, nil
}

// reap waits for a child that died, and says how. A database that it was opening gets a strike if the child broke: not if
// it was killed by somebody else, or if it died of a full disk.
func (b *Box) reap(c *boxProcess) error {
	c.client.w.c.Close()
	err := <-c.ended
	if (broke(err) || c.late.Load()) && checkFree(filepath.Join(b.o.Dir, "state")) == nil {
		for _, name := range []string{"state", "reservoir"} {
			if err := strikesOf(filepath.Join(b.o.Dir, name)).strike(); err != nil {
				b.o.Logger.Warn("it cannot be noted that a database broke its process", "database", name, "error", err)
			}
		}
	}
	if err == nil {
		err = errors.New("exit status 0")
	}
	return err
}

// goPanic is the exit status of a Go program that panicked, or found a fault.
const goPanic = 2

// broke tells whether a process ended by its own fault.
func broke(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		switch status.Signal() {
		case syscall.SIGBUS, syscall.SIGSEGV, syscall.SIGABRT, syscall.SIGILL, syscall.SIGFPE, syscall.SIGTRAP:
			return true
		}
		return false
	}
	return exit.ExitCode() == goPanic
}

// end closes the wire, which lets a child close its databases, and waits for it.
func (b *Box) end(c *boxProcess) error {
	c.client.w.c.Close()
	late := time.AfterFunc(closeLimit+lockWait, func() { c.process.Kill() })
	defer late.Stop()
	return <-c.ended
}

// run keeps a child until ctx ends.
func (b *Box) run(ctx context.Context, c *boxProcess) {
	defer close(b.done)
	backoff := boxBackoff
	for {
		if c != nil {
			err := b.serve(ctx, c)
			if ctx.Err() != nil {
				return
			}
			b.o.Logger.Error("the process with the databases ended; it is started again", "error", err)
			if time.Since(c.born) > boxSteady {
				backoff = boxBackoff
			}
			switch {
			case c.hung:
				b.patience = min(2*b.patience, boxPatience)
			case time.Since(c.born) > boxCalm:
				b.patience = 1
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, boxBackoffMax)
		var err error
		if c, err = b.start(); err != nil {
			c = nil
			b.down(err)
			b.o.Logger.Error("the databases cannot be opened", "error", err)
		}
	}
}

// serve returns when the child has ended.
func (b *Box) serve(ctx context.Context, c *boxProcess) error {
	stopped := context.AfterFunc(ctx, func() { c.client.w.c.Close() })
	defer stopped()
	gone := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { b.watch(c, gone) })
	err := c.client.receive()
	close(gone)
	watching.Wait()
	if ctx.Err() != nil {
		b.down(errBoxClosed)
		c.client.fail(errBoxClosed)
		return b.end(c)
	}
	if !errors.Is(err, io.EOF) { // what it sends is nonsense, or it cannot be written to
		c.process.Kill()
	}
	b.down(errChildDied)
	c.client.fail(b.reason(errChildDied))
	return b.reap(c)
}

// watch closes the wire to a child that hangs, after which it is killed. Time is counted in ticks, so that a gateway that was
// itself stopped for a while does not blame its child.
func (b *Box) watch(c *boxProcess, gone <-chan struct{}) {
	every := b.o.Silence * time.Duration(b.patience) / boxTicks
	late := int(boxTicks * b.o.CallTimeout / b.o.Silence)
	tick := time.NewTicker(every)
	defer tick.Stop()
	asks := make(chan struct{}, 1)
	defer close(asks)
	go func() { // beside, for a child that does not read blocks who writes, until the wire is closed
		for range asks {
			c.client.w.send(0, ping, nil) // if it fails, receive ends
		}
	}()
	for silent := 0; ; {
		select {
		case <-gone:
			return
		case <-tick.C:
		}
		age := c.client.age()
		if silent++; c.client.heard.Swap(false) || age == 0 {
			silent = 0
		}
		if silent > boxTicks || age > late {
			b.o.Logger.Error("the process with the databases hangs; it is killed",
				"silent", time.Duration(silent)*every, "call", time.Duration(age)*every)
			c.hung = true
			c.client.w.c.Close()
			return
		}
		if age > 0 {
			select {
			case asks <- struct{}{}:
			default:
			}
		}
	}
}

// down makes calls fail until there is another child.
func (b *Box) down(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.client, b.why, b.child = nil, b.reason(err), 0
}

// reason is what callers are told: the disk is full, or it may work another time.
func (b *Box) reason(err error) error {
	if full := checkFree(filepath.Join(b.o.Dir, "state")); errors.Is(full, gateway.ErrFull) {
		return full
	}
	return gateway.Errorf(gateway.ErrTransient, "%w", err)
}
