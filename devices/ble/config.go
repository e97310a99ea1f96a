package ble

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weir-iot/weir/devices/ble/adv"
	"github.com/weir-iot/weir/devices/codec"
	"github.com/weir-iot/weir/gateway"
)

// DefaultAdapter is that of devices which name none.
const DefaultAdapter = "hci0"

// AdapterIndex is the number in the name of an adapter, hci<number>.
func AdapterIndex(name string) (int, error) {
	var n int
	if _, err := fmt.Sscanf(name, "hci%d", &n); err != nil || n < 0 || n > 255 || fmt.Sprintf("hci%d", n) != name {
		return 0, gateway.Errorf(gateway.ErrInvalid, "%q is no adapter, such as hci0", name)
	}
	return n, nil
}

// Config is the driver's part of a device's section.
type Config struct {
	Adapter  string        // default hci0
	Address  string        // of the device; or
	ID       string        `yaml:"id"` // what its format carries, for devices whose address changes
	Decoder  string        // a format; default auto, all of them
	Key      string        // 32 hexadecimal digits, or 24 for old MiBeacons; then only what is encrypted is believed
	Presence time.Duration // heard nothing for so long: presence is false. 0: there is no such measurement
	Dedup    time.Duration // a value that did not change is told again after that; default 30 s, and half of expire_after at most
	Signal   bool          // the strength of the signal is a measurement, rssi
	GATT     *GATTConfig
}

const (
	auto          = "auto"
	defaultDedup  = 30 * time.Second
	leastPresence = time.Second
	maxID         = 128
)

// Driver hears one device.
type Driver struct {
	codec.Taps // of what it advertises
	air        *Air
	addr       adv.Addr
	named      bool   // by addr, else by id
	id         string // as in adv.Result.ID
	format     string
	keyed      bool
	presence   time.Duration
	dedup      time.Duration
	signal     bool
	gatt       *gatt // nil if nothing is read
}

// New returns a driver for the device that cfg describes, heard in a. Expire is the device's expire_after, or 0. Errors are
// gateway.KeyErrors. All drivers of an air are made before any runs.
func New(cfg Config, a *Air, expire time.Duration) (*Driver, error) {
	d := &Driver{air: a, format: cfg.Decoder, presence: cfg.Presence, dedup: cfg.Dedup, signal: cfg.Signal}
	var err error
	switch {
	case cfg.Address == "" && cfg.ID == "":
		return nil, gateway.BadKey("address", "missing; a device has an address, or an id if its address changes")
	case cfg.Address != "" && cfg.ID != "":
		return nil, gateway.BadKey("id", "there is an address already")
	case cfg.Address != "":
		if d.addr, err = adv.ParseAddr(cfg.Address); err != nil {
			return nil, gateway.BadKey("address", "%v", err)
		}
		d.named, d.id = true, d.addr.ID()
	default:
		if len(cfg.ID) > maxID {
			return nil, gateway.BadKey("id", "has %d bytes; the most are %d", len(cfg.ID), maxID)
		}
		d.id = strings.ToLower(cfg.ID)
	}
	if a.ids[d.id] {
		return nil, gateway.BadKey("address", "there are two devices %s", d.id)
	}
	if d.format == auto {
		d.format = ""
	}
	if known := adv.Formats(a.tables); d.format != "" && !slices.ContainsFunc(known, func(f string) bool { return f == d.format || strings.HasPrefix(d.format, f+"_") }) {
		return nil, gateway.BadKey("decoder", "there is no format %q; such are %s", d.format, strings.Join(known, ", "))
	}
	switch {
	case cfg.Presence < 0 || cfg.Presence > 0 && cfg.Presence < leastPresence:
		return nil, gateway.BadKey("presence", "%v is less than %v", cfg.Presence, leastPresence)
	case cfg.Presence > 0 && expire > 0:
		return nil, gateway.BadKey("presence", "a device with expire_after has none: the one says it is offline when it is silent, the other that it is away")
	case cfg.Dedup < 0:
		return nil, gateway.BadKey("dedup", "%v is less than 0", cfg.Dedup)
	case cfg.Dedup == 0:
		d.dedup = defaultDedup
	}
	if expire > 0 {
		d.dedup = min(d.dedup, expire/2)
	}
	if cfg.Key != "" {
		if !d.named {
			return nil, gateway.BadKey("key", "a key is for an address")
		}
		key, err := hex.DecodeString(cfg.Key)
		if err != nil || len(key) != 16 && len(key) != 12 {
			return nil, gateway.BadKey("key", "is not 32 hexadecimal digits, nor 24 for MiBeacon up to version 3") // never shown
		}
		a.keys[d.addr], d.keyed = key, true
	}
	if cfg.GATT != nil {
		if !d.named {
			return nil, gateway.BadKey("gatt", "only a device with an address is connected to")
		}
		if d.gatt, err = newGATT(*cfg.GATT); err != nil {
			return nil, err
		}
	}
	a.ids[d.id] = true
	return d, nil
}

// Names are the measurements that are known before the device has said anything.
func (d *Driver) Names() (names []string) {
	if d.presence > 0 {
		names = append(names, measurePresence)
	}
	if d.signal {
		names = append(names, measureSignal)
	}
	return names
}
