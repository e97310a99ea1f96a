package adv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

var sensor = Addr{0x54, 0x48, 0xe6, 0x8f, 0x80, 0xa5}

// heard is an advertisement of one service's data from sensor.
func heard(uuid uint16, parts ...[]byte) Report {
	data := slices.Concat(parts...)
	return Report{Addr: sensor, TxPower: NoPower, RSSI: -60, Data: structure(adService16, []byte{byte(uuid), byte(uuid >> 8)}, data)}
}

// made is one of a maker's data.
func made(id uint16, data []byte) Report {
	return Report{Addr: sensor, TxPower: NoPower, RSSI: -60, Data: structure(adManufacturer, []byte{byte(id), byte(id >> 8)}, data)}
}

// with adds structures to an advertisement.
func (r Report) with(structures ...[]byte) Report {
	r.Data = slices.Concat(append(structures, r.Data)...)
	return r
}

func decoder(t testing.TB, keys map[Addr][]byte, tables ...Table) *Decoder {
	t.Helper()
	d, err := New(keys, tables)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// show writes a result down: the format, the model, the id if it is not the sensor's address, the counter, and the readings.
func show(results []Result, err error) string {
	var out []string
	for _, r := range results {
		s := r.Format
		if r.Model != "" {
			s += " " + r.Model
		}
		if r.ID != sensor.ID() {
			s += " id=" + r.ID
		}
		if r.HasCounter {
			s += fmt.Sprintf(" #%d", r.Counter)
		}
		for _, v := range r.Readings {
			s += " " + v.Name + "=" + strings.ReplaceAll(v.Value, " ", "_") + v.Unit
		}
		out = append(out, s)
	}
	if err != nil {
		out = append(out, "error: "+err.Error())
	}
	return strings.Join(out, "\n")
}

// What the formats' own documents say, and what the vectors do not have.
func TestFormats(t *testing.T) {
	govee := structure(adName, []byte("GVH5124_1234"))
	for _, tt := range []struct {
		name   string
		report Report
		want   string
	}{
		// bthome.io/format, the tables: an id that no vector has, invalid events, and several of a kind.
		{"BTHome 0x5c 0x62 0x63", heard(0xfcd2, unhex(t, "405c02fbffff62a0860100634e7ffeff")), "bthome_v2 power=-12.78W speed=0.100000m/s acceleration=-0.098482m/s²"},
		{"BTHome 0x61", heard(0xfcd2, unhex(t, "4061ac0d")), "bthome_v2 rotational_speed=3500rpm"},
		{"BTHome firmware and device", heard(0xfcd2, unhex(t, "40f00100f100010204f2000106")), "bthome_v2 device_type_id=0001 firmware_1=4.2.1.0 firmware_2=6.1.0"},
		{"BTHome negative", heard(0xfcd2, unhex(t, "4002f6ff3f00805800")), "bthome_v2 temperature_1=-0.10°C rotation=-3276.8° temperature_2=0.00°C"},
		{"BTHome all presses", heard(0xfcd2, unhex(t, "403a013a023a033a043a053a063a80")), "bthome_v2 button_1=press button_2=double_press button_3=triple_press button_4=long_press button_5=long_double_press button_6=long_triple_press button_7=hold_press"},
		{"BTHome nothing was pressed", heard(0xfcd2, unhex(t, "4000073a00")), "bthome_v2 #7"},
		{"BTHome dimmer", heard(0xfcd2, unhex(t, "403c0000")), "bthome_v2"},
		{"BTHome dimmers", heard(0xfcd2, unhex(t, "403c00003c0205")), "bthome_v2 dimmer_2=rotate_right dimmer_2_steps=5"},
		{"BTHome event that is reserved", heard(0xfcd2, unhex(t, "403a77")), "error: bthome_v2: malformed: no object that is known and whole"},
		{"BTHome cut short", heard(0xfcd2, unhex(t, "4002ca0903bf")), "bthome_v2 temperature=25.06°C"},
		{"BTHome only cut short", heard(0xfcd2, unhex(t, "4002ca")), "error: bthome_v2: malformed: no object that is known and whole"},
		{"BTHome text longer than the packet", heard(0xfcd2, unhex(t, "40015d530548")), "bthome_v2 battery=93%"},
		{"BTHome text without length", heard(0xfcd2, unhex(t, "40015d53")), "bthome_v2 battery=93%"},
		{"BTHome version 1 in version 2", heard(0xfcd2, unhex(t, "2002ca09")), "error: bthome_v2: malformed: version 1"},
		{"BTHome empty", heard(0xfcd2), "error: bthome_v2: malformed: no device information"},
		{"BTHome address cut short", heard(0xfcd2, unhex(t, "42a5808f")), "error: bthome_v2: malformed: its address is cut short"},
		{"BTHome without key", heard(0xfcd2, unhex(t, "41a47266c95f730011223378237214")), "bthome_v2\nerror: bthome_v2: encrypted, and the device has no key here"},
		{"BTHome too short to be encrypted", heard(0xfcd2, unhex(t, "41a47266c95f7300")), "error: bthome_v2: malformed: 7 bytes are too few to be encrypted"},
		{"BTHome v1", heard(0x181c, unhex(t, "0200a82302ca090303bf13")), "bthome_v1 #168 temperature=25.06°C humidity=50.55%"},
		{"BTHome v1 nothing known", heard(0x181c, unhex(t, "02ff01")), "error: bthome_v1: malformed: no object that is known and whole"},

		// docs.ruuvi.com, "test vectors" of data formats 3, 4, 6, c5 and e1.
		{"Ruuvi 3", made(ruuviCompany, unhex(t, "03291a1ece1efc18f94202ca0b53")), "ruuvi_rawv1 RuuviTag humidity=20.5% temperature=26.30°C pressure=1027.66hPa acceleration_x=-1.000g acceleration_y=-1.726g acceleration_z=0.714g voltage=2.899V"},
		{"Ruuvi 3 minimum", made(ruuviCompany, unhex(t, "0300ff6300008001800180010000")), "ruuvi_rawv1 RuuviTag humidity=0.0% temperature=-127.99°C pressure=500.00hPa acceleration_x=-32.767g acceleration_y=-32.767g acceleration_z=-32.767g voltage=0.000V"},
		{"Ruuvi 3 cut short", made(ruuviCompany, unhex(t, "03291a1ece1efc18f94202ca0b")), "error: ruuvi: malformed: format 3 is longer than 13 bytes"},
		{"Ruuvi 6", made(ruuviCompany, unhex(t, "06170c5668c79e007000c90501d9ffcd004c884f")), "ruuvi_6 Ruuvi Air #205 temperature=29.500°C humidity=55.3000% pressure=1011.02hPa pm25=11.2µg/m³ co2=201ppm voc_index=10 nox_index=2 calibrating=false illuminance=13026.67lx"},
		{"Ruuvi 6 invalid", made(ruuviCompany, unhex(t, "068000ffffffffffffffffffffffffffffffffff")), "ruuvi_6 Ruuvi Air #255 calibrating=true"},
		{"Ruuvi e1", made(ruuviCompany, unhex(t, "e1170c5668c79e0065007004bd11ca00c90a0213e0acffffffdecdee01ffffffffffcbb8334c884f")), "ruuvi_e1 Ruuvi Air id=cbb8334c884f #14601710 temperature=29.500°C humidity=55.3000% pressure=1011.02hPa pm1=10.1µg/m³ pm25=11.2µg/m³ pm4=121.3µg/m³ pm10=455.4µg/m³ co2=201ppm illuminance=13027.00lx voc_index=20 nox_index=4 calibrating=true"},
		{"Ruuvi e1 invalid", made(ruuviCompany, unhex(t, "e18000ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff")[:40]), "ruuvi_e1 Ruuvi Air calibrating=true"},
		{"Ruuvi c5", made(ruuviCompany, unhex(t, "c512fc5394c37cac364200cdcbb8334c884f")), "ruuvi_c5 RuuviTag id=cbb8334c884f #205 temperature=24.300°C humidity=53.4900% pressure=1000.44hPa voltage=2.977V tx_power=4dBm movement_counter=66 sequence=205"},
		{"Ruuvi c5 invalid", made(ruuviCompany, unhex(t, "c58000ffffffffffffffffffffffffffffff")), "ruuvi_c5 RuuviTag"},

		// google/eddystone.
		{"Eddystone UID", heard(0xfeaa, unhex(t, "00ee"+"00112233445566778899"+"aabbccddeeff"+"0000")), "eddystone_uid Eddystone id=eddystone-00112233445566778899-aabbccddeeff tx_power=-18dBm namespace=00112233445566778899 instance=aabbccddeeff"},
		{"Eddystone UID without reserved bytes", heard(0xfeaa, unhex(t, "0012"+"00112233445566778899"+"aabbccddeeff")), "eddystone_uid Eddystone id=eddystone-00112233445566778899-aabbccddeeff tx_power=18dBm namespace=00112233445566778899 instance=aabbccddeeff"},
		{"Eddystone UID cut short", heard(0xfeaa, unhex(t, "00ee"+"00112233445566778899"+"aabbccddee")), "error: eddystone: malformed: a UID frame has 20 bytes, this one 17"},
		{"Eddystone URL", heard(0xfeaa, unhex(t, "10ee03676f6f2e676c2f53367a543650")), "eddystone_url Eddystone tx_power=-18dBm url=https://goo.gl/S6zT6P"},
		{"Eddystone URL expanded", heard(0xfeaa, unhex(t, "10f8016578616d706c650061")), "eddystone_url Eddystone tx_power=-8dBm url=https://www.example.com/a"},
		{"Eddystone URL with a reserved byte", heard(0xfeaa, unhex(t, "10f801650e61")), "error: eddystone: malformed: the URL has a byte 0x0e, which is reserved"},
		{"Eddystone URL scheme", heard(0xfeaa, unhex(t, "10f80465")), "error: eddystone: malformed: URL scheme 0x04"},
		{"Eddystone URL too long", heard(0xfeaa, unhex(t, "10f803"+strings.Repeat("61", 18))), "error: eddystone: malformed: a URL of 19 bytes"},
		{"Eddystone TLM", heard(0xfeaa, unhex(t, "20000bb81980000000670000012c")), "eddystone_tlm Eddystone #103 voltage=3.000V temperature=25.500°C adv_count=103 uptime=30.0s"},
		{"Eddystone TLM not supported", heard(0xfeaa, unhex(t, "200000008000000000670000012c")), "eddystone_tlm Eddystone #103 adv_count=103 uptime=30.0s"},
		{"Eddystone TLM cut short", heard(0xfeaa, unhex(t, "20000bb8198000000067000001")), "error: eddystone: malformed: a TLM frame has 14 bytes, this one 13"},
		{"Eddystone EID", heard(0xfeaa, unhex(t, "30ee0011223344556677")), "eddystone_eid Eddystone tx_power=-18dBm eid=0011223344556677"},
		{"Eddystone frame type", heard(0xfeaa, unhex(t, "40ee")), "error: eddystone: malformed: frame type 0x40"},

		{"iBeacon cut short", made(0x004c, unhex(t, "0215e2c56db5dffb48d2b060d0f5a71096e000640000")), "error: ibeacon: malformed: an iBeacon has 23 bytes, this one 22"},
		{"another message of Apple", made(0x004c, unhex(t, "10054b1c8a2f3c")), "error: unknown format"},
		{"AltBeacon cut short", made(0x0118, unhex(t, "beacd3162f5af3ee494799db09756062d0fc005a0005c4")), "error: altbeacon: malformed: an AltBeacon has 24 bytes, this one 23"},
		{"what Govee adds for its app", made(0x004c, unhex(t, "0215494e54454c4c495f524f434b535f48575075f2ffc2")), "error: unknown format"},

		// MiBeacon v5: I/O capability has two bytes, and is there if bit 5 of the capability is set.
		{"MiBeacon with I/O capability", heard(0xfe95, unhex(t, "60505b0507"+"28"+"0100"+"041002c400")), "mibeacon LYWSD03MMC #7 temperature=19.6°C"},
		{"MiBeacon without an object", heard(0xfe95, unhex(t, "30585b0507"+"a5808fe64854"+"08")), "mibeacon LYWSD03MMC #7"},
		{"MiBeacon of another", heard(0xfe95, unhex(t, "50505b0507"+"a6808fe64854"+"041002c400")), "error: mibeacon: malformed: it is from 54:48:E6:8F:80:A5 and says 54:48:E6:8F:80:A6"},
		{"MiBeacon below zero", heard(0xfe95, unhex(t, "40505b0507"+"041002f6ff")), "mibeacon LYWSD03MMC #7 temperature=-1.0°C"},
		{"MiBeacon two objects", heard(0xfe95, unhex(t, "40505b0507"+"0a100163"+"061002c800")), "mibeacon LYWSD03MMC #7 battery=99% humidity=20.0%"},
		{"MiBeacon unknown object", heard(0xfe95, unhex(t, "40505b0507"+"ff7f0163"+"061002c800")), "mibeacon LYWSD03MMC #7 humidity=20.0%"},
		{"MiBeacon object of another length", heard(0xfe95, unhex(t, "40505b0507"+"061001c8")), "mibeacon LYWSD03MMC #7"},
		{"MiBeacon object cut short", heard(0xfe95, unhex(t, "40505b0507"+"061002c8")), "mibeacon LYWSD03MMC #7\nerror: mibeacon: malformed: no whole object"},
		{"MiBeacon of an unknown model", heard(0xfe95, unhex(t, "4050ffff07"+"061002c800")), "mibeacon MiBeacon FFFF #7 humidity=20.0%"},
		{"MiBeacon occupancy", heard(0xfe95, unhex(t, "4050fb5007"+"4e480102")), "mibeacon ES3 #7 occupancy=true"},
		{"MiBeacon occupancy of XMOSB01XS", heard(0xfe95, unhex(t, "4050834607"+"4e480102")), "mibeacon XMOSB01XS #7 occupancy=false"},
		{"MiBeacon mesh", heard(0xfe95, unhex(t, "c0505b0507")), "error: mibeacon: malformed: a mesh frame"},
		{"MiBeacon version 1", heard(0xfe95, unhex(t, "40105b0507")), "error: mibeacon: malformed: version 1"},
		{"MiBeacon remote", heard(0xfe95, unhex(t, "4030530107"+"011003030002")), "mibeacon YLYK01YL #7 key=plus button=long_press"},
		{"MiBeacon wall switch", heard(0xfe95, unhex(t, "4030fd0d07"+"011003050001")), "mibeacon K9B-3BTN #7 button_left=long_press button_right=long_press"},
		{"MiBeacon lock", heard(0xfe95, unhex(t, "40309f0607"+"0b0009a300000380509d3961")), "mibeacon ZNMS17LM #7 antilock=false action=antilock_off method=manual key_id=0 timestamp=1631165776s"},
		{"MiBeacon lock error", heard(0xfe95, unhex(t, "4030390e07"+"0b00091f0300dec0509d3961")), "mibeacon XMZNMS08LM #7 unlocked=true action=abnormal method=password error=picked timestamp=1631165776s"},
		{"MiBeacon scale", heard(0xfe95, unhex(t, "4050d53b07"+"166e0901"+"ef923a01"+"00000000")), "mibeacon MJTZC01YM #7 profile_id=1 mass=75.1kg heart_rate=132bpm impedance=7.8Ω"},

		// custom_beacon.h: with the flags left out, and another use of the UUID.
		{"ATC custom without flags", heard(0x181a, unhex(t, "a5808fe64854"+"f6ff"+"6911"+"b60b"+"58"+"f7")), "atc ATC #247 temperature=-0.10°C humidity=44.57% voltage=2.998V battery=88%"},
		{"ATC flags", heard(0x181a, unhex(t, "a5808fe64854"+"a906"+"6911"+"b60b"+"58"+"f7"+"02")), "atc ATC #247 temperature=17.05°C humidity=44.57% voltage=2.998V battery=88% opening=false switch=true"},
		{"another use of environmental sensing", heard(0x181a, unhex(t, "01020304")), "error: unknown format"},

		{"Qingping door", heard(0xfdcd, unhex(t, "0804"+"a5808fe64854"+"040102")), "qingping CGH1 door=true door_left_open=true"},
		{"Qingping cut short", heard(0xfdcd, unhex(t, "0807"+"a5808fe64854"+"0104ca004502"+"0202")), "qingping CGG1 temperature=20.2°C humidity=58.1%"},
		{"Qingping light above 16 bits", heard(0xfdcd, unhex(t, "0812"+"a5808fe64854"+"080401000001")), "qingping CGPR1 motion=true illuminance=65536lx"},
		{"Qingping model", heard(0xfdcd, unhex(t, "08ee"+"a5808fe64854"+"020102")), "error: qingping: malformed: model 0xee"},

		{"b-parasite version 2", heard(0x181a, unhex(t, "200b0aa1f63c8000ffffa5808fe64854")), "bparasite b-parasite #11 voltage=2.721V temperature=-25.00°C humidity=50.000% moisture=99.998%"},

		{"SwitchBot meter without manufacturer data", heard(0xfd3d, unhex(t, "54006405189e")), "switchbot Meter battery=100% temperature=-24.5°C humidity=30%"},
		{"SwitchBot meter before its first measurement", heard(0xfd3d, unhex(t, "540064000080")), "switchbot Meter battery=100%"},
		{"SwitchBot bot", heard(0xfd3d, unhex(t, "4880e4")), "switchbot Bot battery=100% switch_mode=true switch=true"},
		{"SwitchBot contact", heard(0xfd3d, unhex(t, "64405b020000000003")), "switchbot Contact Sensor motion=true battery=91% light=false opening=true left_open=false button_count=3"},
		{"SwitchBot contact in pairing mode", heard(0xfd3d, unhex(t, "44405b000000000003")), "switchbot Contact Sensor motion=true battery=91% light=false opening=false left_open=false button_count=3"},
		{"SwitchBot outdoor meter", heard(0xfd3d, unhex(t, "770064")).with(structure(adManufacturer, unhex(t, "6909"+"5448e68f80a5"+"1b0304992c00"))), "switchbot Indoor/Outdoor Meter #27 battery=100% temperature=25.4°C humidity=44%"},
		{"SwitchBot CO2", heard(0xfd3d, unhex(t, "350064")).with(structure(adManufacturer, unhex(t, "6909"+"5448e68f80a5"+"1b0304992c000002ee00"))), "switchbot Meter Pro CO2 #27 battery=100% co2=750ppm temperature=25.4°C humidity=44%"},
		{"SwitchBot unknown", heard(0xfd3d, unhex(t, "010064")), "error: switchbot: malformed: type 0x01"},
		{"SwitchBot too short", heard(0xfd3d, unhex(t, "54")), "error: switchbot: malformed: 1 and 0 bytes are too few for a Meter"},

		{"Govee sensor failed", made(0xec88, unhex(t, "0003215de400")), "govee H5072/H5075 battery=100%"},
		{"Govee out of range", made(0xec88, unhex(t, "00"+"0f4240"+"6400")), "govee H5072/H5075 temperature=100.0°C humidity=0.0% battery=100%"},
		{"Govee above the range", made(0xec88, unhex(t, "00"+"0f4628"+"6400")), "govee H5072/H5075 humidity=0.0% battery=100%"},
		{"Govee H5074 below zero", made(0xec88, unhex(t, "00f6ff78116402")), "govee H5074 temperature=-0.10°C humidity=44.72% battery=100%"},
		{"Govee H5140", made(0x0001, unhex(t, "0101"+"03a00f"+"02ee"+"00")).with(structure(adName, []byte("GV5140ABCD"))), "govee H5140 temperature=23.7°C humidity=58.3% co2=750ppm"},
		{"Govee probe out", made(0x67dd, unhex(t, "a1b401000101e400"+"ffff"+"ffff"+"0000")), "govee H5183"},
		{"Govee vibration", made(0x8843, goveeSwitch(t, "01030902640100000000000000000000")).with(govee), "govee_switch H5124 #287454020 battery=100% vibration=true"},
		{"Govee button", made(0x8843, goveeSwitch(t, "01010b02640100000000000000000000")), "govee_switch H5126 #287454020 battery=100% button_1=press"},
		{"Govee window", made(0x8843, goveeSwitch(t, "01050202640200000000000000000000")), "govee_switch H5123 #287454020 battery=100% window=true"},

		{"Inkbird probe unplugged", made(0, unhex(t, "0000"+"a5808fe64854"+"f6ffffff")).with(structure(adName, []byte("iBBQ"))), "inkbird_bbq iBBQ-2"},
		{"Inkbird probe below zero", made(0, unhex(t, "0000"+"a5808fe64854"+"ceff0000")).with(structure(adName, []byte("iBBQ"))), "inkbird_bbq iBBQ-2 temperature_probe_1=-5.0°C temperature_probe_2=0.0°C"},
		{"Inkbird nonsense", made(0x089c, unhex(t, "ffff00ba4eff08")).with(structure(adName, []byte("sps"))), "inkbird IBS-TH temperature=22.04°C"},

		{"ThermoPro has nothing yet", made(0xffc2, unhex(t, "ffff022c")).with(structure(adName, []byte("TP357S (2A01)"))), "thermopro TP357S battery=100% battery_low=false"},
		{"ThermoPro below zero", made(0xf6c2, unhex(t, "ff30002c")).with(structure(adName, []byte("TP359 (0C87)"))), "thermopro TP359 temperature=-1.0°C humidity=48% battery=1% battery_low=true"},
		{"ThermoPro meat", made(0x4501, unhex(t, "00f90a3500")).with(structure(adName, []byte("TP960R (0000)"))), "thermopro TP960 temperature_probe_2=39°C temperature_ambient_2=23°C voltage_probe_2=2.809V"},

		{"Tilt Pro", made(0x004c, unhex(t, "0215a495bb30c5b14b44b5121370f02d74de"+"02a827c5"+"c5")), "tilt Tilt Black id=tilt-black temperature=20.0°C gravity=1.0181 tx_power=-59dBm"},
		{"Tilt that is switched on", made(0x004c, unhex(t, "0215a495bb30c5b14b44b5121370f02d74de"+"03e703ee"+"c5")), "tilt Tilt Black id=tilt-black"},
		{"Jinou below zero", made(0x1201, unhex(t, "07003602640000000000a5")).with(structure(adUUIDs16+1, []byte{0x20, 0xaa})), "jinou BEC07-5 temperature=-18.7°C humidity=54.2%"},
		{"Jinou nonsense", made(0x1201, unhex(t, "77003602640000000000a5")).with(structure(adUUIDs16+1, []byte{0x20, 0xaa})), "error: jinou: malformed: a fraction of 119 or 2"},
		{"EYE cut short", made(0x089a, unhex(t, "01b7"+"08b412")), "error: teltonika: malformed: an EYE frame that is cut short"},
		{"EYE with a low battery", made(0x089a, unhex(t, "0141"+"ff38")), "teltonika EYE sensor temperature=-2.00°C battery_low=true"},
		{"Sensirion air", made(0x06d5, unhex(t, "001a"+"1234"+"0080"+"0080"+"9001"+"6400"+"0100"+"7b00")), "sensirion Sensirion gadget temperature=42.501°C humidity=50.001% co2=400ppm voc_index=100 nox_index=1 pm25=12.3µg/m³"},
		{"Sensirion sample that is cut short", made(0x06d5, unhex(t, "001a"+"1234"+"0080"+"0080")), "error: unknown format"},
		{"Mi scale in pounds", heard(0x181d, unhex(t, "21204e"+"00000000000000")), "miscale Mi Scale V1 mass_non_stabilized=200.00lb mass=200.00lb stabilized=true weight_removed=false"},
		{"Mi scale with impedance", heard(0x181b, unhex(t, "0226"+"b2070101120f11"+"f401"+"a038")), "miscale Mi Scale V2 mass_non_stabilized=72.480kg mass=72.480kg stabilized=true weight_removed=false impedance=500Ω"},
		{"nothing", Report{}, "error: unknown format"},
	} {
		if got := show(decoder(t, nil).Decode(tt.report)); got != tt.want {
			t.Errorf("%s (%x):\n got %s\nwant %s", tt.name, tt.report.Data, got, tt.want)
		}
	}
}

// goveeSwitch seals what a switch says, with the time 11223344.
func goveeSwitch(t *testing.T, open string) []byte {
	t.Helper()
	key := append(unhex(t, "11223344"), make([]byte, 12)...)
	slices.Reverse(key)
	c, err := newCCM(key, 4)
	if err != nil {
		t.Fatal(err)
	}
	sealed := unhex(t, open)
	slices.Reverse(sealed)
	c.block.Encrypt(sealed, sealed)
	slices.Reverse(sealed)
	return slices.Concat([]byte{0, 0}, unhex(t, "11223344"), sealed, binary.BigEndian.AppendUint16(nil, goveeCRC(sealed)))
}

var bindKey = "231d39c1d7cc1ab1aee224cd096db932"

// bthomeSealed is a BTHome packet with that counter.
func bthomeSealed(t testing.TB, key string, counter uint32, objects string) Report {
	count := binary.LittleEndian.AppendUint32(nil, counter)
	sealed := seal(t, unhex(t, key), slices.Concat(sensor[:], []byte{0xd2, 0xfc, 0x41}, count), unhex(t, objects), nil, 4)
	return heard(0xfcd2, []byte{0x41}, sealed[:len(sealed)-4], count, sealed[len(sealed)-4:])
}

// bthome.io/encryption, the example: what seals here seals as the document does.
func TestBTHomeEncryption(t *testing.T) {
	d := decoder(t, map[Addr][]byte{sensor: unhex(t, bindKey)})
	r := bthomeSealed(t, bindKey, 0x33221100, "02ca0903bf13")
	if want := heard(0xfcd2, unhex(t, "41a47266c95f730011223378237214")); !slices.Equal(r.Data, want.Data) {
		t.Errorf("%x, and the document has %x", r.Data, want.Data)
	}
	if got := show(d.Decode(r)); got != "bthome_v2 #857870592 temperature=25.06°C humidity=50.55%" {
		t.Error(got)
	}
}

// Counters go up. What was heard before, or is made up, changes nothing.
func TestReplay(t *testing.T) {
	for _, format := range []struct {
		name   string
		report func(counter uint32, battery byte) Report
	}{
		{"bthome_v2", func(counter uint32, battery byte) Report {
			return bthomeSealed(t, bindKey, counter, fmt.Sprintf("01%02x", battery))
		}},
		{"bthome_v1", func(counter uint32, battery byte) Report {
			count := binary.LittleEndian.AppendUint32(nil, counter)
			sealed := seal(t, unhex(t, bindKey), slices.Concat(sensor[:], []byte{0x1e, 0x18}, count), []byte{2, 1, battery}, []byte{0x11}, 4)
			return heard(0x181e, sealed[:len(sealed)-4], count, sealed[len(sealed)-4:])
		}},
		{"mibeacon", func(counter uint32, battery byte) Report {
			count := binary.LittleEndian.AppendUint32(nil, counter)
			head := slices.Concat(unhex(t, "48585b05"), count[:1])
			sealed := seal(t, unhex(t, bindKey), slices.Concat(sensor.reversed(), head[2:], count[1:]), []byte{0x0a, 0x10, 1, battery}, []byte{0x11}, 4)
			return heard(0xfe95, head, sealed[:len(sealed)-4], count[1:], sealed[len(sealed)-4:])
		}},
	} {
		t.Run(format.name, func(t *testing.T) {
			d := decoder(t, map[Addr][]byte{sensor: unhex(t, bindKey)})
			step := func(counter uint32, battery byte, want error) {
				t.Helper()
				results, err := d.Decode(format.report(counter, battery))
				if len(results) != 1 || results[0].Format != format.name {
					t.Fatalf("%+v, %v", results, err)
				}
				got, ok := results[0].Reading("battery")
				if !errors.Is(err, want) || ok != (want == nil) || ok && (got.Value != fmt.Sprint(battery) || !results[0].Encrypted) {
					t.Errorf("counter %d: %s", counter, show(results, err))
				}
			}
			step(0x1000, 50, nil)
			step(0x1000, 50, nil)       // sent several times
			step(0x1000, 51, ErrReplay) // the same counter, but something else
			step(0x1001, 51, nil)
			step(0x1000, 50, ErrReplay)
			step(0x0fff, 50, ErrReplay)
			step(0, 50, ErrReplay)
			step(0x01000000, 52, nil)

			// Somebody without the key sends the highest counter: it is not believed.
			forged := format.report(0xffffffff, 99)
			forged.Data[len(forged.Data)-1] ^= 1
			if results, err := d.Decode(forged); !errors.Is(err, ErrKey) || len(results) != 1 || len(results[0].Readings) != 0 {
				t.Errorf("forged: %s", show(results, err))
			}
			step(0x01000001, 53, nil)

			d.Forget(sensor)
			step(1, 54, nil)
			step(0, 50, ErrReplay)
			if _, err := decoder(t, map[Addr][]byte{sensor: make([]byte, 16)}).Decode(format.report(1, 50)); !errors.Is(err, ErrKey) {
				t.Errorf("with another key: %v", err)
			}
			if _, err := decoder(t, nil).Decode(format.report(1, 50)); !errors.Is(err, ErrNoKey) {
				t.Errorf("without a key: %v", err)
			}
		})
	}
}

// Who has a key is not believed without it.
func TestPlainWithKey(t *testing.T) {
	d := decoder(t, map[Addr][]byte{sensor: unhex(t, bindKey)})
	for name, r := range map[string]Report{
		"bthome_v2":              heard(0xfcd2, unhex(t, "40015d")),
		"bthome_v2 with address": heard(0xfcd2, unhex(t, "42a5808fe6485401"+"5d")),
		"bthome_v1":              heard(0x181c, unhex(t, "0201"+"5d")),
		"mibeacon":               heard(0xfe95, unhex(t, "40505b0507"+"061002c800")),
		"atc":                    heard(0x181a, unhex(t, "a5808fe64854"+"a906"+"6911"+"b60b"+"58"+"f7")),
	} {
		results, err := d.Decode(r)
		if !errors.Is(err, ErrPlain) || len(results) != 1 || len(results[0].Readings) != 0 {
			t.Errorf("%s: %s", name, show(results, err))
		}
	}
	// Somebody else who says he is the one with the key.
	other := heard(0xfcd2, unhex(t, "42a5808fe6485401"+"5d"))
	other.Addr = Addr{1}
	if _, err := d.Decode(other); !errors.Is(err, ErrPlain) {
		t.Error(err)
	}
}

// ATC's encryption of the atc1441 format (custom_beacon.c, atc_encrypt_data_beacon).
func TestATC1441Encrypted(t *testing.T) {
	head := []byte{11, adService16, 0x1a, 0x18, 0x2a}
	nonce := slices.Concat(sensor.reversed(), head)
	sealed := seal(t, unhex(t, bindKey), nonce, []byte{125, 91, 0x80 | 77}, []byte{0x11}, 4)
	d := decoder(t, map[Addr][]byte{sensor: unhex(t, bindKey)})
	if got := show(d.Decode(heard(0x181a, head[4:], sealed))); got != "atc ATC #42 temperature=22.5°C humidity=45.5% battery=77% switch=true" {
		t.Error(got)
	}
	sealed[0] ^= 1
	if _, err := d.Decode(heard(0x181a, head[4:], sealed)); !errors.Is(err, ErrKey) {
		t.Error(err)
	}
}

// MiBeacon up to version 3 has keys of 12 bytes.
func TestKeys(t *testing.T) {
	for _, n := range []int{0, 1, 11, 13, 15, 17, 32} {
		_, err := New(map[Addr][]byte{sensor: make([]byte, n)}, nil)
		if err == nil || !strings.HasPrefix(err.Error(), "keys.54:48:E6:8F:80:A5: has ") {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	legacy := heard(0xfe95, unhex(t, "5830b603d2"+"a5808fe64854"+"c3491476757e00000099"))
	for n, want := range map[int]string{
		16: "it has 16 bytes, and this format has keys of 12",
		12: "does not open with the device's key",
		0:  "encrypted, and the device has no key here",
	} {
		keys := map[Addr][]byte{}
		if n > 0 {
			keys[sensor] = make([]byte, n)
		}
		results, err := decoder(t, keys).Decode(legacy)
		if err == nil || !strings.Contains(err.Error(), want) || len(results) != 1 || len(results[0].Readings) != 0 {
			t.Errorf("%d: %s", n, show(results, err))
		}
	}
	if _, err := decoder(t, map[Addr][]byte{sensor: make([]byte, 12)}).Decode(bthomeSealed(t, bindKey, 1, "015d")); !errors.Is(err, ErrKey) {
		t.Error(err)
	}
}

// A name in the advertisement, values in the scan response, and the other way round.
func TestTwoHalves(t *testing.T) {
	name := Report{Addr: sensor, Data: structure(adName, []byte("TP357 (2A01)"))}
	values := made(0x17c2, unhex(t, "0127022c"))
	want := "thermopro TP357 temperature=27.9°C humidity=39% battery=100% battery_low=false"
	d := decoder(t, nil)
	if got := show(d.Decode(values)); got != "error: unknown format" {
		t.Error(got)
	}
	d.Decode(name)
	if got := show(d.Decode(values)); got != want {
		t.Error(got)
	}
	other := values
	other.Addr = Addr{9}
	if got := show(d.Decode(other)); got != "error: unknown format" {
		t.Errorf("another device: %s", got)
	}
	services := Report{Addr: sensor, Data: structure(adUUIDs16+1, []byte{0x20, 0xaa})}
	d.Decode(services)
	if got := show(d.Decode(values)); got != want {
		t.Errorf("after its services: %s", got)
	}

	// A stranger cannot make the memory grow.
	for i := range 3 * maxPeers {
		d.Decode(Report{AddrKind: Random, Addr: Addr{1, 2, byte(i >> 8), byte(i)}, Data: slices.Concat(name.Data, structure(adUUIDs16, make([]byte, 200)))})
	}
	if len(d.peers) > maxPeers {
		t.Errorf("%d peers", len(d.peers))
	}
	for _, p := range d.peers {
		if len(p.uuids) > maxUUIDs {
			t.Fatalf("%d services", len(p.uuids))
		}
	}
}

// A sensor that is also a beacon is a sensor; a beacon beside nothing is a beacon.
func TestSeveralFormats(t *testing.T) {
	beacon := structure(adManufacturer, unhex(t, "4c000215e2c56db5dffb48d2b060d0f5a71096e000640000c5"))
	if got := show(decoder(t, nil).Decode(heard(0xfcd2, unhex(t, "40015d")).with(beacon))); got != "bthome_v2 battery=93%" {
		t.Error(got)
	}
	want := "ibeacon iBeacon id=ibeacon-e2c56db5dffb48d2b060d0f5a71096e0-100-0 uuid=e2c56db5dffb48d2b060d0f5a71096e0 major=100 minor=0 measured_power=-59dBm"
	if got := show(decoder(t, nil).Decode(Report{Addr: sensor, Data: beacon})); got != want {
		t.Error(got)
	}
	two := heard(0xfcd2, unhex(t, "40015d")).with(structure(adService16, unhex(t, "cdfd0807a5808fe64854020138")))
	if got := show(decoder(t, nil).Decode(two)); got != "bthome_v2 battery=93%\nqingping CGG1 battery=56%" {
		t.Error(got)
	}
}
