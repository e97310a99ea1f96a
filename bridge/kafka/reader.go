package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Reader reads a topic from its beginning, all partitions beside each other. It has no consumer group and
// commits nothing; it is for checking a far end, see package bridge/verify.
type Reader struct {
	s     *Sink
	topic string
}

// NewReader returns a Reader. Of c it needs the brokers, the account and how they are reached. It opens
// nothing. A wrong value is a gateway.KeyError.
func NewReader(c Config, topic string) (*Reader, error) {
	t, err := parseTemplate(topic)
	if err == nil && t.perEvent {
		err = errors.New("give one topic, not a template")
	}
	if err != nil {
		return nil, fmt.Errorf("topic %q: %w", topic, err)
	}
	s, err := New(c, "verify", "", nil)
	return &Reader{s, topic}, err
}

// The ListOffsets request has these for where a partition begins, and ends.
const (
	beginning = -2
	end       = -1
)

// Read calls got for each record, and ready when it has read what there was when it began. within is
// what the far end keeps order within: a key in a partition. It ends with ctx, and then returns nil, or when
// the cluster does not answer.
func (r *Reader) Read(ctx context.Context, ready func(), got func(within, topic, id string, payload []byte)) error {
	life, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	client, err := kgo.NewClient(append(r.s.options,
		kgo.WithContext(life), kgo.FetchMaxWait(500*time.Millisecond), kgo.FetchMaxBytes(8<<20), kgo.FetchMaxPartitionBytes(1<<20),
		kgo.KeepControlRecords(), // a transaction's last record is one, and no end is reached without it
	)...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer client.Close()
	c := &connection{s: r.s, client: client, life: life, end: stop}
	r.s.dialed.Store(nil)
	err = r.read(c, ready, got)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (r *Reader) read(c *connection, ready func(), got func(within, topic, id string, payload []byte)) error {
	var first, last map[int32]int64
	err := c.within(r.s.dialer.Timeout(), "no answer", func() (err error) {
		if first, err = r.offsets(c, beginning); err == nil {
			last, err = r.offsets(c, end)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("topic %s: %w", r.topic, err)
	}
	from := map[int32]kgo.Offset{}
	for p, at := range first {
		from[p] = kgo.NewOffset().At(at)
		if at >= last[p] { // there is nothing
			delete(last, p)
		}
	}
	c.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{r.topic: from})
	for there := false; ; {
		if !there && len(last) == 0 {
			there = true
			ready()
		}
		n, err := r.poll(c, last, got)
		switch {
		case err != nil:
			return err
		case n > 0:
		case !there:
			return fmt.Errorf("topic %s: nothing for %v, and %d partitions are not at their end", r.topic, r.s.c.AckTimeout, len(last))
		default:
			if err := c.within(r.s.c.AckTimeout, "no answer to a ping", c.ping); err != nil {
				return err
			}
		}
	}
}

// poll waits for records, AckTimeout at most, and takes those partitions out of last that are at their end.
func (r *Reader) poll(c *connection, last map[int32]int64, got func(within, topic, id string, payload []byte)) (n int, err error) {
	wait, cancel := context.WithTimeout(c.life, r.s.c.AckTimeout)
	defer cancel()
	fetches := c.client.PollFetches(wait)
	if err := context.Cause(c.life); err != nil {
		return 0, err
	}
	fetches.EachError(func(_ string, partition int32, e error) {
		if err == nil && !errors.Is(e, context.DeadlineExceeded) {
			err = fmt.Errorf("topic %s, partition %d: %w", r.topic, partition, e)
		}
	})
	fetches.EachRecord(func(rec *kgo.Record) {
		n++
		if rec.Offset+1 >= last[rec.Partition] {
			delete(last, rec.Partition)
		}
		if rec.Attrs.IsControl() {
			return
		}
		topic, id := r.topic, ""
		for _, h := range rec.Headers {
			switch h.Key {
			case headerID:
				id = string(h.Value)
			case headerTopic:
				topic = string(h.Value)
			}
		}
		got(strconv.Itoa(int(rec.Partition))+" "+string(rec.Key), topic, id, rec.Value)
	})
	return n, err
}

// offsets returns where each partition begins or ends.
func (r *Reader) offsets(c *connection, at int64) (map[int32]int64, error) {
	meta := kmsg.NewPtrMetadataRequest()
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = &r.topic
	meta.Topics = append(meta.Topics, topic)
	found, err := meta.RequestWith(c.life, c.client)
	if err == nil {
		err = kerr.ErrorForCode(found.Topics[0].ErrorCode)
	}
	if err != nil {
		return nil, err
	}
	ask := kmsg.NewListOffsetsRequestTopic()
	ask.Topic = r.topic
	for _, p := range found.Topics[0].Partitions {
		partition := kmsg.NewListOffsetsRequestTopicPartition()
		partition.Partition, partition.Timestamp = p.Partition, at
		ask.Partitions = append(ask.Partitions, partition)
	}
	list := kmsg.NewPtrListOffsetsRequest()
	list.Topics = append(list.Topics, ask)
	answer, err := list.RequestWith(c.life, c.client)
	if err != nil {
		return nil, err
	}
	offsets := map[int32]int64{}
	for _, t := range answer.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return nil, fmt.Errorf("partition %d: %w", p.Partition, err)
			}
			offsets[p.Partition] = p.Offset
		}
	}
	return offsets, nil
}
