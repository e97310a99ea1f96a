package codec

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestRecordingIsReadBack(t *testing.T) {
	want := []Chunk{{0, false, []byte("12.3 kg\r\n")}, {1250417 * time.Microsecond, true, []byte("T\r\n")}, {1250417 * time.Microsecond, false, []byte{0, 0xff}}}
	text := RecordingOf("scale", "serial", time.Now())
	for _, c := range want {
		text += c.String()
	}
	device, got, err := ReadRecording(strings.NewReader(strings.ReplaceAll(text, "\n", "\r\n") + "\n# the end\n"))
	if err != nil || device != "scale" || !reflect.DeepEqual(got, want) {
		t.Errorf("%s %v %v\n%s", device, got, err, text)
	}
	for text, want := range map[string]string{
		"12.3 kg":                            "this is no recording",
		"# weir recording 1\n0 < 0g":         "line 2: ",
		"# weir recording 1\n0 = 00":         "line 2 is not of the form",
		"# weir recording 1\nx < 00":         "line 2: ",
		"# weir recording 1\nNaN < 00":       "line 2: ",
		"# weir recording 1\n-1 < 00":        "line 2: ",
		"# weir recording 1\n2 < 00\n1 < 00": "line 3: ",
	} {
		if _, _, err := ReadRecording(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
