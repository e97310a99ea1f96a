package devices

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/weir-iot/weir/devices/mqttdev"
	"github.com/weir-iot/weir/gateway"
)

// follower is a driver of a device that publishes to the gateway's own broker. What it reads has been promised
// to the device already, so its readings are made of it once, over kill -9 and power cuts too:
//
//   - a reading names the message that it was made of, in the user property "source";
//   - State holds, for each device, an offset below which everything has its readings, synced. It is behind;
//   - a start reads what readings there are from that offset on, and goes on behind the last.
type follower interface {
	Driver
	// Reads are the filters of what it reads.
	Reads() gateway.Filters
	// Follow says where to begin: at an offset, before which what matches known was read. It is called before Run,
	// if at all: a device that is new begins with what is retained, and with what comes.
	Follow(from uint64, known gateway.Filters)
	// Done is the offset below which everything was handed to emit; 0 before Run.
	Done() uint64
}

// follow is how far the readings of one device are.
type follow struct {
	device    *device
	follower  follower
	gatewayID string
	record    Ingest
	start     uint64 // what lies below was published before the gateway was started

	mu    sync.Mutex
	last  uint64 // offset of the newest message that has readings in the journal
	taken int    // how many
	end   uint64 // offset after the newest of them
}

// sourceProperty is the user property with the id of the message that a reading was made of.
const sourceProperty = "source"

// has is how many readings of the message at offset were taken before, the first ones of them.
func (f *follow) has(offset uint64) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case offset < f.last:
		return math.MaxInt
	case offset > f.last:
		return 0
	}
	return f.taken
}

// took says that one more is taken now.
func (f *follow) took(offset, end uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if offset != f.last {
		f.last, f.taken = offset, 0
	}
	f.taken++
	f.end = max(f.end, end)
}

// retryRefused is how long a reading waits that was refused: the journal is full, most likely.
const retryRefused = time.Second

// take returns when e is in the journal, or when ctx ends, or with why it never can be.
func (f *follow) take(ctx context.Context, e *gateway.Event, source *gateway.Event) error {
	e.UserProperties = append(e.UserProperties, gateway.UserProperty{Key: sourceProperty, Value: source.ID(f.gatewayID)})
	for refused := false; ; refused = true {
		attempt := *e // Ingest keeps what it is given
		written := make(chan error, 1)
		err := f.record(ctx, &attempt, func(err error) {
			if err == nil {
				f.took(source.Offset, attempt.Offset+1)
			}
			written <- err
		})
		if err == nil {
			select {
			case err = <-written:
			case <-ctx.Done():
				select { // or the next Run could take it again
				case err = <-written:
				case <-time.After(lastWord / 2):
					err = ctx.Err()
				}
			}
		}
		switch {
		case err == nil, errors.Is(err, gateway.ErrInvalid), ctx.Err() != nil:
			return err
		case !refused:
			f.device.log.Warn("readings wait", "error", err)
		}
		select {
		case <-time.After(retryRefused):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// follows are those of all devices.
type follows struct {
	all   []*follow
	o     Options
	saved map[string]string // as it is stored, by device
}

// followed is what is stored of a device.
type followed struct {
	At   uint64   `json:"at"`   // what lies below has its readings
	Read []string `json:"read"` // the filters that were read
}

func (f followed) bytes() []byte {
	b, _ := json.Marshal(f) // strings and a number: cannot fail
	return b
}

const (
	followsBucket = "device-sources"
	saveFollows   = 30 * time.Second
)

func newFollows(o Options, devices []*device) follows {
	f := follows{o: o, saved: map[string]string{}}
	for _, d := range devices {
		if d.follow != nil && o.Feed != nil {
			d.follow.start, _ = o.Feed.Next()
			f.all = append(f.all, d.follow)
		}
	}
	return f
}

// begin tells every driver where to begin, from what is stored and from the readings that are in the journal.
func (fs *follows) begin(ctx context.Context) {
	if len(fs.all) == 0 || fs.o.State == nil {
		return
	}
	devices, at := map[string]*follow{}, map[string]followed{}
	for _, f := range fs.all {
		devices[f.device.id] = f
	}
	err := fs.o.State.Each(followsBucket, "", func(id string, value []byte) error {
		var was followed
		if err := json.Unmarshal(value, &was); err != nil || devices[id] == nil {
			return err
		}
		at[id], fs.saved[id] = was, string(value)
		return nil
	})
	end, _ := fs.o.Feed.Next()
	if err == nil {
		err = fs.catchUp(ctx, devices, at, end)
	}
	if err != nil && ctx.Err() == nil {
		fs.o.Logger.Error("how far MQTT devices were read cannot be told; some readings may come twice", "error", err)
	}
	changes := map[string][]byte{}
	for id, f := range devices {
		was, known := at[id], gateway.Filters{}
		if fs.saved[id] == "" { // it is new: what comes from now on is not to be missed, whatever happens
			was.At = end
			changes[id] = was.bytes()
		}
		for _, s := range was.Read {
			if filter, err := gateway.ParseFilter(s); err == nil {
				known = append(known, filter)
			}
		}
		f.follower.Follow(min(max(was.At, f.last), end), known) // the journal may be another one
	}
	if err == nil {
		fs.store(changes)
	}
}

// catchUp reads which readings there are already.
func (fs *follows) catchUp(ctx context.Context, devices map[string]*follow, at map[string]followed, end uint64) error {
	from := end
	var want gateway.Filters // of where readings go
	for id, was := range at {
		from = min(from, was.At)
		want = append(want, devices[id].device.topic.filter())
	}
	from = max(from, 1)
	for r := fs.o.Feed.Reader(from, want, gateway.Written); r.Offset() < end; {
		b, err := r.NextWithin(ctx, 0)
		if err != nil {
			return err
		}
		for _, e := range b.Events {
			f := devices[e.Origin.ID]
			if e.Origin.Via != mqttdev.Via || f == nil {
				continue
			}
			for _, p := range e.UserProperties {
				if source, err := gateway.ParseID(f.gatewayID, p.Value); p.Key == sourceProperty && err == nil {
					f.took(source.Offset, e.Offset+1)
				}
			}
		}
	}
	return nil
}

// run saves now and then how far every device is.
func (fs *follows) run(ctx context.Context) {
	if len(fs.all) == 0 {
		return
	}
	tick := time.NewTicker(saveFollows)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			fs.save()
		case <-ctx.Done():
			return
		}
	}
}

// save stores how far every device is whose readings are on stable storage.
func (fs *follows) save() {
	if fs.o.State == nil {
		return
	}
	changes := map[string][]byte{}
	for _, f := range fs.all {
		at := f.follower.Done()
		f.mu.Lock()
		end := f.end
		f.mu.Unlock()
		if _, synced := fs.o.Feed.Next(); at == 0 || end > synced {
			continue // the next time; a start then has more to look through
		}
		now := followed{At: at}
		for _, filter := range f.follower.Reads() {
			now.Read = append(now.Read, filter.String())
		}
		if b := now.bytes(); string(b) != fs.saved[f.device.id] {
			changes[f.device.id] = b
		}
	}
	fs.store(changes)
}

func (fs *follows) store(changes map[string][]byte) {
	if len(changes) == 0 {
		return
	}
	if err := fs.o.State.Apply(followsBucket, changes); err != nil {
		fs.o.Logger.Warn("how far MQTT devices were read is not stored; the next start looks through more of the journal", "error", err)
		return
	}
	for id, b := range changes {
		fs.saved[id] = string(b)
	}
}

// newBroker returns what MQTT devices need.
func newBroker(o Options) *broker {
	b := &broker{site: o.Site, Broker: mqttdev.Broker{Retained: o.Retained, Own: ownVias(), Commands: gateway.Filters{
		gateway.MustFilter(setTopic(o.Site, "+", "+")), gateway.MustFilter(resultTopic(o.Site, "+", "+")),
	}}}
	if o.Feed != nil {
		b.Reader, b.Next = o.Feed.Reader, o.Feed.Next
	}
	if b.Retained == nil {
		b.Retained = func(gateway.Filters) []*gateway.Event { return nil }
	}
	b.Publish = func(ctx context.Context, e *gateway.Event) error {
		stored := make(chan error, 1)
		if err := o.Ingest(ctx, e, func(err error) { stored <- err }); err != nil {
			return err
		}
		select {
		case err := <-stored:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return b
}
