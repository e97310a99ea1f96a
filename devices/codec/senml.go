package codec

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"
)

// senmlVersion is the newest version of SenML there is, RFC 8428, 4.4.
const senmlVersion = 10

// senmlLabels are the fields' numbers in CBOR, RFC 8428, table 4.
var senmlLabels = map[string]string{
	"-1": "bver", "-2": "bn", "-3": "bt", "-4": "bu", "-5": "bv", "-6": "bs",
	"0": "n", "1": "u", "2": "v", "3": "vs", "4": "vb", "5": "s", "6": "t", "7": "ut", "8": "vd",
}

// record is a SenML record. Numbers are json.Number, data is []byte.
type record map[string]any

func decodeSenMLJSON(frame []byte, add func(Reading)) error {
	d := json.NewDecoder(bytes.NewReader(frame))
	d.UseNumber()
	var pack []record
	if err := d.Decode(&pack); err != nil {
		return errMalformed
	}
	if _, err := d.Token(); err != io.EOF {
		return errMalformed
	}
	for _, r := range pack {
		if text, ok := r["vd"].(string); ok { // RFC 8428, 5: base64url without padding
			data, err := base64.RawURLEncoding.DecodeString(text)
			if err != nil {
				return errMalformed
			}
			r["vd"] = data
		}
	}
	return senml(pack, time.Now(), add)
}

func decodeSenMLCBOR(frame []byte, add func(Reading)) error {
	var items []map[any]any
	if err := cborMode.Unmarshal(frame, &items); err != nil {
		return errMalformed
	}
	pack := make([]record, len(items))
	for i, item := range items {
		pack[i] = record{}
		for key, v := range item {
			label, ok := cborScalar(key)
			if !ok {
				return errMalformed
			}
			if _, text := key.(string); !text {
				if label = senmlLabels[label]; label == "" {
					continue // a field we do not know
				}
			}
			switch x := v.(type) {
			case string, bool, []byte:
			default:
				number, ok := cborScalar(x)
				if !ok || notANumber(number) {
					return errMalformed
				}
				v = json.Number(number)
			}
			pack[i][label] = v
		}
	}
	return senml(pack, time.Now(), add)
}

// senml resolves a pack, RFC 8428, 4. Now is what times are relative to that are.
func senml(pack []record, now time.Time, add func(Reading)) error {
	if pack == nil {
		return errMalformed
	}
	base := record{}
	for _, r := range pack {
		bad := false
		text := func(key string) string {
			v, there := r[key]
			s, ok := v.(string)
			bad = bad || there && !ok
			return s
		}
		number := func(key string) string {
			v, there := r[key]
			n, ok := v.(json.Number)
			bad = bad || there && !ok
			return n.String()
		}
		for key, v := range r {
			if strings.HasSuffix(key, "_") { // 4.4: who does not know it must not go on
				return errMalformed
			}
			if strings.HasPrefix(key, "b") {
				base[key] = v
			}
		}
		text("bn")
		text("bu")
		for _, key := range []string{"bt", "bv", "bs", "bver", "ut"} {
			number(key)
		}
		name, unit, v, s, t := text("n"), text("u"), number("v"), number("s"), number("t")
		vs, isText := r["vs"].(string)
		vb, isBool := r["vb"].(bool)
		vd, isData := r["vd"].([]byte)
		bad = bad || !isText && r["vs"] != nil || !isBool && r["vb"] != nil || !isData && r["vd"] != nil
		if version, err := strconv.Atoi(base.number("bver")); bad || err != nil || version > senmlVersion {
			return errMalformed
		}
		values := 0
		for _, there := range []bool{v != "", isText, isBool, isData} {
			if there {
				values++
			}
		}
		if values == 0 && s == "" && r.baseOnly() {
			continue
		}
		bn, _ := base["bn"].(string)
		if name = bn + name; values > 1 || values == 0 && s == "" || !senmlName(name) {
			return errMalformed
		}
		if unit == "" {
			unit, _ = base["bu"].(string)
		}
		source, ok := senmlTime(base.number("bt"), t, now)
		if !ok {
			return errMalformed
		}
		out := Reading{Name: name, Source: source}
		switch {
		case v != "":
			out.Unit = PlainUnit(unit)
			if out.Value, ok = plus(v, base.number("bv")); !ok {
				return errMalformed
			}
		case isText:
			out.Value = vs
		case isBool:
			out.Value = strconv.FormatBool(vb)
		case isData:
			out.Value = string(vd)
		}
		if values > 0 {
			add(out)
		}
		if s != "" {
			out.Name, out.Unit = name+".sum", ""
			if unit != "" { // the integral over time
				out.Unit = PlainUnit(unit) + "·s"
			}
			if out.Value, ok = plus(s, base.number("bs")); !ok {
				return errMalformed
			}
			add(out)
		}
	}
	return nil
}

// number is the base field key, which has been checked.
func (r record) number(key string) string {
	if n, ok := r[key].(json.Number); ok {
		return n.String()
	}
	if key == "bver" {
		return strconv.Itoa(senmlVersion)
	}
	return ""
}

// baseOnly tells whether r only sets what holds for the records after it.
func (r record) baseOnly() bool {
	for key := range r {
		if !strings.HasPrefix(key, "b") {
			return false
		}
	}
	return len(r) > 0
}

// senmlName tells whether name is one by RFC 8428, 4.5.1.
func senmlName(name string) bool {
	for i, r := range name {
		alnum := r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !alnum && (i == 0 || !strings.ContainsRune("-:./_", r)) {
			return false
		}
	}
	return name != "" && len(name) <= MaxName
}

// senmlTime is when it was measured, RFC 8428, 4.5.3: numbers below 2^28 are seconds from now.
// It is the zero time if that is this moment, or nothing is said.
func senmlTime(base, t string, now time.Time) (time.Time, bool) {
	seconds := 0.0
	for _, text := range []string{base, t} {
		if text == "" {
			continue
		}
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return time.Time{}, false
		}
		seconds += v
	}
	switch {
	case seconds == 0:
		return time.Time{}, true
	case math.Abs(seconds) > 1<<38: // beyond the year 10000
		return time.Time{}, false
	}
	whole, part := math.Modf(seconds)
	// A float64 knows no more than microseconds of today's seconds.
	part = math.Round(part*1e6) * 1e3
	if seconds < 1<<28 {
		return now.Add(time.Duration(whole)*time.Second + time.Duration(part)), true
	}
	return time.Unix(int64(whole), int64(part)).UTC(), true
}

// plus adds a base, which may be missing, to a number: exactly, where they are written without an
// exponent.
func plus(number, base string) (string, bool) {
	if base == "" {
		return Number(number)
	}
	if strings.ContainsAny(number+base, "eE") {
		a, err1 := strconv.ParseFloat(number, 64)
		b, err2 := strconv.ParseFloat(base, 64)
		return formatFloat(a + b), err1 == nil && err2 == nil && !math.IsInf(a+b, 0)
	}
	a, ok1 := new(big.Rat).SetString(number)
	b, ok2 := new(big.Rat).SetString(base)
	if !ok1 || !ok2 {
		return "", false
	}
	_, decimals, _ := strings.Cut(number, ".")
	_, more, _ := strings.Cut(base, ".")
	return a.Add(a, b).FloatString(max(len(decimals), len(more))), true
}
