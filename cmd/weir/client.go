package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"

	"github.com/spf13/cobra"
)

// socketName is the unix socket in the data directory on which a running gateway
// answers its own commands.
const socketName = "weir.sock"

// client speaks HTTP to the running gateway over its unix socket. Whoever may open the
// socket, the gateway's own user and root, may do everything.
type client struct {
	gateway string // its id
	socket  string
	http    http.Client
}

func newClient(o *options) (*client, error) {
	cfg, err := o.load()
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(cfg.Gateway.DataDir, socketName)
	return &client{gateway: cfg.Gateway.ID, socket: socket, http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}, nil
}

// do sends a request and returns the answer if it is a 2xx. Other answers become errors
// with what the gateway said.
func (c *client) do(ctx context.Context, method, path string, body any, header http.Header) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://weir"+path, content)
	if err != nil {
		return nil, err
	}
	if header != nil {
		req.Header = header
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, exitf(exitUnreachable, "no gateway answers at %s: is it running? (weir run): %w", c.socket, err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	var problem struct{ Title, Detail string }
	_ = json.NewDecoder(io.LimitReader(resp.Body, 1<<16)).Decode(&problem)
	if problem.Detail == "" {
		problem.Detail = problem.Title
	}
	if problem.Detail == "" {
		problem.Detail = resp.Status
	}
	return nil, fmt.Errorf("the gateway says: %s", problem.Detail)
}

// ask sends a request, with body as JSON if it is not nil, and returns what the JSON answer says.
func ask[T any](ctx context.Context, c *client, method, path string, body any) (answer T, err error) {
	resp, err := c.do(ctx, method, path, body, nil)
	if err != nil {
		return answer, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return answer, fmt.Errorf("read the gateway's answer: %w", err)
	}
	return answer, nil
}

// question is a command that asks the running gateway, and prints the answer for people, or with --json
// for machines.
type question[T any] struct {
	ask   func(c *client, cmd *cobra.Command, given []string) (T, error)
	show  func(out io.Writer, answer T) error
	judge func(T) error // of what is printed; nil: every answer is a success
}

// command is cmd with the flag and what it runs.
func (q question[T]) command(o *options, cmd *cobra.Command) *cobra.Command {
	var asJSON bool
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		c, err := newClient(o)
		if err != nil {
			return err
		}
		answer, err := q.ask(c, cmd, given)
		if err != nil {
			return err
		}
		if asJSON {
			err = printJSON(cmd, answer)
		} else {
			err = q.show(cmd.OutOrStdout(), answer)
		}
		if err == nil && q.judge != nil {
			err = q.judge(answer)
		}
		return err
	}
	return cmd
}

// at asks for what is at path.
func at[T any](path string) func(*client, *cobra.Command, []string) (T, error) {
	return func(c *client, cmd *cobra.Command, _ []string) (T, error) {
		return ask[T](cmd.Context(), c, http.MethodGet, path, nil)
	}
}

// printJSON prints v for machines.
func printJSON(cmd *cobra.Command, v any) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
