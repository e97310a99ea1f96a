package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/weir-iot/weir/firmware-sim/sim"
	"github.com/weir-iot/weir/gateway/config"
)

// demoConfig is the gateway's configuration for the simulated devices; %s is the directory of their
// ports.
const demoConfig = `# The gateway of "make run". It is yours to change: it is written only if it is not there.
gateway: {id: demo, site: demo, data_dir: data}
listeners:
  mqtt: {address: 127.0.0.1:1883}
  http: {address: 127.0.0.1:8080}
  mqttsn: {address: 127.0.0.1:1884}
buses:
  rs485: {port: %[8]q, baud: 19200}
devices:
  scale:
    driver: serial
    name: Packing scale
    port: %[1]q
    format: {regex: '^(?P<weight>[-0-9.]+) kg$'}
    measurements: {weight: {unit: kg}}
  weather:
    driver: serial
    name: Weather station
    port: %[2]q
    format: key=value
    measurements: {temperature: {unit: °C}, humidity: {unit: "%%"}, pressure: {unit: hPa}, wind: {unit: m/s}}
  co2:
    driver: serial
    name: Meeting room
    port: %[3]q
    format: json
    measurements: {co2: {unit: ppm}, temperature: {unit: °C}}
  soil:
    driver: serial
    name: Soil probe
    port: %[4]q
    format: {csv: [moisture, temperature]}
    measurements: {moisture: {unit: "%%"}, temperature: {unit: °C}}
  gps: {driver: serial, name: Boat, port: %[5]q, protocol: nmea0183}
  p1: {driver: serial, name: Electricity and gas, port: %[6]q, baud: 115200, protocol: dsmr_p1}
  dust: {driver: serial, name: Dust sensor, port: %[7]q, protocol: pms5003}
  heatpump:
    driver: modbus
    name: Heat pump
    bus: rs485
    unit_id: 3
    interval: 1s
    registers:
      flow: {register: 30001, scale: 0.1, unit: °C, deadband: 0.5, max_interval: 10s}
      return: {register: 30002, scale: 0.1, unit: °C, deadband: 0.5, max_interval: 10s}
      power: {register: 30003, scale: 0.1, unit: W}
      compressor: {register: 30004, enum: {0: stopped, 1: runs}, deadband: 0}
      setpoint: {register: 40001, scale: 0.1, unit: °C, write: true, min: 20, max: 55, deadband: 0, max_interval: 10s}
`

func demo(ctx context.Context, args []string, out, errOut io.Writer) error {
	var c sim.Config
	flags := flag.NewFlagSet("firmware-sim demo", flag.ContinueOnError)
	fleetFlags(flags, &c)
	binary := flags.String("weir", "weir", "the gateway's `program`")
	dir := flags.String("dir", "run", "`directory` for its configuration, its data, its log and the serial ports")
	if err := parse(flags, args, errOut); err != nil {
		return err
	}
	root, err := filepath.Abs(*dir)
	if err != nil {
		return err
	}
	c.TTYDir = filepath.Join(root, "tty")
	file := filepath.Join(root, "weir.yaml")
	cfg, err := demoSettings(file, c.TTYDir)
	if err != nil {
		return err
	}
	c.MQTT = cfg.Listeners.MQTT.Address
	if sn := cfg.Listeners.MQTTSN; sn != nil { // an older demo's config does not have it
		c.MQTTSN = sn.Address
	}
	fleet, err := sim.Open(c) // before the gateway, which then finds the ports at once
	if err != nil {
		return err
	}
	defer fleet.Close()

	gateway, err := startGateway(*binary, file, filepath.Join(root, "weir.log"), out, errOut)
	if err != nil {
		return err
	}
	select {
	case <-gateway.up:
	case <-gateway.ended:
		return gateway.failure()
	case <-ctx.Done():
		return gateway.stop()
	}
	fmt.Fprintf(out, "simulated devices:\n%sconfiguration %s, log %s; Ctrl-C stops both\n", fleet.Describe(),
		short(file), short(gateway.log))

	sending, hush := context.WithCancel(ctx)
	defer hush()
	var devices sync.WaitGroup
	devices.Go(func() { fleet.Run(sending) })
	select {
	case <-ctx.Done():
	case <-gateway.ended:
	}
	hush()
	devices.Wait()
	if ctx.Err() == nil {
		return gateway.failure()
	}
	err = gateway.stop()
	fmt.Fprintf(out, "\n%s", fleet.Summary())
	return err
}

// demoSettings writes the gateway's configuration if there is none, and reads it.
func demoSettings(file, ttys string) (*config.Config, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err == nil {
		var ports []any
		for _, name := range []string{"scale", "weather", "co2", "soil", "gps", "p1", "dust", "heatpump"} {
			ports = append(ports, filepath.Join(ttys, name))
		}
		_, err = fmt.Fprintf(f, demoConfig, ports...)
		err = errors.Join(err, f.Close())
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return config.Load(file)
}

// gateway is the weir that runs as a child.
type gateway struct {
	cmd    *exec.Cmd
	config string
	log    string
	up     chan struct{} // it takes connections, and has said where
	ended  chan struct{}
	err    error // how it ended
}

// startGateway starts weir. Its log goes to a file, and what a person has to see here too.
func startGateway(binary, configFile, logFile string, out, errOut io.Writer) (*gateway, error) {
	log, err := os.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(binary, "--config", configFile, "run")
	told, err := cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	said, err := cmd.StderrPipe()
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	// In a group of its own, so that Ctrl-C comes to it through us, after the devices; and if
	// we are killed it is told to stop.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start the gateway: %w", err), log.Close())
	}
	g := &gateway{cmd: cmd, config: configFile, log: logFile, up: make(chan struct{}), ended: make(chan struct{})}
	var reading sync.WaitGroup
	reading.Go(func() {
		first := true
		for s := bufio.NewScanner(told); s.Scan(); first = false {
			fmt.Fprintln(out, s.Text())
			if first {
				close(g.up)
			}
		}
	})
	reading.Go(func() {
		for s := bufio.NewScanner(said); s.Scan(); {
			fmt.Fprintln(log, s.Text())
			if !strings.HasPrefix(s.Text(), "time=") || strings.Contains(s.Text(), " level=ERROR ") {
				fmt.Fprintln(errOut, s.Text())
			}
		}
	})
	go func() {
		reading.Wait() // Wait closes the pipes
		g.err = errors.Join(cmd.Wait(), log.Close())
		close(g.ended)
	}()
	return g, nil
}

// failure is the error for a gateway that ended by itself; why, it has said.
func (g *gateway) failure() error {
	return fmt.Errorf("the gateway ended (%v); its configuration is %s, its log %s", g.cmd.ProcessState, short(g.config), short(g.log))
}

// stop tells the gateway to stop and waits for its end.
func (g *gateway) stop() error {
	select {
	case <-g.ended:
		return nil
	default:
	}
	g.cmd.Process.Signal(syscall.SIGTERM)
	<-g.ended
	if g.err != nil {
		return fmt.Errorf("the gateway did not stop well: %w; its log is %s", g.err, short(g.log))
	}
	return nil
}

// short is the path from here, if that is shorter.
func short(path string) string {
	if here, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(here, path); err == nil && len(rel) < len(path) {
			return rel
		}
	}
	return path
}
