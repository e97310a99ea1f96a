package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/bridge/dial"
	"github.com/weir-iot/weir/bridge/kafka"
	"github.com/weir-iot/weir/bridge/mqtt"
	"github.com/weir-iot/weir/bridge/nats"
	"github.com/weir-iot/weir/bridge/verify"
	"github.com/weir-iot/weir/bridge/web"
	"github.com/weir-iot/weir/gateway"
)

// verifyOptions are the flags of weir verify.
type verifyOptions struct {
	topic, stream          string
	gateway, against       string
	length                 time.Duration
	count                  uint64
	json                   bool
	sasl                   string
	username, passwordFile string
	dial                   dial.Config
}

func verifyCommand(o *options) *cobra.Command {
	var v verifyOptions
	cmd := &cobra.Command{
		Use:   "verify URL",
		Short: "Look at a far end, and tell what is wrong with what arrived",
		Long: `Read events where they arrived, and tell by their ids alone what came twice, what was first
seen after a newer event of its topic, and which ids name two things. With --against the running gateway
is asked what it has sent by a route, and what of that did not arrive is named.

A repeat is no mistake: Weir sends at least once. Everything else is, and so is nothing at all.

At an MQTT broker (mqtt://, mqtts://, ws:// or wss://) it subscribes to --topic and listens for a minute, for
a broker keeps no stream that could be read from its beginning. Of a NATS server (nats:// or tls://) it
reads the --stream from its beginning to its end, and so it does the --topic of a Kafka cluster
(kafka://, or kafkas:// with TLS), where order is kept per key.

Exit codes: 0 nothing is wrong, 1 something is, or the command failed, 2 usage, 3 config invalid,
4 gateway not reachable.`,
		Example: `  weir verify mqtt://broker.example.com --topic 'plant1/#' --for 10m
  weir verify nats://n1.example.com --stream EVENTS
  weir verify kafka://kafka1.example.com --topic weir --against lake/telemetry
  weir verify mqtts://broker.example.com --username ops --password-file pw --against cloud/telemetry`,
		Args: args(1, 1, "the url of a far end"),
		RunE: func(cmd *cobra.Command, given []string) error {
			r, err := v.run(cmd, o, given[0])
			if err != nil {
				return err
			}
			if v.json {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				err = enc.Encode(r)
			} else {
				err = printVerified(cmd, r)
			}
			if err == nil && r.Wrong() {
				err = exitf(exitFailed, "%s", wrong(r))
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&v.topic, "topic", "#", "the topic `FILTER` at an MQTT broker, or the name of a Kafka topic")
	f.StringVar(&v.stream, "stream", "", "the `NAME` of a NATS stream")
	f.DurationVar(&v.length, "for", 0, "how long to listen; default: 1m at an MQTT broker, elsewhere to the end of what is there")
	f.Uint64Var(&v.count, "count", 0, "stop after `N` arrivals")
	f.StringVar(&v.gateway, "expect-gateway", "", "look at the events of the gateway `ID` only")
	f.StringVar(&v.against, "against", "", "ask the running gateway what it has sent by `UPLINK/ROUTE`")
	f.BoolVar(&v.json, "json", false, "print JSON")
	f.StringVar(&v.sasl, "sasl", "", "how the account logs in at Kafka: plain, scram-256 or scram-512")
	f.StringVar(&v.username, "username", "", "the account at the far end")
	f.StringVar(&v.passwordFile, "password-file", "", "a `FILE` with its password")
	f.StringVar(&v.dial.CAFile, "ca-file", "", "a `FILE` with the authorities for TLS; default: the system's")
	f.StringVar(&v.dial.CertFile, "cert-file", "", "a `FILE` with a client certificate")
	f.StringVar(&v.dial.KeyFile, "key-file", "", "a `FILE` with its key")
	f.StringVar(&v.dial.Proxy, "proxy", "", "the `URL` of a proxy")
	return cmd
}

// look reads what has arrived at a far end, and calls ready when it misses nothing any more. It ends
// with ctx, and then returns nil.
type look func(ctx context.Context, ready func(), got func(within, topic, id string, payload []byte)) error

// oneOrder is the look at a far end that has one order for everything.
func oneOrder(read func(context.Context, func(), func(topic, id string, payload []byte)) error) look {
	return func(ctx context.Context, ready func(), got func(within, topic, id string, payload []byte)) error {
		return read(ctx, ready, func(topic, id string, payload []byte) { got("", topic, id, payload) })
	}
}

func (v *verifyOptions) run(cmd *cobra.Command, o *options, far string) (*verify.Report, error) {
	ctx := cmd.Context()
	read, err := v.reader(far)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	ask, err := v.asker(o)
	if err != nil {
		return nil, err
	}
	c := verify.New(v.gateway)
	reading, enough := context.WithCancel(ctx)
	defer enough()
	arrivals := uint64(0)
	over := time.AfterFunc(time.Hour, enough)
	over.Stop() // until there is something to hear
	defer over.Stop()
	ready := func() {
		if v.length == 0 {
			enough()
			return
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "listening for %v\n", v.length)
		over.Reset(v.length)
	}
	err = read(reading, ready, func(within, topic, id string, payload []byte) {
		if v.count > 0 && arrivals >= v.count {
			return
		}
		c.Add(within, topic, id, payload)
		if arrivals++; arrivals == v.count {
			enough()
		}
	})
	if err != nil {
		return nil, err
	}
	r := c.Report()
	if ask == nil {
		return r, nil
	}
	due, err := ask(context.WithoutCancel(ctx), r)
	if err == nil {
		r.Sent = c.Against(due)
	}
	return r, err
}

// reader makes what reads at far.
func (v *verifyOptions) reader(far string) (look, error) {
	u, err := url.Parse(far)
	if err != nil {
		return nil, fmt.Errorf("not a url: %w", err)
	}
	password := ""
	if v.passwordFile != "" {
		text, err := os.ReadFile(v.passwordFile)
		if err != nil {
			return nil, err
		}
		password = strings.TrimRight(string(text), "\r\n")
	}
	switch u.Scheme {
	case "mqtt", "mqtts", "ws", "wss":
		r, err := mqtt.NewReader(mqtt.Config{Config: v.dial, URL: far, Username: v.username, Password: password}, v.topic)
		if err != nil {
			return nil, err
		}
		if v.length == 0 {
			v.length = time.Minute
		}
		return oneOrder(r.Read), nil
	case "nats", "tls":
		r, err := nats.NewReader(nats.Config{Config: v.dial, URLs: []string{far}, Username: v.username, Password: password}, v.stream)
		if err != nil {
			return nil, err
		}
		return oneOrder(r.Read), nil
	case "kafka", "kafkas":
		if u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
			return nil, fmt.Errorf("a Kafka url ends after host and port: %s://%s", u.Scheme, u.Host)
		}
		if v.topic == "#" {
			return nil, errors.New("which topic? Give its name with --topic")
		}
		r, err := kafka.NewReader(kafka.Config{
			Config: v.dial, Brokers: []string{u.Host}, TLS: u.Scheme == "kafkas", SASL: v.sasl, Username: v.username, Password: password,
		}, v.topic)
		if err != nil {
			return nil, err
		}
		return r.Read, nil
	}
	return nil, fmt.Errorf("there is no reader for %q: mqtt://, mqtts://, ws://, wss://, nats://, tls://, kafka:// or kafkas://", u.Scheme)
}

// asker is what asks the running gateway what is due; nil without --against.
func (v *verifyOptions) asker(o *options) (func(context.Context, *verify.Report) ([]verify.Due, error), error) {
	if v.against == "" {
		return nil, nil
	}
	uplink, route, ok := strings.Cut(v.against, "/")
	if !ok {
		return nil, exitf(exitUsage, "--against %s: give UPLINK/ROUTE", v.against)
	}
	client, err := newClient(o)
	if err != nil {
		return nil, err
	}
	query := url.Values{"uplink": {uplink}, "route": {route}}
	return func(ctx context.Context, r *verify.Report) (due []verify.Due, err error) {
		for from := least(r); ; {
			query.Set("from", strconv.FormatUint(from, 10))
			p, err := ask[web.Due](ctx, client, http.MethodGet, "/api/due?"+query.Encode(), nil)
			if err != nil {
				return nil, err
			}
			for _, e := range p.Events {
				due = append(due, verify.Due(e))
			}
			if from = p.Next; from == 0 {
				return due, nil
			}
		}
	}, nil
}

// least is the least offset that arrived.
func least(r *verify.Report) uint64 {
	offset := uint64(gateway.MaxOffset)
	for _, e := range r.Epochs {
		offset = min(offset, e.First)
	}
	return offset
}

// wrong says in a line what is.
func wrong(r *verify.Report) string {
	var all []string
	say := func(n uint64, what string) {
		if n > 0 {
			all = append(all, fmt.Sprintf(what, n))
		}
	}
	say(r.Reordered.Count, "%d out of order")
	say(r.Twofold.Count, "%d ids that name two things")
	if r.Sent != nil {
		say(r.Sent.Missing.Count, "%d missing")
	}
	if r.Sent != nil && r.Sent.Due == 0 {
		all = append(all, "nothing of what the gateway has sent by the route arrived")
	}
	if r.IDs == 0 {
		all = append(all, "nothing with an id arrived")
	}
	return strings.Join(all, ", ")
}

func printVerified(cmd *cobra.Command, r *verify.Report) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%d arrivals of %d events on %d topics, %d of them repeats\n", r.Arrivals, r.IDs, r.Topics, r.Repeats)
	if r.WithoutID+r.Others > 0 {
		fmt.Fprintf(&b, "not looked at: %d without an id, %d of other gateways\n", r.WithoutID, r.Others)
	}
	for _, e := range r.Epochs {
		fmt.Fprintf(&b, "%s, epoch %s: %d events, offsets %d to %d\n", e.Gateway, e.Epoch, e.IDs, e.First, e.Last)
	}
	name := func(what string, f verify.Findings) {
		fmt.Fprintf(&b, "%s: %d\n", what, f.Count)
		for _, p := range f.First {
			fmt.Fprintln(&b, strings.TrimRight(fmt.Sprintf("  %s  %s  %s", p.ID, p.Topic, p.Note), " "))
		}
		if more := f.Count - uint64(len(f.First)); more > 0 {
			fmt.Fprintf(&b, "  and %d more\n", more)
		}
	}
	name("out of order", r.Reordered)
	name("ids that name two things", r.Twofold)
	if r.Sent != nil {
		fmt.Fprintf(&b, "sent between the first and the last of them: %d\n", r.Sent.Due)
		for _, why := range slices.Sorted(maps.Keys(r.Sent.Excused)) {
			fmt.Fprintf(&b, "not there, %s: %d\n", why, r.Sent.Excused[why])
		}
		name("missing", r.Sent.Missing)
	}
	_, err := fmt.Fprint(cmd.OutOrStdout(), b.String())
	return err
}
