package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// Serial devices that speak a protocol. What they measure depends on the seed alone; that they
// know what time it is does not, for a gateway takes their word for it.

// number is the value of that name.
func number(values []value, name string) float64 {
	for _, v := range values {
		if v.name == name {
			f, _ := strconv.ParseFloat(v.text, 64)
			return f
		}
	}
	return 0
}

// newGPS is a boat that goes round on a lake.
func newGPS(rng *rand.Rand, day time.Duration) func(time.Duration) []value {
	speed := &signal{base: 4.5, swing: 1, wander: 0.8, noise: 0.1, peak: 0.5, decimals: 2, rng: rng}
	altitude := &signal{base: -1.5, noise: 0.4, decimals: 1, rng: rng}
	satellites := &signal{base: 10, wander: 1.2, decimals: 0, rng: rng}
	round, last := 0.0, time.Duration(0)
	return func(t time.Duration) []value {
		const radius = 600 // m
		knots := speed.positive(t, day)
		round += knots * 1852 / 3600 * (t - last).Seconds() / radius
		last = t
		north, east := radius*math.Sin(round), radius*math.Cos(round)
		return []value{
			{name: "latitude", text: strconv.FormatFloat(52.3302+north/111320, 'f', 7, 64)},
			{name: "longitude", text: strconv.FormatFloat(5.2211+east/68030, 'f', 7, 64)},
			{name: "speed", text: speed.format(knots)},
			{name: "course", text: strconv.FormatFloat(360-math.Mod(round*180/math.Pi, 360), 'f', 1, 64)},
			{name: "altitude", text: altitude.format(altitude.at(t, day))},
			{name: "satellites", text: satellites.format(min(12, max(4, satellites.at(t, day))))},
		}
	}
}

// nmeaLines are RMC and GGA.
func nmeaLines(v []value) string {
	now := time.Now().UTC()
	clock := now.Format("150405.00")
	where := coordinate(number(v, "latitude"), 2, "N", "S") + "," + coordinate(number(v, "longitude"), 3, "E", "W")
	return nmeaSentence(fmt.Sprintf("GPRMC,%s,A,%s,%.2f,%05.1f,%s,,,A", clock, where, number(v, "speed"), number(v, "course"), now.Format("020106"))) +
		nmeaSentence(fmt.Sprintf("GPGGA,%s,%s,1,%02.0f,0.9,%.1f,M,43.1,M,,", clock, where, number(v, "satellites"), number(v, "altitude")))
}

func nmeaSentence(text string) string {
	sum := byte(0)
	for i := range len(text) {
		sum ^= text[i]
	}
	return fmt.Sprintf("$%s*%02X\r\n", text, sum)
}

// coordinate is degrees as degrees and minutes.
func coordinate(v float64, digits int, plus, minus string) string {
	side := plus
	if v < 0 {
		v, side = -v, minus
	}
	minutes := math.Round(v * 60 * 1e5)
	return fmt.Sprintf("%0*d%08.5f,%s", digits, int(minutes/60/1e5), math.Mod(minutes, 60*1e5)/1e5, side)
}

// newP1 is a house with a solar roof and a gas boiler.
func newP1(rng *rand.Rand, day time.Duration) func(time.Duration) []value {
	use := &signal{base: 0.45, swing: 0.3, wander: 0.15, noise: 0.01, peak: 0.8, decimals: 3, rng: rng}
	sun := &signal{base: -0.4, swing: 1.8, wander: 0.1, noise: 0.01, peak: 0.5, decimals: 3, rng: rng}
	voltage := &signal{base: 231, swing: 3, wander: 0.5, noise: 0.2, peak: 0.5, decimals: 1, rng: rng}
	imported, exported, gas, last := 4186.2, 1520.7, 1034.118, time.Duration(0)
	return func(t time.Duration) []value {
		power := use.positive(t, day) + 0.05 - sun.positive(t, day)
		hours := (t - last).Hours()
		last = t
		imported += max(0, power) * hours
		exported += max(0, -power) * hours
		gas += 0.1 * hours
		return []value{
			{name: "power", text: use.format(power)},
			{name: "voltage", text: voltage.format(voltage.at(t, day))},
			{name: "import", text: strconv.FormatFloat(imported, 'f', 3, 64)},
			{name: "export", text: strconv.FormatFloat(exported, 'f', 3, 64)},
			{name: "gas", text: strconv.FormatFloat(gas, 'f', 3, 64)},
		}
	}
}

// telegram is one of DSMR 5.
func telegram(v []value) string {
	now := time.Now()
	power, voltage := number(v, "power"), number(v, "voltage")
	return telegramOf(
		`/WEI5\2SIMULATOR`, "",
		"1-3:0.2.8(50)",
		"0-0:1.0.0("+meterTime(now)+")",
		"0-0:96.1.1(53494D303031)",
		fmt.Sprintf("1-0:1.8.1(%010.3f*kWh)", number(v, "import")),
		"1-0:1.8.2(000812.400*kWh)",
		fmt.Sprintf("1-0:2.8.1(%010.3f*kWh)", number(v, "export")),
		"1-0:2.8.2(000000.000*kWh)",
		"0-0:96.14.0(0001)",
		fmt.Sprintf("1-0:1.7.0(%06.3f*kW)", max(0, power)),
		fmt.Sprintf("1-0:2.7.0(%06.3f*kW)", max(0, -power)),
		"0-0:96.7.21(00004)",
		fmt.Sprintf("1-0:32.7.0(%05.1f*V)", voltage),
		fmt.Sprintf("1-0:31.7.0(%06.2f*A)", math.Abs(power)*1000/voltage),
		"0-1:24.1.0(003)",
		"0-1:96.1.0(47415330303031)",
		fmt.Sprintf("0-1:24.2.1(%s)(%09.3f*m3)", meterTime(now.Truncate(5*time.Minute)), number(v, "gas")),
	)
}

func telegramOf(lines ...string) string {
	text := strings.Join(lines, "\r\n") + "\r\n!"
	crc := uint16(0)
	for i := range len(text) {
		crc ^= uint16(text[i])
		for range 8 {
			low := crc & 1
			crc = crc>>1 ^ 0xa001*low
		}
	}
	return fmt.Sprintf("%s%04X\r\n", text, crc)
}

// meterTime is the time in winter, which a meter may keep all year if it says so.
func meterTime(t time.Time) string {
	return t.In(time.FixedZone("", 3600)).Format("060102150405") + "W"
}

// newDust is a room by a road.
func newDust(rng *rand.Rand, day time.Duration) func(time.Duration) []value {
	fine := &signal{base: 12, swing: 5, wander: 2.5, noise: 0.6, peak: 0.75, decimals: 0, rng: rng}
	return func(t time.Duration) []value {
		pm := fine.positive(t, day)
		return []value{
			{name: "pm1", text: fine.format(pm * 0.65)},
			{name: "pm25", text: fine.format(pm)},
			{name: "pm10", text: fine.format(pm * 1.4)},
		}
	}
}

// pmsFrame is a PMS5003's.
func pmsFrame(v []value) string {
	pm1, pm25, pm10 := number(v, "pm1"), number(v, "pm25"), number(v, "pm10")
	frame := []byte{'B', 'M', 0, 28}
	for _, n := range []float64{pm1, pm25, pm10, pm1, pm25, pm10, 180 * pm1, 52 * pm1, 9 * pm25, pm25, pm10 / 6, pm10 / 12, 0x9700} {
		frame = append(frame, byte(uint16(n)>>8), byte(uint16(n)))
	}
	sum := uint16(0)
	for _, b := range frame {
		sum += uint16(b)
	}
	return string(append(frame, byte(sum>>8), byte(sum)))
}
