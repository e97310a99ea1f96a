package chaos

import (
	"sync"
	"time"

	"github.com/weir-iot/weir/firmware-sim/sim"
	"github.com/weir-iot/weir/firmware-sim/sim/mqttclient"
)

// arrival is an event that came to the far end.
type arrival struct {
	sim.Received
	at time.Time
}

// record is what the far end writes down, in order.
type record struct {
	mu       sync.Mutex
	arrivals []arrival
	wrong    []string // what should never arrive like that
}

const maxWrong = 50

func newRecord() *record { return &record{} }

// take writes an arrival down. One without an id is kept: the check finds it.
func (r *record) take(m *mqttclient.Message) {
	id, _ := m.Property("weir-id")
	got, err := sim.ParseReceived(m.Topic, m.Payload, id)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		if len(r.wrong) < maxWrong {
			r.wrong = append(r.wrong, err.Error())
		}
		return
	}
	r.arrivals = append(r.arrivals, arrival{got, time.Now()})
}

func (r *record) all() ([]arrival, []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.arrivals[:len(r.arrivals):len(r.arrivals)], r.wrong[:len(r.wrong):len(r.wrong)]
}
