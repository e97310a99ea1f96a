package modbus

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Each entry of testdata/vectors.json names its source.
func TestVectors(t *testing.T) {
	data, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Decoder, Source string
		Data            string `json:"data_hex"`
		Frame           string `json:"frame_hex"`
		Expected        struct {
			CRC            string
			Unit, Function byte
			Data           string `json:"data_hex"`
			ResponseLength int    `json:"response_length"`
		}
	}
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	for _, v := range vectors {
		switch v.Decoder {
		case "crc16_modbus":
			data := unhex(t, v.Data)
			if got := fmt.Sprintf("%04x", crc16(data)); got != v.Expected.CRC {
				t.Errorf("%s: crc %s, want %s", v.Source, got, v.Expected.CRC)
			}
		case "modbus_rtu":
			frame := unhex(t, v.Frame)
			unit, pdu := frame[0], frame[1:len(frame)-2]
			if !intact(frame) || unit != v.Expected.Unit || pdu[0] != v.Expected.Function {
				t.Errorf("%s: %s", v.Source, v.Frame)
			}
			if got := (rtu{}).encode(unit, pdu); !bytes.Equal(got, frame) {
				t.Errorf("%s: encoded as %x", v.Source, got)
			}
			if want := v.Expected.Data; want != "" && hex.EncodeToString(pdu[1:]) != want {
				t.Errorf("%s: data %x", v.Source, pdu[1:])
			}
			// The unit and the CRC make up the rest of an answer.
			if n := v.Expected.ResponseLength; n > 0 && request(pdu).answerSize()+3 != n {
				t.Errorf("%s: an answer of %d bytes, want %d", v.Source, request(pdu).answerSize()+3, n)
			}
			frame[len(frame)/2] ^= 4
			if intact(frame) {
				t.Errorf("%s: intact with a wrong bit", v.Source)
			}
		default:
			t.Errorf("vector of %s", v.Decoder)
		}
	}
	if len(vectors) != 12 {
		t.Errorf("%d vectors", len(vectors))
	}
}

// The request and the answer of the examples in MODBUS Application Protocol V1.1b3, §6.
func TestSpecificationExamples(t *testing.T) {
	for name, c := range map[string]struct {
		r            request
		sent, answer string
		words        []uint16
	}{
		"§6.1":  {readRequest(coil, 0x13, 19), "0100130013", "0103cd6b05", []uint16{1, 0, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1}},
		"§6.2":  {readRequest(discrete, 0xc4, 22), "0200c40016", "0203acdb35", []uint16{0, 0, 1, 1, 0, 1, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 0, 1, 1}},
		"§6.3":  {readRequest(holding, 0x6b, 3), "03006b0003", "0306022b00000064", []uint16{0x22b, 0, 0x64}},
		"§6.4":  {readRequest(input, 8, 1), "0400080001", "0402000a", []uint16{10}},
		"§6.5":  {writeCoilRequest(0xac, true), "0500acff00", "0500acff00", nil},
		"§6.6":  {writeRegisterRequest(1, 3), "0600010003", "0600010003", nil},
		"§6.12": {writeRegistersRequest(1, []uint16{10, 0x102}), "100001000204000a0102", "1000010002", nil},
		"§6.8":  {echoRequest(0xa537), "080000a537", "080000a537", nil},
		"§6.16": {maskRequest(4, 0xf2, 0x25), "16000400f20025", "16000400f20025", nil},
	} {
		if got := hex.EncodeToString(c.r); got != c.sent {
			t.Errorf("%s: request %s, want %s", name, got, c.sent)
		}
		pdu := unhex(t, c.answer)
		if !c.r.answeredBy(pdu) || c.r.answeredBy(pdu[:len(pdu)-1]) || c.r.answerSize() != len(pdu) {
			t.Errorf("%s: answer %s", name, c.answer)
		}
		if !c.r.answeredBy([]byte{c.r[0] | 0x80, 2}) {
			t.Errorf("%s: exception", name)
		}
		if c.words == nil {
			continue
		}
		got := bitsOf(pdu, len(c.words))
		if c.r[0] > 2 {
			got = words(pdu)
		}
		if !equal(got, c.words) {
			t.Errorf("%s: %v, want %v", name, got, c.words)
		}
	}
}

func equal(a, b []uint16) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestMBAP(t *testing.T) {
	m := &mbap{}
	r := readRequest(holding, 0, 1)
	m.encode(3, r) // given up
	sent := m.encode(3, r)
	if got := hex.EncodeToString(sent); got != "000200000006030300000001" {
		t.Fatalf("sent %s", got)
	}
	late, present := unhex(t, "000100000005030302dead"), unhex(t, "000200000005030302beef")
	in := append(bytes.Clone(late), present...)
	for n := range len(in) {
		if pdu, _, err := m.find(in[:n], 3, r); pdu != nil || err != nil {
			t.Fatalf("in %d bytes of %d: %x, %v", n, len(in), pdu, err)
		}
	}
	if pdu, before, err := m.find(in, 3, r); hex.EncodeToString(pdu) != "0302beef" || before != len(late) || err != nil {
		t.Fatalf("%x, %d, %v", pdu, before, err)
	}
	for _, bad := range []string{"000200010005030302beef", "0002000000010303", "00020000ffff0303", "000200000005040302beef", "000200000005030402beef"} {
		if pdu, _, err := m.find(unhex(t, bad), 3, r); err == nil {
			t.Errorf("%s is taken: %x", bad, pdu)
		}
	}
}

func TestGuesses(t *testing.T) {
	r := readRequest(holding, 0, 1)
	answer := rtu{}.encode(7, []byte{3, 2, 0, 1})
	for _, c := range []struct {
		seen []byte
		f    framing
		want string
	}{
		{unhex(t, "000200000005030302beef"), rtu{}, "it looks like Modbus TCP: leave framing: rtu out"},
		{answer, &mbap{}, "it is Modbus RTU: set framing: rtu"},
		{[]byte(":010300\r\n"), rtu{}, "it looks like Modbus ASCII, which Weir does not speak: set the device to RTU"},
		{make([]byte, 9), rtu{}, "nothing but 00 or ff: wrong baud rate, or are A and B swapped?"},
		{append([]byte{1, 2}, answer...), rtu{}, "unit 7 answered with function 3: are there two masters on the bus, or two devices with one id?"},
		{unhex(t, "c13f99"), rtu{}, "noise or a broken frame: wrong baud rate or parity, two devices with one id, or a bus without termination?"},
		{nil, rtu{}, ""},
	} {
		if got := guess(c.seen, (rtu{}).encode(3, r), c.f); got != c.want {
			t.Errorf("%x: %q, want %q", c.seen, got, c.want)
		}
	}
}

// Whatever comes, finding an answer neither fails nor takes one that is none.
func FuzzFind(f *testing.F) {
	for _, r := range []request{readRequest(holding, 0, 3), readRequest(coil, 1, 19), writeRegistersRequest(1, []uint16{1}), echoRequest(7)} {
		f.Add(rtu{}.encode(3, r), []byte(r), byte(3))
	}
	f.Add(rtu{}.encode(3, unhex(f, "0306022b00000064")), []byte(readRequest(holding, 0, 3)), byte(3))
	f.Add(unhex(f, "000100000005030302beef"), []byte(readRequest(holding, 0, 1)), byte(3))
	f.Fuzz(func(t *testing.T, in, pdu []byte, unit byte) {
		if len(pdu) < 5 || pdu[0]&exceptionFlag != 0 || len(in) > maxIn {
			return
		}
		r := request(pdu)
		found, before, err := rtu{}.find(in, unit, r)
		if err != nil {
			t.Fatal(err)
		}
		if found != nil {
			frame := in[before : before+len(found)+3]
			if !intact(frame) || frame[0] != unit || !r.answeredBy(found) {
				t.Fatalf("%x is taken for an answer to %x", frame, r)
			}
			// And noise before it does not hide it.
			noisy := append([]byte{unit, r[0], 0x55}, in...)
			if again, _, _ := (rtu{}).find(noisy, unit, r); again == nil {
				t.Fatalf("not found after noise: %x", in)
			}
		}
		m := &mbap{transaction: 1}
		if found, before, err = m.find(in, unit, r); err == nil && found != nil && (in[before+6] != unit || !r.answeredBy(found)) {
			t.Fatalf("%x is taken for an answer to %x", in, r)
		}
		guess(in, r, rtu{})
		guess(in, r, m)
	})
}

func FuzzDecode(f *testing.F) {
	for kind := range forms {
		f.Add(kind, []byte{0x12, 0x34, 0x80, 0, 0x7f, 0xc0, 0, 1}, true, false, 0)
	}
	f.Fuzz(func(t *testing.T, kind string, b []byte, littleWords, littleBytes bool, shift int) {
		form, known := forms[kind]
		if kind == "string" {
			form.words = len(b) / 2
		}
		if !known || len(b) < 2*form.words || shift < -10 || shift > 10 {
			return
		}
		r := &register{name: "x", kind: kind, form: form, littleWords: littleWords, littleBytes: littleBytes, scale: decimal{mant: pow10(0)}, offset: fromFloat(0, 64)}
		w := words(append([]byte{3, 0}, b[:2*form.words]...))
		v := r.decode(w, shift)
		if kind == "string" || kind == "bool" || v.text == "nan" {
			return
		}
		if !json.Valid([]byte(v.text)) {
			t.Fatalf("%s %x: %s is no number", kind, b, v.text)
		}
		if shift != 0 {
			return
		}
		again, _, err := r.encode(v.text)
		if err == nil && r.decode(again, 0).text != v.text {
			t.Fatalf("%s: %s is written as %x, which is %s", kind, v.text, again, r.decode(again, 0).text)
		}
	})
}
