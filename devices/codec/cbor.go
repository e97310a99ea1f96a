package codec

import (
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"

	"github.com/fxamacker/cbor/v2"

	"github.com/weir-iot/weir/gateway"
)

// cborMode decodes what strangers send: bounded, without duplicate keys, and without tags
// that would become Go types of the library's choice.
var cborMode = func() cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		MaxNestedLevels:  32,
		MaxArrayElements: 1024,
		MaxMapPairs:      1024,
		BignumTag:        cbor.BignumTagAllowed,
		IntDec:           cbor.IntDecConvertNone,
		TimeTagToAny:     cbor.TimeTagToRFC3339Nano,
	}.DecMode()
	if err != nil {
		panic(err) // the options are constants
	}
	return m
}()

// decodeCBOR reads one map as decodeJSON does an object, its members sorted by name. A byte
// string is in hexadecimal; null and undefined mean that there is no value; a tag says nothing
// about the value in it, but for big numbers, decimal fractions and times.
func decodeCBOR(frame []byte, add func(Reading)) error {
	var m map[any]any
	if err := cborMode.Unmarshal(frame, &m); err != nil || m == nil {
		return errMalformed
	}
	return cborMap(m, "", add)
}

func cborMap(m map[any]any, prefix string, add func(Reading)) error {
	members := make(map[string]any, len(m))
	for key, v := range m {
		name, ok := cborScalar(key)
		if _, twice := members[name]; !ok || twice { // 1 and "1" are two keys of one name
			return errMalformed
		}
		members[name] = v
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if err := cborValue(members[name], prefix+name, add); err != nil {
			return err
		}
	}
	return nil
}

func cborValue(v any, name string, add func(Reading)) error {
	if len(name) > MaxName { // a cut name might be another's
		return errMalformed
	}
	switch v := v.(type) {
	case nil:
		return nil
	case map[any]any:
		return cborMap(v, name+".", add)
	case []any:
		for i, item := range v {
			if err := cborValue(item, name+"."+strconv.Itoa(i), add); err != nil {
				return err
			}
		}
		return nil
	case cbor.Tag:
		if v.Number != decimalFraction {
			return cborValue(v.Content, name, add)
		}
	}
	text, ok := cborScalar(v)
	if !ok {
		return errMalformed
	}
	r := Reading{Name: name, Value: text}
	if _, float := v.(float64); float && notANumber(text) {
		r.Quality = gateway.Bad
	}
	add(r)
	return nil
}

const decimalFraction = 4 // RFC 8949, 3.4.4

// cborScalar is a key or a value as text.
func cborScalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case uint64:
		return strconv.FormatUint(v, 10), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case big.Int:
		return v.String(), true
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return strconv.FormatFloat(v, 'g', -1, 64), true
		}
		return formatFloat(v), true
	case bool:
		return strconv.FormatBool(v), true
	case []byte:
		return hex.EncodeToString(v), true
	case cbor.ByteString: // a byte string as a key
		return hex.EncodeToString(v.Bytes()), true
	case cbor.Tag:
		return cborDecimal(v)
	case cbor.SimpleValue:
		return fmt.Sprint(uint8(v)), true
	}
	return "", false
}

// cborDecimal is a decimal fraction, [exponent, mantissa], with every digit of it.
func cborDecimal(t cbor.Tag) (string, bool) {
	parts, ok := t.Content.([]any)
	if t.Number != decimalFraction || !ok || len(parts) != 2 {
		return "", false
	}
	exponent, ok1 := cborScalar(parts[0])
	mantissa, ok2 := cborScalar(parts[1])
	e, err1 := strconv.Atoi(exponent)
	m, whole := new(big.Int).SetString(mantissa, 10)
	if !ok1 || !ok2 || err1 != nil || !whole || e < -64 || e > 64 || len(mantissa) > 64 {
		return "", false
	}
	scale := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(e, -e))), nil)
	if e >= 0 {
		return m.Mul(m, scale).String(), true
	}
	return new(big.Rat).SetFrac(m, scale).FloatString(-e), true
}
