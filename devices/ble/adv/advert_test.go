package adv

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

func TestStructures(t *testing.T) {
	for _, tt := range []struct {
		data string
		want string
		err  error
	}{
		{"", "", nil},
		{"020106", "01:06", nil},
		{"0201060409414243", "01:06 09:414243", nil},
		{"0116", "16:", nil},                          // a type and nothing else
		{"020106000000", "01:06", nil},                // early termination
		{"000201060000", "", nil},                     // what follows a zero is padding
		{"02010603ff99", "01:06", ErrShort},           // one byte is missing
		{"0216d2", "16:d2", nil},                      // half a UUID; it is for parse to leave out
		{"ff16", "", ErrShort},                        // no end in sight
		{"02", "", ErrShort},                          // a length and nothing else
		{"020301" + "03070102", "03:01 07:0102", nil}, // odd lists
	} {
		list, err := Structures(unhex(t, tt.data))
		got := ""
		for i, s := range list {
			if i > 0 {
				got += " "
			}
			got += fmt.Sprintf("%02x:%x", s.Type, s.Data)
		}
		if got != tt.want || err != tt.err {
			t.Errorf("%s: %q, %v; want %q, %v", tt.data, got, err, tt.want, tt.err)
		}
	}
}

func TestParse(t *testing.T) {
	p := parse(Report{TxPower: NoPower, Data: slices.Concat(
		structure(adUUIDs16, []byte{0xd2, 0xfc, 0x0f}), // one and a half
		structure(adUUIDs32+1, []byte{1, 2, 3, 4}),
		structure(adUUIDs128+1, unhex(t, "b00a09ecd79db893ba42d611000009ef")),
		structure(adName, []byte("T\x01est\xff\x00\x00")),
		structure(adShortName, []byte("Te")), // the complete name counts
		structure(adTxPower, []byte{0xf4}),
		structure(adService16, []byte{0xd2}), // too short to be of a service
		structure(adService16, unhex(t, "d2fc40")),
		structure(adService32, unhex(t, "0403020155")),
		structure(adService128, unhex(t, "b00a09ecd79db893ba42d611000009ef66")),
		structure(adManufacturer, []byte{0x99}),
		structure(adManufacturer, []byte{0x99, 0x04}),
	)})
	if got := fmt.Sprint(p.uuids); got != "[fcd2 04030201 ef090000-11d6-42ba-93b8-9dd7ec090ab0]" {
		t.Error(got)
	}
	if p.name != "Test" || p.TxPower != -12 {
		t.Errorf("%q, %d dBm", p.name, p.TxPower)
	}
	got := ""
	for _, s := range p.services {
		got += fmt.Sprintf("%s=%x ", s.uuid, s.data)
	}
	if got != "fcd2=40 01020304=55 ef090000-11d6-42ba-93b8-9dd7ec090ab0=66 " {
		t.Error(got)
	}
	if len(p.makers) != 1 {
		t.Errorf("%x", p.makers)
	}
}

func TestAddrAndUUID(t *testing.T) {
	for _, s := range []string{"A4:C1:38:0d:00:FF", "a4-c1-38-0d-00-ff", "a4c1380d00ff"} {
		a, err := ParseAddr(s)
		if err != nil || a.String() != "A4:C1:38:0D:00:FF" || a.ID() != "a4c1380d00ff" {
			t.Errorf("%s: %s, %v", s, a, err)
		}
	}
	for _, s := range []string{"", "a4c138", "a4:c1:38:0d:00:fg", "a4:c1:38:0d:00:ff:", "a4:c1-38:0d:00:ff", "a4c1:380d:00ff:00"} {
		if a, err := ParseAddr(s); err == nil {
			t.Errorf("%q is %s", s, a)
		}
	}
	for _, s := range []string{"fcd2", "0000fcd2", "0000fcd2-0000-1000-8000-00805f9b34fb", "0000FCD200001000800000805F9B34FB"} {
		if u, err := ParseUUID(s); err != nil || u != UUID16(0xfcd2) || u.String() != "fcd2" {
			t.Errorf("%s: %s, %v", s, u, err)
		}
	}
	for _, s := range []string{"", "fc", "fcd2fc", "0xfcd2", "xxxx", "0000fcd2-0000-1000-8000-00805f9b34f"} {
		if u, err := ParseUUID(s); err == nil {
			t.Errorf("%q is %s", s, u)
		}
	}
}

// Core Specification Vol 6 Part B §1.3.2: static addresses have 11 in front, resolvable ones 01, others 00.
func TestPrivate(t *testing.T) {
	for _, tt := range []struct {
		kind  byte
		first byte
		want  bool
	}{
		{Public, 0x40, false}, {Random, 0xc0, false}, {Random, 0xff, false}, {Random, 0x40, true}, {Random, 0x3f, true},
		{RandomIdentity, 0x40, false}, {Anonymous, 0, true},
	} {
		if got := (Report{AddrKind: tt.kind, Addr: Addr{tt.first}}).Private(); got != tt.want {
			t.Errorf("kind %d, %02x: %v", tt.kind, tt.first, got)
		}
	}
}

func TestParseEvent(t *testing.T) {
	const (
		one  = "00" + "01" + "060504030201" + "03" + "020106" + "c4"          // connectable, from a random address
		two  = "04" + "00" + "aa0504030201" + "00" + "7f"                     // a scan response without data or strength
		long = "1300" + "01" + "060504030201" + "0100" + "ff" + "7f" + "b9" + // a legacy PDU in an extended report
			"0000" + "00" + "000000000000" + "03" + "020106"
		piece = "2000" + "00" + "060504030201" + "0102" + "05" + "f4" + "b9" + "0000" + "00" + "000000000000" + "02" + "3016"
	)
	for _, tt := range []struct {
		name, event string
		want        string
		err         string
	}{
		{"legacy", "3e0f0201" + one, "01:02:03:04:05:06 1 c=true s=false x=false/0/0 127 -60 020106", ""},
		{"H4", "043e0f0201" + one, "01:02:03:04:05:06 1 c=true s=false x=false/0/0 127 -60 020106", ""},
		{"two reports", "3e190202" + one + two, "01:02:03:04:05:06 1 c=true s=false x=false/0/0 127 -60 020106; 01:02:03:04:05:AA 0 c=false s=true x=false/0/0 127 127 ", ""},
		{"extended, legacy PDU", "3e1d0d01" + long, "01:02:03:04:05:06 1 c=true s=false x=false/255/0 127 -71 020106", ""},
		{"extended, a piece", "3e1c0d01" + piece, "01:02:03:04:05:06 0 c=false s=false x=true/5/1 -12 -71 3016", ""},
		{"no reports", "3e020200", "", ""},
		{"trailing bytes of the event", "3e0f0201" + one + "ffff", "01:02:03:04:05:06 1 c=true s=false x=false/0/0 127 -60 020106", ""},
		{"empty", "", "", "the event is cut short"},
		{"one byte", "3e", "", "the event is cut short"},
		{"no parameters", "3e00", "", "the event is cut short"},
		{"the second report is cut", "3e180202" + one + two, "01:02:03:04:05:06 1 c=true s=false x=false/0/0 127 -60 020106", "report 2 of 2: the event is cut short"},
		{"the link lost the end", "3e190202" + one, "01:02:03:04:05:06 1 c=true s=false x=false/0/0 127 -60 020106", "report 2 of 2: the event is cut short"},
		{"no strength", "3e0e0201" + one[:len(one)-2], "", "report 1 of 1: the event is cut short"},
		{"reserved type", "3e0c0201" + "05" + two[2:], "", "report 1 of 1: event type 5 is reserved"},
		{"reserved status", "3e1c0d01" + "60" + piece[2:], "", "report 1 of 1: data status 3 is reserved"},
		{"data longer than the event", "3e1c0d01" + piece[:len(piece)-6] + "ff3016", "", "report 1 of 1: the event is cut short"},
		{"another meta event", "3e0401020304", "", "no advertising report"},
		{"another event", "0e0401030c00", "", "no advertising report"},
	} {
		reports, err := ParseEvent(unhex(t, tt.event))
		got := ""
		for i, r := range reports {
			if i > 0 {
				got += "; "
			}
			got += fmt.Sprintf("%s %d c=%v s=%v x=%v/%d/%d %d %d %x", r.Addr, r.AddrKind, r.Connectable, r.ScanResponse, r.Extended, r.Set, r.Status, r.TxPower, r.RSSI, r.Data)
		}
		if msg := fmt.Sprint(err); got != tt.want || msg != tt.err && (err != nil || tt.err != "") {
			t.Errorf("%s: %q, %v\nwant %q, %s", tt.name, got, err, tt.want, tt.err)
		}
	}
	if _, err := ParseEvent([]byte{0x0e, 0}); !errors.Is(err, ErrNotReport) {
		t.Error(err)
	}
}

func TestAssembler(t *testing.T) {
	var a Assembler
	piece := func(set byte, status Status, data string) Report {
		return Report{Extended: true, Set: set, Status: status, Data: []byte(data)}
	}
	step := func(r Report, want string, whole bool) {
		t.Helper()
		got, ok := a.Add(r)
		if ok != whole || ok && string(got.Data) != want {
			t.Errorf("%q, %v; want %q, %v", got.Data, ok, want, whole)
		}
	}
	step(Report{Data: []byte("legacy")}, "legacy", true)
	step(piece(1, Complete, "whole"), "whole", true)
	step(piece(1, More, "a"), "", false)
	step(piece(2, More, "x"), "", false)
	step(piece(1, More, "b"), "", false)
	step(piece(2, Complete, "y"), "xy", true)
	step(piece(1, Complete, "c"), "abc", true)
	step(piece(1, More, "a"), "", false)
	step(piece(1, Truncated, "b"), "", false)
	step(piece(1, Complete, "c"), "c", true) // nothing is left of the one that was lost
	step(piece(1, Truncated, "a"), "", false)
	if len(a.pending) != 0 {
		t.Errorf("%d pending", len(a.pending))
	}

	// The pieces do not change what was handed over, nor do they point into it.
	buffer := []byte("ab")
	step(Report{Extended: true, Status: More, Data: buffer[:1]}, "", false)
	buffer[0] = 'z'
	step(Report{Extended: true, Status: Complete, Data: buffer[1:]}, "ab", true)

	// A stranger cannot make it grow.
	for i := range 1000 {
		a.Add(piece(byte(i), More, string(make([]byte, 200))))
		for range 10 {
			a.Add(piece(7, More, string(make([]byte, 250))))
		}
	}
	if len(a.pending) > maxPending {
		t.Errorf("%d pending", len(a.pending))
	}
	for _, r := range a.pending {
		if len(r.Data) > maxData {
			t.Errorf("%d bytes", len(r.Data))
		}
	}
}
