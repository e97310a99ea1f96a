package modbus

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
)

// decimal is mant·10^exp. Registers are scaled by powers of ten, which binary fractions
// cannot hold: 2345·0.1 is 234.5 here.
type decimal struct {
	mant *big.Int
	exp  int
}

func integer(mant *big.Int) decimal { return decimal{mant, 0} }

// fromFloat is the shortest decimal that reads back as f, a float of so many bits.
func fromFloat(f float64, bits int) decimal {
	d, err := parseDecimal(strconv.FormatFloat(f, 'e', -1, bits))
	if err != nil {
		panic(err) // callers sort out NaN and infinities
	}
	return d
}

// parseDecimal reads a number as people and JSON write it.
func parseDecimal(s string) (decimal, error) {
	digits, exponent, _ := strings.Cut(strings.ToLower(s), "e")
	exp := 0
	if exponent != "" || strings.ContainsAny(s, "eE") {
		var err error
		if exp, err = strconv.Atoi(exponent); err != nil || exp < -maxExponent || exp > maxExponent {
			return decimal{}, fmt.Errorf("%q is not a number", s)
		}
	}
	whole, frac, _ := strings.Cut(digits, ".")
	text := whole + frac
	if len(text) > maxDigits || strings.TrimLeft(text, "+-0123456789") != "" || strings.LastIndexAny(text, "+-") > 0 {
		return decimal{}, fmt.Errorf("%q is not a number", s)
	}
	mant, ok := new(big.Int).SetString(text, 10)
	if !ok {
		return decimal{}, fmt.Errorf("%q is not a number", s)
	}
	return decimal{mant, exp - len(frac)}, nil
}

const (
	maxExponent = 400 // more than a float64 has
	maxDigits   = 400
)

func (d decimal) times(e decimal) decimal {
	return decimal{new(big.Int).Mul(d.mant, e.mant), d.exp + e.exp}
}

func (d decimal) plus(e decimal) decimal {
	if d.exp < e.exp {
		d, e = e, d
	}
	return decimal{new(big.Int).Add(new(big.Int).Mul(d.mant, pow10(d.exp-e.exp)), e.mant), e.exp}
}

// shift is d·10^n.
func (d decimal) shift(n int) decimal { return decimal{d.mant, d.exp + n} }

func (d decimal) rat() *big.Rat {
	if d.exp >= 0 {
		return new(big.Rat).SetInt(new(big.Int).Mul(d.mant, pow10(d.exp)))
	}
	return new(big.Rat).SetFrac(d.mant, pow10(-d.exp))
}

func (d decimal) float() float64 {
	f, _ := d.rat().Float64()
	return f
}

// String is d as a JSON number, with the decimals it has: 2340·0.1 is 234.0, for that is how
// exactly the device knows it.
func (d decimal) String() string {
	sign, digits := "", new(big.Int).Abs(d.mant).String()
	if d.mant.Sign() < 0 {
		sign = "-"
	}
	switch {
	case d.mant.Sign() == 0 && d.exp >= 0:
		return "0"
	case d.exp > 0 && d.exp > 21-len(digits) || d.exp < -24:
		exp := d.exp + len(digits) - 1
		if len(digits) > 1 {
			digits = digits[:1] + "." + digits[1:]
		}
		return fmt.Sprintf("%s%se%d", sign, digits, exp)
	case d.exp >= 0:
		return sign + digits + strings.Repeat("0", d.exp)
	}
	if short := 1 - d.exp - len(digits); short > 0 {
		digits = strings.Repeat("0", short) + digits
	}
	point := len(digits) + d.exp
	return sign + digits[:point] + "." + digits[point:]
}

func pow10(n int) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil) }
