package adv

import "slices"

// SwitchBot (OpenWonderLabs/SwitchBotAPI-BLE, and what others found out for newer devices). Service data of fd3d, 0d00 with older
// firmware, comes in the scan response: the device's type, its state, its battery. Manufacturer data of company 0969 has the
// address, a sequence number and the state again.

// switchBot is one type of device. What both places have is read from the service data, which is the one that the
// maker describes.
type switchBot struct {
	model   string
	service []Field
	maker   []Field
	// air is where three bytes of temperature and humidity are in the service data and, if
	// that is too short, in the manufacturer data; 0: nowhere.
	airService, airMaker int
}

var sbBattery = field("battery", "%", 2, "u8", 1).bits(0x7f)

func sbFlag(name string, at int, mask uint64) Field {
	return field(name, "", at, "bool", 0).bits(mask)
}

func sbNot(name string, at int, mask uint64) Field {
	return field(name, "", at, "u8", 0).bits(mask).named(map[string]string{"0": "true", "1": "false"})
}

// sbCover is a position in percent, closed at 100; the byte's highest bit is motion.
func sbCover(name string, at int) []Field {
	return []Field{field(name, "%", at, "u8", 1).bits(0x7f).between(0, 100), sbFlag("moving", at, 0x80)}
}

var sbLock = map[string]string{"0": "locked", "1": "unlocked", "2": "locking", "3": "unlocking", "4": "locking_stopped",
	"5": "unlocking_stopped", "6": "not_fully_locked", "7": "half_locked"}

var (
	sbContact = switchBot{model: "Contact Sensor", service: []Field{
		sbFlag("motion", 1, 0x40), sbBattery, sbFlag("light", 3, 0x01),
		field("opening", "", 3, "u8", 0).bits(0x06).named(map[string]string{"0": "false", "1": "true", "2": "true", "3": "true"}),
		sbFlag("left_open", 3, 0x04), field("button_count", "", 8, "u8", 1).bits(0x0f),
	}, maker: []Field{
		sbFlag("motion", 7, 0x80), sbFlag("light", 7, 0x40), sbFlag("left_open", 7, 0x20),
		field("opening", "", 7, "u8", 0).bits(0x30).named(map[string]string{"0": "false", "1": "true", "2": "true", "3": "true"}),
		field("button_count", "", 12, "u8", 1).bits(0x0f),
	}}
	sbMotion = switchBot{model: "Motion Sensor", service: []Field{
		sbFlag("motion", 1, 0x40), sbBattery, sbFlag("light", 5, 0x02),
	}, maker: []Field{sbFlag("motion", 7, 0x40), sbFlag("light", 7, 0x20)}}
	sbCurtain = switchBot{model: "Curtain", service: slices.Concat([]Field{sbBattery, sbFlag("calibrated", 1, 0x40)}, sbCover("position", 3),
		[]Field{field("light_level", "", 4, "u8", 1).bits(0xf0)}),
		maker: slices.Concat(sbCover("position", 8), []Field{field("light_level", "", 9, "u8", 1).bits(0xf0), field("battery", "%", 12, "u8", 1).bits(0x7f)})}
	sbPlug = switchBot{model: "Plug Mini", maker: []Field{
		field("switch", "", 7, "u8", 0).named(map[string]string{"0": "false", "128": "true"}),
		field("wifi_rssi", "dBm", 9, "u8", -1), field("power", "W", 10, "u16be", 0.1).bits(0x7fff),
	}}
	sbStrip = switchBot{model: "Light Strip", maker: []Field{sbFlag("switch", 7, 0x80), field("brightness", "%", 7, "u8", 1).bits(0x7f)}}
	sbLamp  = switchBot{model: "Ceiling Light", maker: []Field{sbFlag("switch", 10, 0x80), field("brightness", "%", 7, "u8", 1).bits(0x7f),
		field("color_temperature", "K", 8, "u16be", 1)}}
	sbRelay = []Field{sbFlag("switch", 7, 0x80), field("power", "W", 10, "u16be", 1)}
	sbFan   = switchBot{model: "Circulator Fan", maker: []Field{sbFlag("switch", 7, 0x80), sbFlag("oscillating_horizontal", 7, 0x02),
		sbFlag("oscillating_vertical", 7, 0x01), field("battery", "%", 8, "u8", 1).bits(0x7f), field("speed", "%", 9, "u8", 1).bits(0x7f)}}
	sbPurifier = switchBot{model: "Air Purifier", maker: []Field{sbFlag("switch", 7, 0x80), sbFlag("child_lock", 8, 0x02), field("speed", "%", 9, "u8", 1).bits(0x7f),
		field("aqi_level", "", 10, "u8", 0).bits(0x06).named(map[string]string{"0": "excellent", "1": "good", "2": "moderate", "3": "unhealthy"}).when(8, 0x04, 1)}}
	sbVacuum  = switchBot{model: "Vacuum", maker: []Field{field("battery", "%", 12, "u8", 1).between(0, 100), field("work_status", "", 13, "u8", 1).bits(0x3f)}}
	sbVacuumK = switchBot{model: "Vacuum", maker: []Field{field("battery", "%", 8, "u8", 1).bits(0x7f), sbFlag("working", 7, 0x10)}}
	sbLockOld = switchBot{service: []Field{sbBattery}, maker: []Field{sbFlag("calibrated", 7, 0x80),
		field("lock", "", 7, "u8", 0).bits(0x70).named(sbLock), sbFlag("door", 7, 0x04), sbFlag("left_open", 8, 0x20), sbFlag("left_unlocked", 8, 0x10)}}
	sbLockNew = switchBot{maker: []Field{sbFlag("calibrated", 7, 0x80), field("lock", "", 7, "u8", 0).bits(0x78).named(sbLock),
		sbFlag("door", 8, 0x10), field("battery", "%", 9, "u8", 1).bits(0x7f), sbFlag("left_open", 11, 0x80), sbFlag("left_unlocked", 11, 0x40)}}
)

// as is a device under the name of a model.
func (s switchBot) as(model string) switchBot {
	s.model = model
	return s
}

// switchBots are the types by the letter that service data begins with. In pairing mode letters have the other case, which is
// bit 5, so they are found with it set or not.
var switchBots = map[byte]switchBot{
	'T': {model: "Meter", service: []Field{sbBattery}, airService: 3, airMaker: 8},
	'i': {model: "Meter Plus", service: []Field{sbBattery}, airService: 3, airMaker: 8},
	'w': {model: "Indoor/Outdoor Meter", service: []Field{sbBattery}, airService: 3, airMaker: 8},
	'4': {model: "Meter Pro", service: []Field{sbBattery}, airService: 3, airMaker: 8},
	'5': {model: "Meter Pro CO2", service: []Field{sbBattery}, airService: 3, airMaker: 8,
		maker: []Field{field("co2", "ppm", 13, "u16be", 1).between(0, 9999)}},
	'v': {model: "Hub 2", maker: []Field{field("light_level", "", 12, "u8", 1).bits(0x1f)}, airMaker: 13},
	'%': {model: "HubMini Matter", airMaker: 13},
	'd': sbContact,
	's': sbMotion,
	'H': {model: "Bot", service: []Field{sbBattery, sbFlag("switch_mode", 1, 0x80), sbNot("switch", 1, 0x40).when(1, 0x80, 1)}},
	'b': {model: "Remote", service: []Field{sbBattery}},
	'c': sbCurtain,
	'{': sbCurtain.as("Curtain 3"),
	'x': {model: "Blind Tilt", service: []Field{sbBattery}, maker: slices.Concat([]Field{sbFlag("calibrated", 7, 0x01)}, sbCover("tilt", 8),
		[]Field{field("light_level", "", 9, "u8", 1).bits(0xf0)})},
	',': {model: "Roller Shade", service: []Field{sbBattery}, maker: []Field{sbFlag("calibrated", 8, 0x80),
		field("position", "%", 8, "u8", 1).bits(0x7f).between(0, 100), sbFlag("moving", 7, 0x06), field("light_level", "", 9, "u8", 1).bits(0xf0)}},
	'&': {model: "Leak Detector", maker: []Field{field("battery", "%", 7, "u8", 1).bits(0x7f), sbFlag("battery_low", 7, 0x80),
		sbFlag("water_leak", 8, 0x01), sbFlag("tamper", 8, 0x02)}},
	'g': sbPlug,
	'j': sbPlug.as("Plug Mini (JP)"),
	'?': {model: "Plug Mini (EU)", maker: sbRelay},
	'<': {model: "Relay Switch 1PM", maker: sbRelay},
	';': {model: "Relay Switch 1", maker: sbRelay[:1]},
	'=': {model: "Relay Switch 2PM", maker: []Field{sbFlag("switch_1", 7, 0x80), sbFlag("switch_2", 7, 0x40),
		field("power_1", "W", 10, "u16be", 1), field("power_2", "W", 12, "u16be", 1)}},
	'>': {model: "Garage Door Opener", maker: []Field{sbFlag("switch", 7, 0x80), sbNot("garage_door", 7, 0x20)}},
	'u': sbStrip.as("Color Bulb"),
	'r': sbStrip,
	'q': sbLamp,
	'n': sbLamp.as("Ceiling Light Pro"),
	'e': {model: "Humidifier", service: []Field{field("switch", "", 1, "bool", 0), field("level", "", 4, "u8", 1)}},
	'#': {model: "Evaporative Humidifier", maker: []Field{sbFlag("switch", 7, 0x80), sbFlag("child_lock", 8, 0x20), sbFlag("tank_removed", 8, 0x04),
		sbFlag("tilted", 8, 0x02), sbFlag("filter_missing", 8, 0x01), field("filter_run_time", "h", 12, "u16be", 1).bits(0x0fff),
		field("target_humidity", "%", 16, "u8", 1).bits(0x7f)}},
	'o': sbLockOld.as("Lock"),
	'-': {model: "Lock Lite", service: sbLockOld.service, maker: sbLockOld.maker[:2]},
	'$': sbLockNew.as("Lock Pro"),
	'y': {model: "Keypad", service: []Field{sbBattery}, maker: []Field{field("attempt_state", "", 6, "u8", 1)}},
	'~': sbFan,
	'*': sbPurifier,
	'+': sbPurifier,
	'7': sbPurifier.as("Air Purifier Table"),
	'8': sbPurifier.as("Air Purifier Table"),
	'.': sbVacuum.as("K20 Vacuum"),
	'z': sbVacuum.as("S10 Vacuum"),
	'3': sbVacuum.as("K10+ Pro Combo Vacuum"),
	'}': sbVacuumK.as("K10+ Vacuum"),
	'(': sbVacuumK.as("K10+ Pro Vacuum"),
}

// switchBotsLong are newer types, whose letter ran out: the last four bytes of the service data, of which the first is
// the pairing mode.
var switchBotsLong = map[[3]byte]switchBot{
	{0x10, 0xb9, 0x40}: {model: "Hub 3", maker: []Field{field("light_level", "", 12, "u8", 1).bits(0x0f), sbFlag("motion", 16, 0x80)}, airMaker: 13},
	{0x10, 0xa5, 0xb8}: sbLockNew.as("Lock Ultra"),
	{0x10, 0xff, 0x90}: sbLockNew.as("Lock Pro Wi-Fi"),
	{0x10, 0x53, 0xb0}: {model: "Weather Station", maker: []Field{field("battery", "%", 7, "u8", 1).bits(0x7f)}, airMaker: 8},
	{0x10, 0xf3, 0xd8}: {model: "Climate Panel", maker: []Field{sbFlag("switch", 7, 0x80), field("battery", "%", 7, "u8", 1).bits(0x7f),
		sbFlag("motion", 15, 0x80), field("light", "", 15, "u8", 0).bits(0x06).named(map[string]string{"0": "false", "1": "false", "2": "true", "3": "false"})}, airMaker: 8},
	{0x10, 0xcc, 0xc8}: {model: "Presence Sensor", service: []Field{sbBattery}, maker: []Field{sbFlag("motion", 7, 0x40),
		field("duration", "s", 8, "u16be", 1), field("light_level", "", 11, "u8", 1).bits(0x1f)}},
	{0x11, 0x07, 0x60}: sbFan.as("Standing Fan"),
}

func decodeSwitchBot(_ *Decoder, p *packet) (*Result, error) {
	state, ok := p.service(0xfd3d)
	if !ok {
		state, ok = p.service(0x0d00)
	}
	maker, _ := p.company(0x0969)
	if !ok || len(state) < 1 {
		return nil, nil // the manufacturer data does not say what it is
	}
	device, known := switchBots[state[0]&0x7f]
	if !known {
		device, known = switchBots[state[0]&0x7f^0x20]
	}
	if n := len(state); !known && n >= 4 {
		device, known = switchBotsLong[[3]byte(state[n-3:])]
	}
	if !known {
		return nil, malformed("type %#02x", state[0])
	}
	r := newResult(p, "switchbot", device.model)
	if len(maker) >= 6 {
		r.ID = newAddr(maker).ID()
	}
	if len(maker) > 6 {
		r.count(uint32(maker[6]))
	}
	// The bytes in front say nothing, but for a field's place. A field that is there twice counts once.
	r.readings(state, device.service)
	for i := range device.maker {
		if _, twice := r.Reading(device.maker[i].Name); !twice {
			r.readings(maker, device.maker[i:i+1])
		}
	}
	air, ok := []byte(nil), false
	if device.airService > 0 {
		air, ok = bytesAt(state, device.airService, 3)
	}
	if !ok && device.airMaker > 0 {
		air, ok = bytesAt(maker, device.airMaker, 3)
	}
	if ok {
		r.switchBotAir(air)
	}
	if len(r.Readings) == 0 {
		return nil, malformed("%d and %d bytes are too few for a %s", len(state), len(maker), device.model)
	}
	return r, nil
}

// switchBotAir reads tenths in the low half of a byte, a sign (1 is above 0) and whole degrees, and
// the humidity. All are 0 before the first measurement.
func (r *Result) switchBotAir(b []byte) {
	tenths, whole, humidity := int(b[0]&0x0f), int(b[1]&0x7f), b[2]&0x7f
	if tenths > 9 || tenths == 0 && whole == 0 && humidity == 0 {
		return
	}
	x := float64(whole) + float64(tenths)/10
	if b[1]&0x80 == 0 {
		x = -x
	}
	r.number("temperature", x, 1, "°C")
	if humidity <= 100 {
		r.number("humidity", float64(humidity), 0, "%")
	}
}
