package ble_test

import (
	"testing"

	"github.com/weir-iot/weir/devices"
	"github.com/weir-iot/weir/devices/ble"
	"github.com/weir-iot/weir/devices/devicetest"
)

var _ devices.Writer = (*ble.Driver)(nil)

func TestConformance(t *testing.T) {
	devicetest.Conformance(t, func(t *testing.T) *devicetest.Rig {
		d, say, noise, unplug, plug, told, mute := ble.ConformanceRig(t)
		return &devicetest.Rig{Driver: d, Say: say, Noise: noise, Unplug: unplug, Plug: plug, Setting: "level", Told: told, Mute: mute}
	})
}
