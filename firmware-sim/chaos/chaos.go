// Package chaos is the campaign that tries to make a gateway break its word: a real weir
// process between simulated devices and a far end that writes down what arrives, while a script of
// faults kills it, stops it, fills its disk, cuts its power and spoils its links.
//
// What it says in the end it has counted itself, at both ends. The gateway's own ledger is asked
// too, all the time, and has to agree. A script is drawn from a seed, printed, and can be played again
// line by line. Only the faults repeat: what they meet depends on the machine.
package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/weir-iot/weir/firmware-sim/fault"
	"github.com/weir-iot/weir/firmware-sim/sim"
)

// Config of a campaign. Weir and Dir are required.
type Config struct {
	Weir   string // the gateway's program
	Dir    string // for its configuration, data and log
	Seed   uint64
	For    time.Duration // how long faults happen; what follows is as long as it takes to recover
	Script fault.Script  // nil: one is drawn from the seed
	// Damage also turns bits of the journal.
	Damage bool
	// Kills draws a script of little else than kills and power cuts.
	Kills bool
	// Mosquitto is the far end instead of one of our own.
	Mosquitto bool

	Clients int     // devices; default 8, see sim.Load
	Rate    float64 // messages a second of each; default 25
	Pad     int     // bytes added to each message; default 4000, so that an outage outlasts the journal

	Out io.Writer // what happens, as it happens
}

// How long the gateway may take for what it has to do; generous, because slowness is not what is
// looked for.
const (
	startLimit  = time.Minute
	answerLimit = 3 * time.Minute
	settleLimit = 5 * time.Minute
)

// campaign is a run.
type campaign struct {
	Config
	gateway  *gateway
	disk     *disk
	far      farEnd
	up, down *fault.Link // gateway to far end, devices to gateway
	record   *record
	watch    *watch
	ledger   *sim.Ledger
	began    time.Time

	mu     sync.Mutex
	faults []happened
	failed error // a fault that could not be ended
}

// happened is a fault that is over, or one that does not last.
type happened struct {
	verb       string
	begin, end time.Time
}

// Run runs a campaign. An error is one of the campaign; what the gateway did wrong stands in the report.
func Run(ctx context.Context, cfg Config) (_ *Report, err error) {
	if cfg.Clients == 0 {
		cfg.Clients = 8
	}
	if cfg.Rate == 0 {
		cfg.Rate = 25
	}
	if cfg.Pad == 0 {
		cfg.Pad = 4000
	}
	c := &campaign{Config: cfg, record: newRecord(), ledger: sim.NewLedger(), began: time.Now()}
	tagged, err := hasFaults(cfg.Weir)
	if err != nil {
		return nil, err
	}
	if c.disk, err = openDisk(cfg.Dir, tagged); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.disk.close()) }()
	if cfg.Mosquitto {
		c.far, err = startMosquitto(cfg.Dir, c.record)
	} else {
		c.far, err = startTaker(c.record)
	}
	if err != nil {
		return nil, err
	}
	defer c.far.close()
	if c.up, err = fault.Listen(c.far.address()); err != nil {
		return nil, err
	}
	defer c.up.Close()
	if err := c.configure(); err != nil {
		return nil, err
	}
	if c.down, err = fault.Listen(c.gateway.mqtt); err != nil {
		return nil, err
	}
	defer c.down.Close()
	verbs, skipped := c.verbs()
	if c.Script == nil {
		if !c.Damage {
			skipped["flip"] = "nobody asked for damage"
		}
		c.Script = Draw(c.Seed, c.For, c.Kills, skipped)
	}
	c.say("the script, with seed %d for %v:\n%s", c.Seed, c.For, c.Script)
	for verb, why := range skipped {
		c.say("%s is left out: %s", verb, why)
	}
	if err := c.gateway.start(); err != nil {
		return nil, err
	}
	defer c.gateway.kill()
	c.watch = startWatch("http://" + c.gateway.http)
	defer c.watch.stop()
	return c.run(ctx, verbs, skipped)
}

func (c *campaign) run(ctx context.Context, verbs map[string]fault.Verb, skipped map[string]string) (*Report, error) {
	load := &sim.Load{Address: c.down.Addr(), Clients: c.Clients, Rate: c.Rate, Seed: c.Seed, Ledger: c.ledger, Pad: c.Pad}
	sending, stopSending := context.WithCancel(ctx)
	defer stopSending()
	loaded := make(chan error, 1)
	go func() { loaded <- load.Run(sending, answerLimit) }()

	err := c.Script.Run(ctx, c.Seed, c.For, verbs, func(s fault.Step) {
		what := "ends"
		if s.Begin {
			what = "begins"
		}
		c.say("%8.3f %s %s: %s", time.Since(c.began).Seconds(), time.Now().Format("15:04:05.000"), what, s.Rule)
	})
	c.up.Pass()
	c.down.Pass()
	stopSending()
	unanswered := <-loaded
	if err = errors.Join(err, c.failure()); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	c.say("the faults are over after %v; waiting until everything has arrived", time.Since(c.began).Round(time.Second))
	h := history{seed: c.Seed, asked: c.For, script: c.Script, skipped: skipped, ledger: c.ledger, unanswered: unanswered}
	h.unsettled = c.settle(ctx)
	h.final, h.polls, h.offBalance, h.backlog = c.watch.stop()
	h.stopped = c.gateway.stop()
	h.crashes = c.gateway.crashed()
	h.arrivals, h.wrong = c.record.all()
	h.own = c.record.ofGateway()
	if err := c.far.problem(); err != nil {
		h.wrong = append(h.wrong, err.Error())
	}
	h.faults, h.took = c.happened(), time.Since(c.began)
	return judge(h), nil
}

// settle waits until the gateway says that nothing is queued and the far end agrees.
func (c *campaign) settle(ctx context.Context) error {
	for end := time.Now().Add(settleLimit); ; {
		l, err := c.watch.ask(ctx)
		arrived, _ := c.record.all()
		switch {
		case err != nil:
		case l.queued() == 0 && c.far.still(len(arrived)):
			return nil
		default:
			err = fmt.Errorf("%d events are still queued", l.queued())
		}
		if time.Now().After(end) {
			return fmt.Errorf("not settled within %v: %w", settleLimit, err)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// configure writes the gateway's configuration.
func (c *campaign) configure() error {
	g := &gateway{binary: c.Weir, conf: filepath.Join(c.Dir, "weir.yaml"), log: filepath.Join(c.Dir, "weir.log"), env: c.disk.env(), say: c.say}
	for _, address := range []*string{&g.mqtt, &g.http} {
		var err error
		if *address, err = fault.FreeAddress("tcp"); err != nil {
			return err
		}
	}
	c.gateway = g
	return os.WriteFile(g.conf, fmt.Appendf(nil, `# The gateway of a campaign of faults.
gateway: {id: chaos, data_dir: %q}
listeners: {mqtt: {address: %q}, http: {address: %q}}
journal: {max_size: 8MiB}
health: {interval: 0}
uplinks: {far: {sink: mqtt, url: "mqtt://%s", keep_alive: 2s, ack_timeout: 2s}}
routes: {all: {topics: ["#"], uplink: far}}
`, c.disk.data, g.mqtt, g.http, c.up.Addr()), 0o600)
}

func (c *campaign) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.Out, format+"\n", args...)
}

func (c *campaign) note(h happened) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, h)
}

func (c *campaign) broken(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = errors.Join(c.failed, err)
}

func (c *campaign) failure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

func (c *campaign) happened() []happened {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.faults
}
