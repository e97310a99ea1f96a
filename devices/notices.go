package devices

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// The payloads of a status topic, which are those that Home Assistant expects.
const (
	online  = "online"
	offline = "offline"
)

// notices are the retained messages that stand behind one device. What could not be taken in,
// because the journal was full, is said again later: the last word is always the right one.
type notices struct {
	ingest Ingest

	mu    sync.Mutex // also held while an event is handed over, so that they go in order
	words map[string]*notice
}

type notice struct {
	origin gateway.Origin
	text   string
	told   bool
}

// tellAgain is how often what could not be said is tried again.
const tellAgain = 5 * time.Second

// say says text on topic unless it stands there already.
func (n *notices) say(ctx context.Context, topic string, origin gateway.Origin, text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if w := n.words[topic]; w == nil || w.text != text {
		if n.words == nil {
			n.words = map[string]*notice{}
		}
		n.words[topic] = &notice{origin: origin, text: text}
	}
	n.send(ctx, topic)
}

// again has what stands on topic said once more, with the next tell.
func (n *notices) again(topic string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if w := n.words[topic]; w != nil {
		w.told = false
	}
}

// tell says again what could not be said.
func (n *notices) tell(ctx context.Context) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for topic := range n.words {
		n.send(ctx, topic)
	}
}

// send is for who holds the lock. Nobody waits for a notice, so it costs no sync.
func (n *notices) send(ctx context.Context, topic string) {
	w := n.words[topic]
	if !w.told {
		w.told = n.ingest(ctx, retained(topic, w.origin, w.text), nil) == nil
	}
}

// retained is QoS 1, so that a subscriber with a session does not miss it.
func retained(topic string, origin gateway.Origin, text string) *gateway.Event {
	return &gateway.Event{Topic: topic, Payload: []byte(text), UTF8: true, QoS: 1, Retain: true, Origin: origin}
}

// State keeps small things over restarts. store.State is one.
type State interface {
	// Each calls fn for every key of bucket that begins with prefix.
	Each(bucket, prefix string, fn func(key string, value []byte) error) error
	// Apply makes all changes or none; a nil value deletes.
	Apply(bucket string, changes map[string][]byte) error
}

// noticesBucket holds the topics on which something is retained for a device, and the device's id.
const noticesBucket = "devices"

// tidy takes back what is retained for devices that are gone from the configuration, and remembers
// what the present ones retain.
func (s *Supervisor) tidy(ctx context.Context) {
	if s.state == nil {
		return
	}
	now := map[string]string{}
	if s.discovery != nil {
		now = s.discovery.topics()
	}
	keeps := map[string]bool{} // devices whose readings are retained, on topics that may not be known yet
	for _, d := range s.devices {
		now[d.state.status.Topic] = d.id
		keeps[d.id] = d.common.Retain
	}
	old := map[string]string{}
	err := s.state.Each(noticesBucket, "", func(topic string, device []byte) error {
		old[topic] = string(device)
		return nil
	})
	changes := map[string][]byte{}
	for topic, device := range now {
		if old[topic] != device {
			changes[topic] = []byte(device)
		}
	}
	for _, topic := range slices.Sorted(maps.Keys(old)) {
		if now[topic] != "" || keeps[old[topic]] || err != nil {
			continue
		}
		if err = s.takeBack(ctx, topic, old[topic]); err == nil {
			changes[topic] = nil
		}
	}
	if err == nil && len(changes) > 0 {
		err = s.state.Apply(noticesBucket, changes)
	}
	if err != nil && ctx.Err() == nil {
		s.log.Warn("what is retained for devices that are gone is not tidied up; the next start tries again", "error", err)
	}
}

// takeBack returns when the topic's empty message is on stable storage.
func (s *Supervisor) takeBack(ctx context.Context, topic, device string) error {
	stored := make(chan error, 1)
	if err := s.ingest(ctx, retained(topic, gateway.Origin{Via: gateway.ViaWeir, ID: device}, ""), func(err error) { stored <- err }); err != nil {
		return err
	}
	select {
	case err := <-stored:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// remember says of which device there is something on which topics.
func (s *Supervisor) remember(topics map[string]string) error {
	if s.state == nil {
		return nil
	}
	changes := map[string][]byte{}
	for topic, device := range topics {
		changes[topic] = []byte(device)
	}
	return s.state.Apply(noticesBucket, changes)
}
