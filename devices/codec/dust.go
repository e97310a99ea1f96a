package codec

import (
	"fmt"

	"github.com/weir-iot/weir/gateway"
)

// Particulate sensors. They send by themselves about once a second, 9600 baud, 8N1.

// longest is the payload of the longest telegram of a Plantower sensor, the PMS5003ST's: 17 numbers of 2 bytes. With more
// allowed, noise that looks like a beginning would take the first telegrams behind it for its own.
const longest = 2 * 17

// plantower is the format of the Plantower sensors: 42 4d, the length of what follows and
// numbers of 16 bits, the high byte first; last, the sum of all bytes before (PMS5003 series
// data manual, appendix I; PMS3003 manual, the same). "CF=1" is the mass for standard
// particles, meant for factories; the plain names are for the air outside of them. The
// numbers of particles are those larger than so many µm, in 0.1 L of air.
func plantower(names ...string) (framing, *Format) {
	c := sums["sum16"]
	c.frame = true
	l := &length{start: []byte("BM"), size: 2, big: true, check: &c}
	l.count("rest", longest)
	var fields []field
	for i, name := range names {
		if name == "" {
			continue
		}
		unit := "µg/m³"
		if name[0] == 'n' {
			unit = "1/0.1L"
		}
		fields = append(fields, field{name: name, offset: 2 * i, size: 2, kind: 'u', big: true, unit: unit})
	}
	f := &Format{}
	f.layout(fields)
	read := f.decode
	f.decode = func(frame []byte, add func(Reading)) error {
		switch len(frame) {
		case 2: // its answer to a command
			return nil
		case 2 * len(names):
			return read(frame, add)
		}
		return errMalformed // another sensor's
	}
	return framing{start: func() cutting { return &scanner{cut: l.cut, max: l.max} }, binary: true}, f
}

func pms3003() (framing, *Format) {
	return plantower("pm1_cf1", "pm25_cf1", "pm10_cf1", "pm1", "pm25", "pm10", "", "", "")
}

// pms5003 is also the PMS7003 and the PMSA003. The low byte of its last number is an error
// code.
func pms5003() (framing, *Format) {
	framing, f := plantower("pm1_cf1", "pm25_cf1", "pm10_cf1", "pm1", "pm25", "pm10",
		"n0_3", "n0_5", "n1_0", "n2_5", "n5_0", "n10_0", "")
	read := f.decode
	f.decode = func(frame []byte, add func(Reading)) error {
		return read(frame, func(r Reading) {
			if frame[len(frame)-1] != 0 {
				r.Quality = gateway.Uncertain
			}
			add(r)
		})
	}
	return framing, f
}

// sds011 is the format of Nova Fitness' sensor: aa, a command, six bytes, the sum of these, ab
// (Laser Dust Sensor Control Protocol V1.3). Command c0 is a measurement: PM2.5 and PM10 in
// 0.1 µg/m³, the low byte first, and the sensor's id; c5 is its answer to a command.
func sds011() (framing, *Format) {
	const size = 10
	cut := func(p []byte) (int, []byte, string) {
		n, _ := begin(p, []byte{0xaa})
		switch {
		case n > 0:
			return n, nil, Noise
		case len(p) < size:
			return 0, nil, ""
		case p[1] != 0xc0 && p[1] != 0xc5 || p[size-1] != 0xab:
			return 1, nil, Noise
		case byte(sum16(p[2:8])) != p[8]:
			return 1, p[:size], Checksum
		}
		return size, p[:size], ""
	}
	f := &Format{binary: true, typed: true, fixed: []string{"pm10", "pm25"}, units: map[string]string{"pm10": "µg/m³", "pm25": "µg/m³"}}
	f.decode = func(p []byte, add func(Reading)) error {
		if p[1] != 0xc0 {
			return nil
		}
		for i, name := range []string{"pm25", "pm10"} {
			n := int(p[2+2*i]) | int(p[3+2*i])<<8
			add(Reading{Name: name, Value: fmt.Sprintf("%d.%d", n/10, n%10), Unit: f.units[name]})
		}
		return nil
	}
	return framing{start: func() cutting { return &scanner{cut: cut, max: size} }, binary: true}, f
}
