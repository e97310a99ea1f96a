package hci

import (
	"encoding/binary"
	"math"
	"slices"
)

// structure is one AD structure.
func structure(kind byte, parts ...[]byte) []byte {
	data := slices.Concat(parts...)
	return append([]byte{byte(len(data) + 1), kind}, data...)
}

var flags = structure(0x01, []byte{0x06})

// BTHome is what a thermometer that speaks BTHome version 2 advertises: the number of the packet, and the temperature in °C.
func BTHome(packet byte, temperature float64) []byte {
	t := int16(math.Round(temperature * 100))
	return append(slices.Clone(flags), structure(0x16, []byte{0xd2, 0xfc, 0x40, 0x00, packet, 0x02, byte(t), byte(t >> 8)})...)
}

// PVVX is what a thermometer with the firmware of pvvx advertises.
func PVVX(addr [6]byte, counter byte, temperature, humidity float64) []byte {
	data := append([]byte{0x1a, 0x18}, reversed(addr)...)
	data = binary.LittleEndian.AppendUint16(data, uint16(int16(math.Round(temperature*100))))
	data = binary.LittleEndian.AppendUint16(data, uint16(math.Round(humidity*100)))
	data = append(binary.LittleEndian.AppendUint16(data, 2900), 87, counter, 0)
	return append(slices.Clone(flags), structure(0x16, data)...)
}

// Ruuvi is what a RuuviTag advertises in data format 5.
func Ruuvi(addr [6]byte, sequence uint16, temperature float64) []byte {
	data := []byte{0x99, 0x04, 0x05}
	data = binary.BigEndian.AppendUint16(data, uint16(int16(math.Round(temperature/0.005))))
	data = binary.BigEndian.AppendUint16(data, 16000)        // 40 %
	data = binary.BigEndian.AppendUint16(data, 101325-50000) // Pa
	data = append(data, 0, 0, 0, 0, 0x03, 0xe8)              // 1 g upwards
	data = binary.BigEndian.AppendUint16(data, 1377<<5|22)   // 2.977 V, 4 dBm
	data = binary.BigEndian.AppendUint16(append(data, 66), sequence)
	return append(slices.Clone(flags), structure(0xff, append(data, addr[:]...))...)
}

// IBeacon is what an iBeacon advertises.
func IBeacon(uuid [16]byte, major, minor uint16) []byte {
	data := append([]byte{0x4c, 0x00, 0x02, 0x15}, uuid[:]...)
	data = binary.BigEndian.AppendUint16(data, major)
	data = binary.BigEndian.AppendUint16(data, minor)
	return append(slices.Clone(flags), structure(0xff, append(data, 0xc5))...)
}

// Name is the complete local name, as it stands in a scan response.
func Name(name string) []byte { return structure(0x09, []byte(name)) }
