package devices

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/weir-iot/weir/devices/codec"
)

func TestGuess(t *testing.T) {
	pms, err := hex.DecodeString("424d001c" + strings.Repeat("0010", 13) + "0000")
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, b := range pms[:30] {
		sum += int(b)
	}
	pms[30], pms[31] = byte(sum>>8), byte(sum)
	cobs, err := codec.New(codec.Config{Framing: map[string]any{"cobs": map[string]any{"crc": "modbus"}}, Format: "raw"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	frame, err := cobs.Wrap([]byte{1, 2, 0, 200})
	if err != nil {
		t.Fatal(err)
	}
	for heard, want := range map[string]string{
		strings.Repeat(string(pms), 3):                        "protocol: pms5003",
		"9.5}\n" + strings.Repeat("{\"t\": 21.5}\n", 3):       "format: json",
		strings.Repeat("temperature=21.5 humidity=40\r\n", 3): "format: key=value",
		strings.Repeat(string(frame), 4):                      "framing: {cobs: {crc: modbus}}, format: raw",
		strings.Repeat("21.5;x;40\r\n", 5):                    "format: {csv: [value1, value2, value3]}",
		strings.Repeat("  12.50 kg\r\n", 5):                   "format: {regex: '(?P<value>[-+0-9.]+)'}",
		strings.Repeat("\x80\xfe\x00\x98x\xf8", 50):           "", // the wrong rate
		"":   "",
		"12": "",
	} {
		if g := guess([]byte(heard)); g.Config != want || (want != "") != (g.Frames > 0) || g.Bytes != len(heard) {
			t.Errorf("%.30q: %+v, want %s", heard, g, want)
		}
	}
}
