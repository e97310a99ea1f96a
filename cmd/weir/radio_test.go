package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/web"
	"github.com/weir-iot/weir/devices"
)

// TestNear: what is near is shown, and what is shown can be adopted.
func TestNear(t *testing.T) {
	now := time.Now()
	radios := []web.Radio{
		{Name: "hci0", Up: true, Since: now, Address: "B8:27:EB:11:22:33", Heard: 7, Weak: 1, Denied: 2, Seen: []web.Near{
			{ID: "a4c138123456", Address: "A4:C1:38:12:34:56", Name: "shed", Format: "bthome_v2", RSSI: -71, Last: now, Readings: []string{"temperature=23.50 °C", "battery=91 %"}},
			{ID: "5a0000000001", Address: "5A:00:00:00:00:01", Private: true, Last: now},
		}},
		{Name: "hci1", Reason: "it is not there", Since: now, Seen: []web.Near{
			{ID: "ibeacon-01-2-3", Address: "5A:00:00:00:00:02", Private: true, Format: "ibeacon", Last: now},
			{ID: "a4c138654321", Address: "A4:C1:38:65:43:21", Format: "ruuvi_rawv2", Last: now, Problem: "malformed"},
		}},
	}
	var out bytes.Buffer
	if err := printRadios(&out, radios); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"hci0     B8:27:EB:11:22:33  up     0s     7      3         \n", "hci1     -                  down   0s     0      0         it is not there\n",
		"A4:C1:38:12:34:56            shed  bthome_v2  -   -71   0s    temperature=23.50 °C, battery=91 %\n", "5A:00:00:00:00:01 (changes)", "ibeacon-01-2-3", "malformed\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	file := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, a := range []devices.Adoption{
		{Client: "a4:c1:38:12:34:56", ID: "shed", Name: "Shed"}, {Client: "IBEACON-01-2-3", ID: "keys"}, {Client: "a4c138654321"},
	} {
		if _, _, err := adopt(file, nil, radios, a); err != nil {
			t.Errorf("%s: %v", a.Client, err)
		}
	}
	for client, want := range map[string]string{"5A:00:00:00:00:01": "changes", "A4:C1:38:00:00:00": "no client"} {
		if _, _, err := adopt(file, nil, radios, devices.Adoption{Client: client}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", client, err)
		}
	}
	text, err := os.ReadFile(filepath.Join(filepath.Dir(file), "conf.d", "devices.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`shed: {driver: "ble", name: "Shed", address: "A4:C1:38:12:34:56", decoder: "bthome_v2"}`,
		`keys: {driver: "ble", adapter: "hci1", id: "ibeacon-01-2-3", decoder: "ibeacon"}`,
		`ble-a4c138654321: {driver: "ble", adapter: "hci1", address: "A4:C1:38:65:43:21", decoder: "ruuvi_rawv2"}`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}
