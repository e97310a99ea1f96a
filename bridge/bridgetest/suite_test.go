package bridgetest_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func memory() *bridgetest.Memory { return &bridgetest.Memory{GatewayID: bridgetest.GatewayID} }

func TestMemory(t *testing.T) {
	bridgetest.Run(t, func(t *testing.T) *bridgetest.FarEnd { return memory().FarEnd() })
}

// A far end that shows one arrival more at each look, and so a half of what came twice, is not at fault.
func TestLateArrivals(t *testing.T) {
	for _, s := range bridgetest.Scenarios() {
		if s.Name != "the bare contract of Send" {
			continue
		}
		m, seen := memory(), 0
		far := m.FarEnd()
		far.Late, far.Arrivals = true, func() []bridgetest.Arrival {
			seen++
			all := m.Arrivals()
			return all[:min(seen, len(all))]
		}
		if err := s.Check(far); err != nil {
			t.Error(err)
		}
	}
}

// sendFunc changes what a sink does.
type sendFunc func(ctx context.Context, events <-chan *gateway.Event, up func(), done func(*gateway.Event, error)) error

func (f sendFunc) Send(ctx context.Context, events <-chan *gateway.Event, up func(), done func(*gateway.Event, error)) error {
	return f(ctx, events, up, done)
}

// TestSuiteCatches breaks each promise of a sink once. A suite that lets one of them pass is
// worth nothing.
func TestSuiteCatches(t *testing.T) {
	// tampered passes events on through change, which may also call done.
	tampered := func(m bridge.Sink, change func(e *gateway.Event, done func(*gateway.Event, error)) []*gateway.Event) bridge.Sink {
		return sendFunc(func(ctx context.Context, events <-chan *gateway.Event, up func(), done func(*gateway.Event, error)) error {
			ctx, cancel := context.WithCancel(ctx)
			in := make(chan *gateway.Event, 64)
			fed := make(chan struct{})
			go func() {
				defer close(fed)
				defer close(in)
				for {
					select {
					case e, ok := <-events:
						if !ok {
							return
						}
						for _, e := range change(e, done) {
							select {
							case in <- e:
							case <-ctx.Done():
								return
							}
						}
					case <-ctx.Done():
						return
					}
				}
			}()
			err := m.Send(ctx, in, up, done)
			cancel()
			<-fed
			return err
		})
	}
	for _, c := range []struct {
		name  string
		wrong func(m *bridgetest.Memory) bridge.Sink
	}{
		{"accepts before the far end does", func(m *bridgetest.Memory) bridge.Sink {
			return sendFunc(func(ctx context.Context, events <-chan *gateway.Event, up func(), done func(*gateway.Event, error)) error {
				return tampered(m, func(e *gateway.Event, _ func(*gateway.Event, error)) []*gateway.Event {
					done(e, nil)
					return []*gateway.Event{e}
				}).Send(ctx, events, up, func(*gateway.Event, error) {})
			})
		}},
		{"drops the first event of a second connection", func(m *bridgetest.Memory) bridge.Sink {
			conns := 0
			return sendFunc(func(ctx context.Context, events <-chan *gateway.Event, up func(), done func(*gateway.Event, error)) error {
				conns++
				skip := conns > 1
				return tampered(m, func(e *gateway.Event, done func(*gateway.Event, error)) []*gateway.Event {
					if skip {
						skip = false
						done(e, nil)
						return nil
					}
					return []*gateway.Event{e}
				}).Send(ctx, events, up, done)
			})
		}},
		{"gives a repeat another id", func(m *bridgetest.Memory) bridge.Sink {
			m.Seen = func(a bridgetest.Arrival, conn int) *bridgetest.Arrival {
				if conn > 1 {
					a.ID += "-again"
				}
				return &a
			}
			return m
		}},
		{"swaps neighbours", func(m *bridgetest.Memory) bridge.Sink {
			var held []*gateway.Event
			return tampered(m, func(e *gateway.Event, _ func(*gateway.Event, error)) []*gateway.Event {
				if held = append(held, e); len(held) < 10 {
					return nil
				}
				out := append([]*gateway.Event{held[9]}, held[:9]...)
				held = nil
				return out
			})
		}},
		{"answers twice", func(m *bridgetest.Memory) bridge.Sink {
			return sendFunc(func(ctx context.Context, events <-chan *gateway.Event, up func(), done func(*gateway.Event, error)) error {
				return m.Send(ctx, events, up, func(e *gateway.Event, err error) {
					done(e, err)
					done(e, err)
				})
			})
		}},
		{"says it is up when it is not", func(m *bridgetest.Memory) bridge.Sink {
			return sendFunc(func(ctx context.Context, events <-chan *gateway.Event, up func(), done func(*gateway.Event, error)) error {
				up()
				return m.Send(ctx, events, up, done)
			})
		}},
		{"leaves a goroutine behind", func(m *bridgetest.Memory) bridge.Sink {
			return sendFunc(func(ctx context.Context, events <-chan *gateway.Event, up func(), done func(*gateway.Event, error)) error {
				go func() { <-t.Context().Done() }()
				return m.Send(ctx, events, up, done)
			})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, s := range bridgetest.Scenarios() {
				m := memory()
				far := m.FarEnd()
				far.Patience = time.Second
				far.Sink = c.wrong(m)
				if err := s.Check(far); err != nil {
					t.Logf("%s: %v", s.Name, err)
					return
				}
			}
			t.Error("the suite found nothing wrong")
		})
	}
}
