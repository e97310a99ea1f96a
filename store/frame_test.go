package store

import (
	"bytes"
	"encoding/hex"
	"hash/crc32"
	"reflect"
	"testing"
	"time"

	"github.com/weir-iot/weir/gateway"
)

func frameOf(e *gateway.Event, s salt) []byte {
	buf := appendBody(make([]byte, frameHeader), e)
	stamp(buf, s.seed(), crc32.Checksum(buf[frameHeader:], castagnoli), e.Kind, e.Offset)
	return buf
}

var sample = &gateway.Event{
	Kind: gateway.Change, Topic: "plant/scale", Payload: []byte("12.5"), QoS: 2, Retain: true, Expiry: time.Minute,
	UTF8: true, ContentType: "text/plain", ResponseTopic: "r", CorrelationData: []byte{9},
	UserProperties: []gateway.UserProperty{{Key: "k", Value: "v"}},
	Origin:         gateway.Origin{Via: "mqtt", ID: "c", User: "u"},
	Accepted:       time.Unix(1_800_000_000, 5).UTC(), Source: time.Unix(-7, 6).UTC(), Quality: gateway.Uncertain, PacketID: 300, Offset: 0x1234,
}

// TestFrameBytes pins the format: a build reads what others wrote, on every machine.
func TestFrameBytes(t *testing.T) {
	got := hex.EncodeToString(frameOf(sample, salt{1, 2, 3, 4, 5, 6, 7, 8}))
	want := "41000000" + "3412000000000011" + "32424a8e" + "43a7fa2b" +
		"0b706c616e742f7363616c65" + "3e" + "01" + "80c8ceb40d05" + "0d06" + "ac02" + "80e0ba84bf03" +
		"046d717474" + "0163" + "0175" + "0a746578742f706c61696e" + "0172" + "0109" + "01016b0176" + "0431322e35" + "a5"
	if got != want {
		t.Errorf("frame\n%s, want\n%s", got, want)
	}
}

func TestForeignFrames(t *testing.T) {
	s := salt{1}
	frame := frameOf(sample, s)
	if h, ok := parseHeader(frame, s.seed()); !ok || h.offset != sample.Offset || h.size != int64(len(frame)) || !bodyIntact(frame) {
		t.Fatal("a frame of the segment is refused")
	}
	if _, ok := parseHeader(frame, salt{2}.seed()); ok {
		t.Error("a frame of another segment passes")
	}
	for i := range frame {
		for bit := range 8 {
			bad := bytes.Clone(frame)
			bad[i] ^= 1 << bit
			if h, ok := parseHeader(bad, s.seed()); ok && h.size == int64(len(bad)) && bodyIntact(bad) {
				t.Errorf("bit %d of byte %d flipped, and it passes", bit, i)
			}
		}
	}
}

func FuzzDecodeBody(f *testing.F) {
	f.Add(appendBody(nil, sample))
	f.Add(appendBody(nil, &gateway.Event{}))
	f.Add([]byte{endMark})
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := decodeBody(body, gateway.Data)
		if err != nil {
			return
		}
		again, err := decodeBody(appendBody(nil, e), gateway.Data)
		if err != nil || !reflect.DeepEqual(e, again) {
			t.Errorf("%+v, encoded and decoded: %+v, %v", e, again, err)
		}
	})
}

// FuzzScan scans any bytes as a segment, with a real frame somewhere in them: no panic, and
// nothing comes out but that frame.
func FuzzScan(f *testing.F) {
	s := salt{7}
	frame := frameOf(sample, s)
	f.Add([]byte{}, []byte{})
	f.Add(frame[:len(frame)-1], []byte{0})
	f.Add(frame[1:], frame[:20])
	f.Add(bytes.Repeat([]byte{0x11}, 100), make([]byte, 100))
	f.Fuzz(func(t *testing.T, before, after []byte) {
		data := append(append(bytes.Clone(before), frame...), after...)
		sc := newScanner(bytes.NewReader(data), s.seed(), 0, int64(len(data)))
		found := 0
		for {
			fr, ok := sc.next()
			if !ok {
				break
			}
			if found++; !bytes.Equal(data[fr.pos:fr.pos+fr.size], frame) {
				t.Errorf("a frame at %d was never written", fr.pos)
			}
		}
		if found == 0 {
			t.Error("the frame was not found")
		}
	})
}

func FuzzDecodeTable(f *testing.F) {
	f.Add((&table{epochs: []epoch{{name: "abcdefgh", first: 1, last: open}}, boot: "b", machine: "m"}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if tb, err := decodeTable(b); err == nil && len(tb.epochs) == 0 {
			t.Error("a table without an epoch")
		}
	})
}

func TestTableSlots(t *testing.T) {
	dir := t.TempDir()
	tb := &table{reserve: 1}
	tb.begin(0, false)
	s, err := createTable(OSDisk{}, dir, tb)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(5) {
		tb.reserve = 100 + i
		if err := s.save(tb); err != nil {
			t.Fatal(err)
		}
	}
	slot := int64(tb.seq%2) * tableSlot
	s.f.WriteAt([]byte{0xff}, slot+30) // the write of the newest was torn
	s.f.Close()
	s, got, err := openTable(OSDisk{}, dir)
	if err != nil || got.reserve != 103 || got.current().name != tb.current().name || s.inode == 0 || got.inode != s.inode {
		t.Errorf("%+v, %v", got, err)
	}
	s.f.WriteAt([]byte{0xff}, (tableSlot-slot)+30)
	s.f.Close()
	if _, got, err := openTable(OSDisk{}, dir); got != nil || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestTableBound: a thousand power cuts and more fit in a slot, and the newest epochs are kept.
func TestTableBound(t *testing.T) {
	tb := &table{reserve: gateway.MaxOffset - 1, boot: string(make([]byte, 128)), machine: string(make([]byte, 257))}
	for range maxEpochs + 500 {
		tb.begin(gateway.MaxOffset-2, true)
	}
	b := tb.encode()
	if len(b) > tableSlot || len(tb.epochs) != maxEpochs {
		t.Fatalf("%d bytes, %d epochs", len(b), len(tb.epochs))
	}
	if got, err := decodeTable(b); err != nil || !reflect.DeepEqual(got, tb) {
		t.Errorf("%v", err)
	}
	seen := map[string]bool{}
	for _, e := range tb.epochs {
		if len(e.name) != epochNameLen || seen[e.name] {
			t.Fatalf("epoch name %q", e.name)
		}
		seen[e.name] = true
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	dir := t.TempDir()
	j, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	j.Close()
	f, err := OSDisk{}.Open(dir+"/"+tableFile, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range []int64{0, tableSlot} {
		f.WriteAt([]byte{2}, slot+8)
	}
	f.Close()
	if _, err := Open(Options{Dir: dir}); err == nil {
		t.Error("a journal of a newer format was opened")
	}
}
