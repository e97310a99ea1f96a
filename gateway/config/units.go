package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes, written 512KiB, 64MiB, 2GiB or 2GB.
type Size int64

type unit struct {
	name   string
	factor int64
}

var (
	sizeUnits = []unit{
		{"B", 1}, {"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
		{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	}
	durationUnits = []unit{
		{"ms", int64(time.Millisecond)}, {"s", int64(time.Second)}, {"m", int64(time.Minute)},
		{"h", int64(time.Hour)}, {"d", 24 * int64(time.Hour)},
	}
)

// String is the size with the largest unit that divides it.
func (s Size) String() string {
	best := sizeUnits[0]
	for _, u := range sizeUnits {
		if s >= Size(u.factor) && s%Size(u.factor) == 0 && u.factor > best.factor {
			best = u
		}
	}
	return strconv.FormatInt(int64(s)/best.factor, 10) + best.name
}

func parseSize(s string) (Size, error) {
	n, ok := parseUnit(s, sizeUnits)
	if !ok {
		return 0, fmt.Errorf("expected a size such as 512KiB, 64MiB, 2GiB or 2GB")
	}
	return Size(n), nil
}

// ParseDuration reads a duration as it is written in the config: 500ms, 5s, 10m, 2h, 7d.
func ParseDuration(s string) (time.Duration, error) {
	n, ok := parseUnit(s, durationUnits)
	if !ok {
		return 0, fmt.Errorf("expected a duration such as 500ms, 5s, 10m, 2h or 7d")
	}
	return time.Duration(n), nil
}

// parseUnit reads a whole number and a unit, or a bare 0.
func parseUnit(s string, units []unit) (int64, bool) {
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	n, err := strconv.ParseInt(s[:digits], 10, 64)
	if err != nil {
		return 0, false
	}
	if n == 0 && digits == len(s) {
		return 0, true
	}
	for _, u := range units {
		if s[digits:] == u.name {
			return n * u.factor, n <= math.MaxInt64/u.factor
		}
	}
	return 0, false
}

// Share is a part of something in percent, or a size: 5% or 1GiB.
type Share struct {
	Percent float64 // 0: Bytes says it
	Bytes   Size
}

// UnmarshalText reads 5%, 0.5% or a size.
func (s *Share) UnmarshalText(text []byte) error {
	if number, ok := strings.CutSuffix(string(text), "%"); ok {
		percent, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return fmt.Errorf("%q: expected a part such as 5%%, or a size such as 1GiB", text)
		}
		*s = Share{Percent: percent}
		return nil
	}
	size, err := parseSize(string(text))
	if err != nil {
		return fmt.Errorf("%q: expected a part such as 5%%, or a size such as 1GiB", text)
	}
	*s = Share{Bytes: size}
	return nil
}
