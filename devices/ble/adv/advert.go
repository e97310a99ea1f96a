package adv

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Addr is a device address, most significant byte first, as it is printed on the device.
type Addr [6]byte

// ParseAddr reads an address of 12 hexadecimal digits, with or without ":" or "-" between the bytes.
func ParseAddr(s string) (Addr, error) {
	var a Addr
	digits := s
	if len(s) == 17 {
		sep := s[2:3]
		if sep != ":" && sep != "-" {
			return a, fmt.Errorf("%q is no device address, such as A4:C1:38:00:11:22", s)
		}
		digits = strings.Join(strings.SplitN(s, sep, 6), "")
	}
	if len(digits) != 12 {
		return a, fmt.Errorf("%q is no device address, such as A4:C1:38:00:11:22", s)
	}
	if _, err := hex.Decode(a[:], []byte(digits)); err != nil {
		return a, fmt.Errorf("%q is no device address, such as A4:C1:38:00:11:22", s)
	}
	return a, nil
}

// String is the printed form, A4:C1:38:00:11:22.
func (a Addr) String() string {
	return fmt.Sprintf("%02X:%02X:%02X:%02X:%02X:%02X", a[0], a[1], a[2], a[3], a[4], a[5])
}

// ID is the form in device ids: a4c138001122.
func (a Addr) ID() string { return hex.EncodeToString(a[:]) }

// reversed is the order on the air.
func (a Addr) reversed() []byte {
	b := slices.Clone(a[:])
	slices.Reverse(b)
	return b
}

// addrOnAir reads the six bytes at the start of b as they are on the air.
func addrOnAir(b []byte) (a Addr) {
	copy(a[:], b[:6])
	slices.Reverse(a[:])
	return a
}

// The kinds of address (Core Specification Vol 4 Part E §7.7.65.13).
const (
	Public         = 0x00
	Random         = 0x01
	PublicIdentity = 0x02 // resolved by the controller
	RandomIdentity = 0x03
	Anonymous      = 0xff // the advertisement has no address
)

// NoPower stands for a strength or power that is not known, in dBm.
const NoPower = 127

// Status tells whether an extended advertisement is whole.
type Status uint8

const (
	Complete  Status = iota
	More             // more of its data follows
	Truncated        // the rest is lost
)

// Report is one advertisement as the controller reported it.
type Report struct {
	Addr         Addr
	AddrKind     byte
	Connectable  bool
	ScanResponse bool
	Extended     bool // a PDU of Bluetooth 5; such have a set id and may come in pieces
	Set          byte // the advertising set's id
	Status       Status
	TxPower      int8   // dBm, or NoPower
	RSSI         int8   // dBm, or NoPower
	Data         []byte // AD structures
}

// Private tells whether the address is one that changes (Core Specification Vol 6 Part B
// §1.3.2), so that it names no device for long.
func (r Report) Private() bool {
	return r.AddrKind == Anonymous || r.AddrKind == Random && r.Addr[0]>>6 != 3
}

// Name is what the device calls itself in this advertisement; empty if it does not say.
func (r Report) Name() string { return parse(r).name }

// UUID names a service, in the order it is written in.
type UUID [16]byte

// The Bluetooth base UUID (Core Specification Vol 3 Part B §2.5.1).
var baseUUID = UUID{0, 0, 0, 0, 0, 0, 0x10, 0, 0x80, 0, 0, 0x80, 0x5f, 0x9b, 0x34, 0xfb}

// UUID16 returns the whole UUID of a short one.
func UUID16(short uint16) UUID {
	u := baseUUID
	binary.BigEndian.PutUint16(u[2:], short)
	return u
}

// ParseUUID reads 4, 8 or 32 hexadecimal digits; the long form may have its dashes.
func ParseUUID(s string) (UUID, error) {
	u := baseUUID
	digits := s
	if len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' {
		digits = strings.ReplaceAll(s, "-", "")
	}
	b, err := hex.DecodeString(digits)
	switch {
	case err != nil:
	case len(b) == 2:
		copy(u[2:], b)
		return u, nil
	case len(b) == 4 || len(b) == 16:
		copy(u[:], b)
		return u, nil
	}
	return u, fmt.Errorf("%q is no service UUID, such as fcd2 or 0000fcd2-0000-1000-8000-00805f9b34fb", s)
}

// String is the short form if there is one.
func (u UUID) String() string {
	if bytes.Equal(u[4:], baseUUID[4:]) {
		if u[0] == 0 && u[1] == 0 {
			return hex.EncodeToString(u[2:4])
		}
		return hex.EncodeToString(u[:4])
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// Structure is one AD structure (Core Specification Vol 3 Part C §11).
type Structure struct {
	Type byte
	Data []byte
}

// The types of AD structures that are read here (Assigned Numbers §2.3).
const (
	adUUIDs16      = 0x02 // and 0x03, the complete list
	adUUIDs32      = 0x04
	adUUIDs128     = 0x06
	adShortName    = 0x08
	adName         = 0x09
	adTxPower      = 0x0a
	adService16    = 0x16
	adService32    = 0x20
	adService128   = 0x21
	adManufacturer = 0xff
)

// ErrShort: an AD structure is longer than what is left. What came before it is good.
var ErrShort = errors.New("an AD structure is longer than the advertisement")

// Structures cuts data into AD structures. A length of 0 ends the data early (Vol 3 Part C
// §11: the rest is zeros). At a structure that is cut short it stops, with what it has and
// ErrShort. The structures point into data.
func Structures(data []byte) ([]Structure, error) {
	var list []Structure
	for len(data) > 0 && data[0] > 0 {
		n := int(data[0])
		if n >= len(data) {
			return list, ErrShort
		}
		list = append(list, Structure{data[1], data[2 : n+1]})
		data = data[n+1:]
	}
	return list, nil
}

// serviceData is data of one service.
type serviceData struct {
	uuid UUID
	data []byte
}

// packet is an advertisement taken apart, for the decoders.
type packet struct {
	Report
	structures []Structure
	name       string
	uuids      []UUID
	services   []serviceData
	// What makers put behind their company's id, the id's two bytes (low first) included: some
	// use these two for data. At least two bytes each.
	makers [][]byte
}

// parse takes r apart. What is malformed is left out.
func parse(r Report) packet {
	p := packet{Report: r}
	p.structures, _ = Structures(r.Data) // the good ones are worth having
	for _, s := range p.structures {
		switch s.Type {
		case adUUIDs16, adUUIDs16 + 1:
			p.addUUIDs(s.Data, 2)
		case adUUIDs32, adUUIDs32 + 1:
			p.addUUIDs(s.Data, 4)
		case adUUIDs128, adUUIDs128 + 1:
			p.addUUIDs(s.Data, 16)
		case adShortName:
			if p.name == "" {
				p.name = text(s.Data)
			}
		case adName:
			p.name = text(s.Data)
		case adTxPower:
			if len(s.Data) == 1 && r.TxPower == NoPower {
				p.TxPower = int8(s.Data[0])
			}
		case adService16:
			p.addService(s.Data, 2)
		case adService32:
			p.addService(s.Data, 4)
		case adService128:
			p.addService(s.Data, 16)
		case adManufacturer:
			if len(s.Data) >= 2 {
				p.makers = append(p.makers, s.Data)
			}
		}
	}
	return p
}

// onAir reads a UUID of 2, 4 or 16 bytes, least significant first.
func onAir(b []byte) UUID {
	b = slices.Clone(b)
	slices.Reverse(b)
	u := baseUUID
	if len(b) == 2 {
		copy(u[2:], b)
	} else {
		copy(u[:], b)
	}
	return u
}

func (p *packet) addUUIDs(data []byte, size int) {
	for ; len(data) >= size; data = data[size:] {
		p.uuids = append(p.uuids, onAir(data[:size]))
	}
}

func (p *packet) addService(data []byte, size int) {
	if len(data) >= size {
		p.services = append(p.services, serviceData{onAir(data[:size]), data[size:]})
	}
}

// service returns the first data of a service.
func (p *packet) service(short uint16) ([]byte, bool) {
	for _, s := range p.services {
		if s.uuid == UUID16(short) {
			return s.data, true
		}
	}
	return nil, false
}

// company returns the first data of a company, behind its id.
func (p *packet) company(id uint16) ([]byte, bool) {
	for _, m := range p.makers {
		if binary.LittleEndian.Uint16(m) == id {
			return m[2:], true
		}
	}
	return nil, false
}

// text makes what a device says for people fit to be shown: no invalid UTF-8, no control
// characters, and no zeros at the end, which some pad with.
func text(b []byte) string {
	b = bytes.TrimRight(b, "\x00")
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) {
			return -1
		}
		return r
	}, string(b))
}
