package link

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/go-ble/ble"
	"github.com/go-ble/ble/linux/att"
)

// What a characteristic can do (Core Specification Vol 3 Part G §3.3.1.1).
const (
	CanRead         = byte(ble.CharRead)
	CanWriteCommand = byte(ble.CharWriteNR)
	CanWrite        = byte(ble.CharWrite)
	CanNotify       = byte(ble.CharNotify)
	CanIndicate     = byte(ble.CharIndicate)
)

// Bounds of a device's attributes.
const (
	maxCharacteristics = 256
	maxValue           = 512 // bytes (Vol 3 Part F §3.2.9)
	mtu                = 247 // what is asked for: more does not fit into one packet of the link layer
)

// Characteristic is one value of a device.
type Characteristic struct {
	Service, UUID [16]byte // in the order they are written in
	Properties    byte
	Handle        uint16 // of the value
	Last          uint16 // handle of what belongs to it
}

// noHandler is for a client whose notifications do not come through it; see bearer.
type noHandler struct{}

func (noHandler) HandleNotification([]byte) {}

// call runs do, which speaks to the device, until ctx ends. There is one at a time. A request that was given up can be answered
// any time, and the protocol has no way to tell, so then the connection is given up, too (Vol 3 Part F §3.3.3).
func call[T any](ctx context.Context, p *Peer, do func(*att.Client) (T, error)) (none T, err error) {
	select {
	case p.busy <- struct{}{}:
	case <-ctx.Done():
		return none, ctx.Err()
	case <-p.gone:
		return none, p.Err()
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := do(p.client)
		done <- result{value, err}
		<-p.busy
	}()
	select {
	case r := <-done:
		if gone := p.Err(); gone != nil && r.err != nil {
			return none, gone
		}
		return r.value, attWords(r.err)
	case <-p.gone:
		return none, p.Err()
	case <-ctx.Done():
		p.lost(fmt.Errorf("an answer did not come in time: %w", ctx.Err()))
		go p.h.hangUp(p.handle)
		return none, ctx.Err()
	}
}

// Error is what a device answers instead (Vol 3 Part F §3.4.1.1).
type Error byte

func (e Error) Error() string {
	if text, ok := map[Error]string{
		0x02: "it cannot be read", 0x03: "it cannot be written", 0x05: "the device wants to be paired first, which Weir does not do",
		0x08: "the device wants to be paired first, which Weir does not do", 0x0f: "the device wants to be paired first, which Weir does not do",
		attInvalidPDU: "the answer makes no sense", attNotSupported: "the device does not know the request", 0x0d: "the value has a wrong length",
		0x11: "the device has no room for it",
	}[e]; ok {
		return text
	}
	return fmt.Sprintf("the device answers with error %#02x", byte(e))
}

func attWords(err error) error {
	var refused ble.ATTError
	if errors.As(err, &refused) {
		return Error(refused)
	}
	return err
}

// Discover lists what the device has.
func (p *Peer) Discover(ctx context.Context) ([]Characteristic, error) {
	list, err := call(ctx, p, discover)
	if err != nil {
		return nil, fmt.Errorf("list what the device has: %w", err)
	}
	return list, nil
}

// discover trusts the handles to grow: see answers.
func discover(c *att.Client) (list []Characteristic, err error) {
	u16 := binary.LittleEndian.Uint16
	for start := uint16(1); start != 0; {
		size, services, err := c.ReadByGroupType(start, 0xffff, ble.PrimaryServiceUUID)
		if err == ble.ErrAttrNotFound {
			break
		}
		if err != nil {
			return nil, err
		}
		for ; len(services) > 0; services = services[size:] {
			first, last := u16(services), u16(services[2:])
			if list, err = characteristics(c, list, onAir(services[4:size]), first, last); err != nil {
				return nil, err
			}
			start = last + 1
		}
	}
	return list, nil
}

func characteristics(c *att.Client, list []Characteristic, service [16]byte, first, last uint16) ([]Characteristic, error) {
	u16 := binary.LittleEndian.Uint16
	own := len(list)
	for start := first; start >= first && start <= last; {
		size, found, err := c.ReadByType(start, last, ble.CharacteristicUUID)
		if err == ble.ErrAttrNotFound {
			break
		}
		if err != nil {
			return nil, err
		}
		for ; len(found) > 0; found = found[size:] {
			if len(list) == maxCharacteristics {
				return nil, fmt.Errorf("it has more than %d values", maxCharacteristics)
			}
			if len(list) > own {
				list[len(list)-1].Last = u16(found) - 1
			}
			list = append(list, Characteristic{
				Service: service, UUID: onAir(found[5:size]), Properties: found[2], Handle: u16(found[3:]), Last: last,
			})
			start = u16(found[3:]) + 1
		}
	}
	return list, nil
}

// onAir reads a UUID of 2 or 16 bytes, least significant first.
func onAir(b []byte) [16]byte {
	u := [16]byte{4: 0, 6: 0x10, 8: 0x80, 11: 0x80, 12: 0x5f, 13: 0x9b, 14: 0x34, 15: 0xfb} // Vol 3 Part B §2.5.1
	if len(b) == 2 {
		u[2], u[3] = b[1], b[0]
		return u
	}
	for i := range u {
		u[i] = b[15-i]
	}
	return u
}

// Read reads a value, of any length.
func (p *Peer) Read(ctx context.Context, handle uint16) ([]byte, error) {
	return call(ctx, p, func(c *att.Client) ([]byte, error) {
		value, err := c.Read(handle)
		for part := value; err == nil && len(part) == p.att.TxMTU()-1 && len(value) < maxValue; {
			part, err = c.ReadBlob(handle, uint16(len(value)))
			if errors.As(err, new(ble.ATTError)) {
				return value, nil // it was as long as a packet, and no longer
			}
			value = append(value, part...)
		}
		return value, err
	})
}

// Write writes a value and waits for the device to say that it has it; as a command, it waits for nothing.
func (p *Peer) Write(ctx context.Context, handle uint16, value []byte, command bool) error {
	if len(value) > p.att.TxMTU()-3 {
		return fmt.Errorf("%d bytes are too long; this device takes %d", len(value), p.att.TxMTU()-3)
	}
	_, err := call(ctx, p, func(c *att.Client) (struct{}, error) {
		if command {
			return struct{}{}, c.WriteCommand(handle, value)
		}
		return struct{}{}, c.Write(handle, value)
	})
	return err
}

// Subscribe has the device tell the value whenever it changes. Values go to the function given to Notify.
func (p *Peer) Subscribe(ctx context.Context, ch Characteristic) error {
	flags := []byte{1, 0} // notify
	switch {
	case ch.Properties&CanNotify != 0:
	case ch.Properties&CanIndicate != 0:
		flags = []byte{2, 0}
	default:
		return errors.New("the device does not tell when it changes")
	}
	_, err := call(ctx, p, func(c *att.Client) (none struct{}, err error) {
		for start := ch.Handle + 1; start > ch.Handle && start <= ch.Last; {
			format, found, err := c.FindInformation(start, ch.Last)
			if err == ble.ErrAttrNotFound {
				break
			}
			if err != nil {
				return none, err
			}
			size := map[int]int{1: 4, 2: 18}[format]
			for ; len(found) > 0; found = found[size:] {
				handle := binary.LittleEndian.Uint16(found)
				if onAir(found[2:size]) == onAir(ble.ClientCharacteristicConfigUUID) {
					return none, c.Write(handle, flags)
				}
				start = handle + 1
			}
		}
		return none, errors.New("the device has no switch for it (a client characteristic configuration)")
	})
	return err
}

// Notify has f called with each value that the device tells, in order. It must not block.
func (p *Peer) Notify(f func(handle uint16, value []byte)) {
	p.att.mu.Lock()
	defer p.att.mu.Unlock()
	p.att.notify = f
}
