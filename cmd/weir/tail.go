package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/gateway"
)

// reconnectAfter is how long tail waits before it asks a gateway that went away again.
const reconnectAfter = time.Second

func tailCommand(o *options) *cobra.Command {
	var asJSON bool
	var rewind, count int
	cmd := &cobra.Command{
		Use:   "tail FILTER…",
		Short: "Print events as they arrive",
		Long: `Print events whose topics match one of the filters, as they arrive. When the gateway
restarts, tail goes on where it was: nothing is missed and nothing printed twice. What
cannot be had any more is said on standard error.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: `  weir tail '#'
  weir tail 'plant1/+/temperature' --last 10
  weir tail --json 'plant1/#' | jq .payload`,
		Args: args(1, -1, "at least one topic filter"),
		RunE: func(cmd *cobra.Command, filters []string) error {
			if _, err := gateway.ParseFilters(filters...); err != nil {
				return &exitError{exitUsage, err}
			}
			c, err := newClient(o)
			if err != nil {
				return err
			}
			t := &tail{client: c, filters: filters, rewind: rewind, left: count, out: cmd.OutOrStdout(), errOut: cmd.ErrOrStderr(), json: asJSON}
			return t.follow(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line, the shape of the HTTP API")
	cmd.Flags().IntVarP(&rewind, "last", "n", 0, "begin with the last `N` events that match")
	cmd.Flags().IntVar(&count, "count", 0, "stop after `N` events")
	return cmd
}

type tail struct {
	client      *client
	filters     []string
	rewind      int
	left        int // events still to print; 0 is no limit
	json        bool
	out, errOut io.Writer

	position string // the last id seen
}

var errEnough = errors.New("printed as many as were asked for")

// follow reads the stream, and reads on where it was when the gateway comes back.
func (t *tail) follow(ctx context.Context) error {
	for first := true; ; first = false {
		err := t.stream(ctx)
		var exit *exitError
		switch {
		case errors.Is(err, errEnough), ctx.Err() != nil:
			return nil
		case first && err != nil:
			return err
		case err != nil && !errors.As(err, &exit): // it answered, and said no
			return err
		}
		select {
		case <-time.After(reconnectAfter):
		case <-ctx.Done():
			return nil
		}
	}
}

// stream reads one answer of /events to its end.
func (t *tail) stream(ctx context.Context) error {
	q := url.Values{"topic": t.filters}
	header := http.Header{}
	if t.position != "" {
		header.Set("Last-Event-ID", t.position)
	} else if t.rewind > 0 {
		q.Set("rewind", strconv.Itoa(t.rewind))
	}
	resp, err := t.client.do(ctx, http.MethodGet, "/events?"+q.Encode(), nil, header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()

	var id, name string
	var data []string
	lines := bufio.NewReader(resp.Body)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return nil // the gateway went away; follow asks again
		}
		line = strings.TrimRight(line, "\r\n")
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			if id != "" {
				t.position = id
			}
			if len(data) > 0 {
				if err := t.print(name, strings.Join(data, "\n")); err != nil {
					return err
				}
			}
			name, data = "", nil
		case field == "id":
			id = value
		case field == "event":
			name = value
		case field == "data":
			data = append(data, value)
		}
	}
}

func (t *tail) print(name, data string) error {
	switch name {
	case "", "message":
	case "gap":
		_, err := fmt.Fprintln(t.errOut, "weir: gap:", data)
		return err
	default:
		return nil
	}
	if t.json {
		if _, err := fmt.Fprintln(t.out, data); err != nil {
			return err
		}
	} else if err := printFace(t.out, data); err != nil {
		return err
	}
	if t.left > 0 {
		if t.left--; t.left == 0 {
			return errEnough
		}
	}
	return nil
}

// printFace writes an event for people: local time, topic, payload.
func printFace(out io.Writer, data string) error {
	var f gateway.Face
	if err := json.Unmarshal([]byte(data), &f); err != nil {
		return fmt.Errorf("read event: %w", err)
	}
	payload := "(binary) "
	switch {
	case f.Base64 != nil:
		payload += *f.Base64
	case f.Text != nil:
		payload = *f.Text
		if strings.ContainsFunc(payload, func(r rune) bool { return r < ' ' }) { // control characters move cursors
			payload = strconv.Quote(payload)
		}
	default:
		payload = string(f.Payload)
	}
	_, err := fmt.Fprintf(out, "%s  %s  %s\n", f.Time.Local().Format("15:04:05.000"), f.Topic, payload)
	return err
}
