package bridgetest

import (
	"testing"

	"github.com/weir-iot/weir/firmware-sim/fault"
)

// Proxy is a link to a far end that can be made to fail. Its methods may be called at any time.
type Proxy struct{ *fault.Link }

// NewProxy listens on a free loopback port and forwards to target until the test ends.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	link, err := fault.Listen(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { link.Close() })
	return &Proxy{link}
}

// LoseAnswers discards what comes back from the target, until Heal.
func (p *Proxy) LoseAnswers() { p.Deaf() }

// Refuse resets all connections, new ones too, until Heal.
func (p *Proxy) Refuse() {
	p.Link.Refuse()
	p.Cut()
}

// Heal ends what LoseAnswers, Stall, Refuse and CutAfter began. A connection whose answers were lost is
// reset: it would never fit together again.
func (p *Proxy) Heal() { p.Pass() }
