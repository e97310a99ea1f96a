package codec

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"strconv"
	"testing"
)

// vector is bytes that a device or a standard made, and what they mean. Each names its source
// and licence.
type vector struct {
	Decoder   string
	Source    string
	FrameText string `json:"frame_text"`
	FrameHex  string `json:"frame_hex"`
	DataHex   string `json:"data_hex"`
	Expected  map[string]any
	Accept    bool
}

func vectors(tb testing.TB) []vector {
	data, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		tb.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal(data, &all); err != nil {
		tb.Fatal(err)
	}
	return all
}

func (v vector) wire(tb testing.TB) []byte {
	if v.FrameText != "" {
		return []byte(v.FrameText)
	}
	b, err := hex.DecodeString(v.FrameHex + v.DataHex)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// listen feeds wire to c in chunks of n bytes and returns the readings of the good frames, how
// many of these there were, and the reasons of the garbage.
func listen(c *Codec, n int, wire []byte) (readings []Reading, frames int, garbage []string) {
	s := c.Stream()
	emit := func(f Frame) {
		if f.Garbage != "" {
			garbage = append(garbage, f.Garbage)
			return
		}
		frames++
		readings = append(readings, f.Readings...)
	}
	for len(wire) > 0 {
		k := min(n, len(wire))
		s.Feed(wire[:k], emit)
		wire = wire[k:]
	}
	s.Idle(emit)
	return readings, frames, garbage
}

func protocol(tb testing.TB, name string) *Codec {
	c, err := New(Config{Protocol: name}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func TestVectors(t *testing.T) {
	counts := map[string]int{}
	for _, v := range vectors(t) {
		counts[v.Decoder]++
		wire := v.wire(t)
		switch v.Decoder {
		case "cobs":
			got, ok := unstuff(wire)
			if want, _ := v.Expected["payload_hex"].(string); ok != v.Accept || ok && hex.EncodeToString(got) != want {
				t.Errorf("%s %s: %x, %t", v.Source, v.FrameHex, got, ok)
			}
			if back := stuff(got); ok && !bytes.Equal(back, wire) {
				t.Errorf("%s %x: %x, want %x", v.Source, got, back, wire)
			}
			continue
		case "crc16_modbus":
			got := hex.EncodeToString(binary.BigEndian.AppendUint16(nil, crcs["modbus"].sum()(wire)))
			if got != v.Expected["crc"] {
				t.Errorf("%s %s: %s", v.Source, v.DataHex, got)
			}
			continue
		case "nmea0183":
			wire = append(wire, "\r\n"...)
		}
		readings, frames, garbage := listen(protocol(t, v.Decoder), len(wire), wire)
		if v.Accept != (frames == 1 && len(garbage) == 0) || !v.Accept && frames > 0 {
			t.Errorf("%s %s%s: %d frames, %v", v.Source, v.FrameText, v.FrameHex, frames, garbage)
			continue
		}
		got := map[string]Reading{}
		for _, r := range readings {
			got[r.Name] = r
			if r.Unit != "" {
				if _, ok := Number(r.Value); !ok {
					t.Errorf("%s: %+v is no number", v.Source, r)
				}
			}
		}
		if !v.Accept {
			continue
		}
		for key, want := range v.Expected {
			switch name := vectorNames[key]; {
			case key == "type", key == "crc16": // what is checked is that it decodes
			case v.Decoder == "dsmr_p1":
				want := want.(map[string]any)
				r := got[obis[key]]
				if n, _ := strconv.ParseFloat(r.Value, 64); n != want["value"] || r.Unit != want["unit"] {
					t.Errorf("%s: %s is %+v, want %v", v.Source, key, r, want)
				}
			default:
				scale := 1.0
				if v.Decoder == "sds011" {
					scale = 10
				}
				if n, err := strconv.ParseFloat(got[name].Value, 64); err != nil || n*scale != want {
					t.Errorf("%s: %s is %+v, want %v", v.Source, key, got[name], want)
				}
			}
		}
	}
	for decoder, n := range map[string]int{"nmea0183": 25, "cobs": 14, "dsmr_p1": 4, "sds011": 4, "pms3003": 1, "pms5003": 1, "crc16_modbus": 2} {
		if counts[decoder] != n {
			t.Errorf("%d vectors of %s, not %d", counts[decoder], decoder, n)
		}
	}
}

var vectorNames = map[string]string{
	"raw01": "pm1_cf1", "raw25": "pm25_cf1", "raw10": "pm10_cf1", "pm01": "pm1", "pm25": "pm25", "pm10": "pm10",
	"n0_3": "n0_3", "n0_5": "n0_5", "n1_0": "n1_0", "n2_5": "n2_5", "n5_0": "n5_0", "n10_0": "n10_0",
	"pm25_x10": "pm25", "pm10_x10": "pm10",
}
