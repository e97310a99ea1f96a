package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// account is what the gateway says of itself at /api/ledger.
type account struct {
	Accepted    uint64 `json:"accepted"`
	Unrouted    uint64 `json:"unrouted"`
	Unaccounted int64  `json:"unaccounted"`
	Routes      []struct {
		Delivered uint64            `json:"delivered"`
		Queued    uint64            `json:"queued"`
		Expired   uint64            `json:"expired"`
		Dropped   map[string]uint64 `json:"dropped"`
		Dead      uint64            `json:"dead"`
	} `json:"routes"`
}

func (a account) queued() (n uint64) {
	for _, r := range a.Routes {
		n += r.Queued
	}
	return n
}

// gone is what the gateway says will never arrive, with the reason.
func (a account) gone() map[string]uint64 {
	all := map[string]uint64{}
	for _, r := range a.Routes {
		for reason, n := range r.Dropped {
			all[reason] += n
		}
		if r.Expired > 0 {
			all["expired"] += r.Expired
		}
		if r.Dead > 0 {
			all["dead"] += r.Dead
		}
	}
	return all
}

// watch asks the gateway for its ledger again and again: unaccounted has to read 0 at any time.
type watch struct {
	url    string
	client http.Client
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu         sync.Mutex
	polls      int
	offBalance []string
	backlog    uint64 // most that waited in the reservoir
	last       account
}

func startWatch(url string) *watch {
	w := &watch{url: url, client: http.Client{Timeout: 10 * time.Second}}
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	w.work.Go(func() {
		for ctx.Err() == nil {
			w.ask(ctx)
			w.askBacklog(ctx)
			select {
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	return w
}

// stop returns what was seen.
func (w *watch) stop() (last account, polls int, offBalance []string, backlog uint64) {
	w.cancel()
	w.work.Wait()
	w.client.CloseIdleConnections()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last, w.polls, w.offBalance, w.backlog
}

// errAnswer is an answer that is none.
var errAnswer = errors.New("the gateway answers wrongly")

// ask fails while the gateway is away, and that is not held against it.
func (w *watch) ask(ctx context.Context) (account, error) {
	var a account
	text, err := w.get(ctx, "/api/ledger", &a)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case errors.Is(err, errAnswer):
		w.unbalanced(err.Error())
	case err == nil:
		w.polls++
		w.last = a
		if a.Unaccounted != 0 {
			w.unbalanced(fmt.Sprintf("unaccounted %d: %s", a.Unaccounted, text))
		}
	}
	return a, err
}

func (w *watch) unbalanced(what string) {
	if len(w.offBalance) < maxWrong {
		w.offBalance = append(w.offBalance, time.Now().Format("15:04:05.000 ")+what)
	}
}

func (w *watch) askBacklog(ctx context.Context) {
	var uplinks []struct {
		Routes []struct {
			Backlog uint64 `json:"backlog"`
		} `json:"routes"`
	}
	if _, err := w.get(ctx, "/api/uplinks", &uplinks); err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range uplinks {
		for _, r := range u.Routes {
			w.backlog = max(w.backlog, r.Backlog)
		}
	}
}

// spilled tells whether anything was seen in the reservoir.
func (w *watch) spilled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.backlog > 0
}

func (w *watch) get(ctx context.Context, path string, v any) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode == http.StatusServiceUnavailable { // it says that it cannot tell now
		return "", fmt.Errorf("GET %s: %s: %.300s", path, resp.Status, body)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%w: GET %s: %s: %.300s", errAnswer, path, resp.Status, body)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return "", fmt.Errorf("%w: GET %s: %w", errAnswer, path, err)
	}
	return string(body), nil
}
