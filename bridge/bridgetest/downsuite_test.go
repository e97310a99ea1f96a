package bridgetest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
)

func TestMemorySource(t *testing.T) {
	bridgetest.RunSource(t, func(t *testing.T) *bridgetest.FarSource { return new(bridgetest.MemorySource).FarSource() })
}

type receiveFunc func(ctx context.Context, up func(), take func(*gateway.Event, string, func(error))) error

func (f receiveFunc) Receive(ctx context.Context, up func(), take func(*gateway.Event, string, func(error))) error {
	return f(ctx, up, take)
}

// TestSourceSuiteCatches breaks each promise of a source once.
func TestSourceSuiteCatches(t *testing.T) {
	type taker = func(*gateway.Event, string, func(error))
	// tampered hands on what change makes of a message.
	tampered := func(m bridge.Source, change func(take taker) taker) bridge.Source {
		return receiveFunc(func(ctx context.Context, up func(), take func(*gateway.Event, string, func(error))) error {
			return m.Receive(ctx, up, change(take))
		})
	}
	for _, c := range []struct {
		name  string
		wrong func(m *bridgetest.MemorySource) bridge.Source
	}{
		{"acknowledges before it is stored", func(m *bridgetest.MemorySource) bridge.Source {
			return tampered(m, func(take taker) taker {
				return func(e *gateway.Event, id string, done func(error)) {
					take(e, id, func(error) {})
					done(nil)
				}
			})
		}},
		{"acknowledges what could not be stored", func(m *bridgetest.MemorySource) bridge.Source {
			return tampered(m, func(take taker) taker {
				return func(e *gateway.Event, id string, done func(error)) {
					take(e, id, func(err error) {
						if err != nil {
							err = gateway.Errorf(gateway.ErrInvalid, "never")
						}
						done(err)
					})
				}
			})
		}},
		{"asks again for what is denied", func(m *bridgetest.MemorySource) bridge.Source {
			return tampered(m, func(take taker) taker {
				return func(e *gateway.Event, id string, done func(error)) {
					take(e, id, func(err error) {
						if err != nil {
							err = errors.New("later")
						}
						done(err)
					})
				}
			})
		}},
		{"gives a repeat another id", func(m *bridgetest.MemorySource) bridge.Source {
			n := 0
			return tampered(m, func(take taker) taker {
				n++
				return func(e *gateway.Event, id string, done func(error)) { take(e, id+string(rune('a'+n)), done) }
			})
		}},
		{"never has an end", func(m *bridgetest.MemorySource) bridge.Source {
			return receiveFunc(func(ctx context.Context, up func(), take func(*gateway.Event, string, func(error))) error {
				err := m.Receive(ctx, up, take)
				<-time.After(4 * time.Second)
				return err
			})
		}},
		{"leaves a goroutine behind", func(m *bridgetest.MemorySource) bridge.Source {
			return receiveFunc(func(ctx context.Context, up func(), take func(*gateway.Event, string, func(error))) error {
				go func() { <-t.Context().Done() }()
				return m.Receive(ctx, up, take)
			})
		}},
		{"is up twice", func(m *bridgetest.MemorySource) bridge.Source {
			return receiveFunc(func(ctx context.Context, up func(), take func(*gateway.Event, string, func(error))) error {
				up()
				return m.Receive(ctx, up, take)
			})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, s := range bridgetest.SourceScenarios() {
				m := new(bridgetest.MemorySource)
				far := m.FarSource()
				if !s.Possible(far) {
					continue
				}
				far.Patience = time.Second
				far.Source = c.wrong(m)
				if err := s.Check(far); err != nil {
					t.Logf("%s: %v", s.Name, err)
					return
				}
			}
			t.Error("the suite found nothing wrong")
		})
	}
}
