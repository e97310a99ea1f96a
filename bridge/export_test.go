package bridge

import (
	"log/slog"

	"github.com/weir-iot/weir/gateway/config"
)

// NewOf is New for a pump that a test made.
func NewOf(o Options, p *Pump) (b *Bridge, err error) {
	b = &Bridge{pumps: []*Pump{p}, hub: o.Hub, state: o.State, log: slog.New(slog.DiscardHandler)}
	for _, s := range p.sources {
		b.hold(p, s, config.Retention{})
	}
	b.ledger, err = b.newLedger(o)
	return b, err
}
