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

// get decodes the JSON answer at path into v.
func (c *client) get(ctx context.Context, path string, v any) error {
	return c.ask(ctx, http.MethodGet, path, nil, v)
}

// ask sends a request, with body as JSON if it is not nil, and decodes the JSON answer into v.
func (c *client) ask(ctx context.Context, method, path string, body, v any) error {
	resp, err := c.do(ctx, method, path, body, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		return fmt.Errorf("read the gateway's answer: %w", err)
	}
	return nil
}

// printJSON prints v for machines.
func printJSON(cmd *cobra.Command, v any) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
