// Package adv turns Bluetooth LE advertisements into named values. It has no radio and no
// clock, so every format is tested on plain bytes:
//
//	HCI event ──ParseEvent──► Report ──Assembler──► Report ──Decoder──► Result
//	                                                            │
//	        keys, the user's tables, counters heard so far ─────┘
//
// Whoever is in radio range decides what these bytes are, so nothing here trusts a length,
// panics, or keeps state that a stranger can make grow: a device's replay counter is kept
// if the user gave it a key, and names and services are remembered for a bounded number of addresses.
//
// A format is one of two things: a Table, which is data, or a function in one of the files
// here. formats.go lists them.
package adv

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// Result is what one format had to say in one advertisement.
type Result struct {
	Format string // such as bthome_v2
	Model  string // as the maker writes it; empty if the format does not tell
	// ID is the same for as long as the device is the same: its address, 12 hexadecimal
	// digits, or what the format carries itself. If the address is Private and the format
	// has nothing of its own, it is as short-lived as the address.
	ID string
	// Counter changes with every measurement or event. The same counter from the same
	// device is the same packet heard again.
	Counter    uint32
	HasCounter bool
	Encrypted  bool
	// Readings are in the order of the packet. The charge of a battery in percent is always
	// called battery. What the device marks as no value is not there, so there may be none.
	Readings []codec.Reading
}

func newResult(p *packet, format, model string) *Result {
	return &Result{Format: format, Model: model, ID: p.Addr.ID()}
}

func (r *Result) count(n uint32) { r.Counter, r.HasCounter = n, true }

// Reading returns the reading of that name.
func (r *Result) Reading(name string) (codec.Reading, bool) {
	i := slices.IndexFunc(r.Readings, func(v codec.Reading) bool { return v.Name == name })
	if i < 0 {
		return codec.Reading{}, false
	}
	return r.Readings[i], true
}

// Why an advertisement of a known format gave nothing. Test with errors.Is.
var (
	// ErrUnknown: no format knows the advertisement.
	ErrUnknown = errors.New("unknown format")
	// ErrMalformed: it is of a format, but breaks its rules.
	ErrMalformed = errors.New("malformed")
	// ErrNoKey: it is encrypted, and there is no key for the device.
	ErrNoKey = errors.New("encrypted, and the device has no key here")
	// ErrKey: it does not open with the device's key, or somebody made it up.
	ErrKey = errors.New("does not open with the device's key")
	// ErrPlain: the device has a key, but this was not encrypted, so anybody may have sent it.
	ErrPlain = errors.New("not encrypted, though the device has a key")
	// ErrReplay: its counter is not above one that was heard before: somebody plays back a
	// recording, or the device lost its counter (see Forget).
	ErrReplay = errors.New("older than what was heard before")
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// decodeFunc returns nil and no error if the packet is not of its format. A result beside an
// error has no readings.
type decodeFunc func(d *Decoder, p *packet) (*Result, error)

// Decoder decodes advertisements of every format. It is for one goroutine.
type Decoder struct {
	keys   map[Addr][]byte
	tables []*table // the user's
	last   map[Addr]*lastHeard
	peers  map[Addr]*peer
}

// lastHeard is the newest packet of a device with a key.
type lastHeard struct {
	counter uint32
	sealed  []byte
}

// peer is what an address says of itself in one kind of PDU and not in the other: many
// devices have their name in the advertisement and their values in the scan response.
type peer struct {
	name  string
	uuids []UUID
}

// maxPeers bounds the addresses that are remembered. At the bound some are forgotten; their next
// advertisement brings them back.
const (
	maxPeers = 1024
	maxUUIDs = 16 // of each
)

// New returns a decoder with the users' keys and tables. A key has 16 bytes, or 12 for
// MiBeacon up to version 3. Tables of the same name are tried in their order, and the first that
// fits decodes. Where a user's table fits, no built-in format is asked. Errors are
// gateway.KeyErrors with keys such as keys.A4:C1:38:00:11:22 and decoders.0.match.
func New(keys map[Addr][]byte, tables []Table) (*Decoder, error) {
	d := &Decoder{keys: map[Addr][]byte{}, last: map[Addr]*lastHeard{}, peers: map[Addr]*peer{}}
	for addr, key := range keys {
		if len(key) != 16 && len(key) != 12 {
			return nil, gateway.BadKey("keys."+addr.String(), "has %d bytes; a key has 16, or 12 for MiBeacon up to version 3", len(key))
		}
		d.keys[addr] = bytes.Clone(key)
	}
	for i, t := range tables {
		c, err := t.compile()
		if err != nil {
			var at *gateway.KeyError
			errors.As(err, &at)
			return nil, &gateway.KeyError{Key: fmt.Sprintf("decoders.%d.%s", i, at.Key), Err: at.Err}
		}
		d.tables = append(d.tables, c)
	}
	return d, nil
}

// Decode returns what the formats have to say about r: mostly one result, but an
// advertisement can carry several. Without any, the error tells why. An advertisement of a
// known device that must not or cannot be read (ErrNoKey, ErrKey, ErrPlain, ErrReplay) is both: a
// result without readings, which is as much as to say that somebody claims to be that device,
// and the error.
func (d *Decoder) Decode(r Report) ([]Result, error) {
	p := parse(r)
	d.remember(&p)
	var results []Result
	var errs []error
	take := func(format string, res *Result, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", format, err))
		}
		if res != nil {
			results = append(results, *res)
		}
	}
	takeTables := func(tables []*table) {
		var done []string
		for _, t := range tables {
			if slices.Contains(done, t.Name) {
				continue
			}
			if res := t.decode(&p); res != nil {
				done = append(done, t.Name)
				take(t.Name, res, nil)
			}
		}
	}
	takeTables(d.tables)
	if len(results)+len(errs) == 0 {
		takeTables(builtInTables)
		for _, f := range formats {
			res, err := f.decode(d, &p)
			take(f.name, res, err)
		}
	}
	if len(results)+len(errs) == 0 {
		for _, f := range fallbacks {
			res, err := f.decode(d, &p)
			take(f.name, res, err)
		}
	}
	if len(results)+len(errs) == 0 {
		return nil, ErrUnknown
	}
	return results, errors.Join(errs...)
}

// Forget lets a device start its counter again, after its battery was changed, say.
func (d *Decoder) Forget(addr Addr) { delete(d.last, addr) }

// remember joins what the device said of itself before with what it says now.
func (d *Decoder) remember(p *packet) {
	if p.AddrKind == Anonymous {
		return
	}
	before := d.peers[p.Addr]
	if p.name == "" && len(p.uuids) == 0 {
		if before != nil {
			p.name, p.uuids = before.name, before.uuids
		}
		return
	}
	if before == nil {
		if len(d.peers) >= maxPeers {
			for addr := range d.peers {
				delete(d.peers, addr)
				break
			}
		}
		before = &peer{}
		d.peers[p.Addr] = before
	}
	if p.name != "" {
		before.name = p.name
	} else {
		p.name = before.name
	}
	if len(p.uuids) > 0 {
		before.uuids = p.uuids[:min(len(p.uuids), maxUUIDs)]
	} else {
		p.uuids = before.uuids
	}
}

// plain is asked before a packet that is not encrypted is believed.
func (d *Decoder) plain(p *packet) error {
	if d.keys[p.Addr] != nil {
		return ErrPlain
	}
	return nil
}

// open decrypts with the key of addr, with AES-CCM and a tag of four bytes.
func (d *Decoder) open(addr Addr, nonce, sealed, additional []byte) ([]byte, error) {
	key := d.keys[addr]
	switch {
	case key == nil:
		return nil, ErrNoKey
	case len(key) != 16:
		return nil, fmt.Errorf("%w: it has %d bytes, and this format has keys of 16", ErrKey, len(key))
	}
	c, err := newCCM(key, 4)
	if err != nil {
		return nil, err
	}
	plain, err := c.open(nonce, sealed, additional)
	if err != nil {
		return nil, ErrKey
	}
	return plain, nil
}

// fresh refuses a packet that was authenticated but is not newer than the last. The very
// packet that came last is let through: devices send each several times.
func (d *Decoder) fresh(addr Addr, counter uint32, sealed []byte) error {
	last := d.last[addr]
	if last != nil && (counter < last.counter || counter == last.counter && !bytes.Equal(sealed, last.sealed)) {
		return fmt.Errorf("%w: counter %d, and %d was heard", ErrReplay, counter, last.counter)
	}
	d.last[addr] = &lastHeard{counter, bytes.Clone(sealed)}
	return nil
}
