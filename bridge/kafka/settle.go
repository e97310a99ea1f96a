package kafka

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-iot/weir/gateway"
)

// sent is an event of a round and what became of it.
type sent struct {
	event    *gateway.Event
	record   *kgo.Record
	answered bool
	err      error
}

// partition is where it went. Without an answer the client may still be about to choose it.
func (s *sent) partition() string {
	return s.record.Topic + "/" + strconv.Itoa(int(s.record.Partition))
}

// verdict is what an answer means for the event.
type verdict uint8

const (
	unanswered verdict = iota
	taken
	denied  // poison
	invalid // poison
	refused // its batch is: poison if the event was alone in it
	failed  // this time, or for a reason that is not the event's
)

// verdict reads the answer. perEvent says that the event chose its topic: then a topic that does
// not exist, may not be written to or cannot be is the event's fault, and the others go
// on. Where all events have one topic it is the uplink's state instead: nothing is lost, and
// all goes on when somebody has put it right.
func (s *sent) verdict(perEvent bool) verdict {
	is := func(kinds ...error) bool {
		for _, k := range kinds {
			if errors.Is(s.err, k) {
				return true
			}
		}
		return false
	}
	switch {
	case !s.answered:
		return unanswered
	case s.err == nil:
		return taken
	case is(kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.InvalidTimestamp):
		return refused
	case perEvent && is(kerr.TopicAuthorizationFailed):
		return denied
	case perEvent && is(kerr.UnknownTopicOrPartition, kerr.InvalidTopicException):
		return invalid
	}
	return failed
}

// settle calls done for the events of a round, in order, and keeps those that have to be sent
// again one at a time. Behind an event that is neither taken nor poison, nothing of its
// partition is settled, whatever its own answer; then the error ends the connection.
func (c *connection) settle(round []sent, size int) (lost error) {
	perEvent := c.s.topic.perEvent
	together := map[string]int{} // refused events by partition
	for i := range round {
		if round[i].verdict(perEvent) == refused {
			together[round[i].partition()]++
		}
	}
	broken := map[string]bool{} // partitions, and topics of which a partition is not known
	lose := func(err error) {
		if lost == nil {
			lost = err
		}
	}
	for i := range round {
		s := &round[i]
		v := s.verdict(perEvent)
		if v == unanswered {
			broken[s.record.Topic] = true
			continue
		}
		p := s.partition()
		switch v {
		case taken:
			if broken[p] || broken[s.record.Topic] {
				lose(fmt.Errorf("%s: took an event behind one that it did not take", p))
				continue
			}
			c.done(s.event, nil)
		case denied:
			c.done(s.event, gateway.Errorf(gateway.ErrDenied, "%s: %w", s.record.Topic, s.err))
		case invalid:
			c.done(s.event, gateway.Errorf(gateway.ErrInvalid, "%s: %w", s.record.Topic, s.err))
		case refused:
			if together[p] == 1 {
				c.done(s.event, gateway.Errorf(gateway.ErrInvalid, "%s: %w", p, s.err))
				continue
			}
			broken[p] = true
			c.again = append(c.again, s.event)
			if errors.Is(s.err, kerr.MessageTooLarge) {
				c.s.pace.tooLarge(size)
			}
		case failed:
			broken[p] = true
			lose(fmt.Errorf("%s: %w", p, s.err))
		}
	}
	return lost
}

// pace is how much a round may hold. It begins small and grows as long as answers come
// soon, so that on a slow link a whole round gets through well within AckTimeout.
type pace struct {
	bytes int // now
	most  int
}

func newPace(most int) pace { return pace{bytes: min(64<<10, most), most: most} }

// took tells it that a round of size bytes took d, of at most limit.
func (p *pace) took(size int, d, limit time.Duration) {
	switch {
	case d > limit/4:
		p.slower()
	case d < limit/20 && size >= p.bytes: // a small round says little
		p.bytes = min(2*p.bytes, p.most)
	}
}

// slower has a floor: where an answer takes long whatever is sent, small rounds do not help.
func (p *pace) slower() { p.bytes = min(max(p.bytes/2, 4<<10), p.most) }

// tooLarge tells it that a round of size bytes held a batch that the broker found too large.
func (p *pace) tooLarge(size int) {
	p.most = max(min(p.most, size/2), 1)
	p.bytes = min(p.bytes, p.most)
}
