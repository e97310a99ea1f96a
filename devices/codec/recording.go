package codec

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// A recording is what went over a device's wire, as text: lines that begin with # say what it is of, and each of the
// others is a chunk of bytes as it came (<) or was sent (>), the seconds since the beginning before it.
//
//	# weir recording 1
//	# device: scale
//	0.000000 < 31322e33206b670d0a
//	1.250417 > 540d0a
const recordingHeader = "# weir recording 1"

// Chunk is bytes that went over a wire together.
type Chunk struct {
	At    time.Duration // since the recording began
	Sent  bool          // to the device; else from it
	Bytes []byte
}

// String is c as a line of a recording, with its end.
func (c Chunk) String() string {
	way := "<"
	if c.Sent {
		way = ">"
	}
	return fmt.Sprintf("%.6f %s %x\n", c.At.Seconds(), way, c.Bytes)
}

// RecordingOf is the beginning of a recording of device.
func RecordingOf(device, driver string, begun time.Time) string {
	return fmt.Sprintf("%s\n# device: %s\n# driver: %s\n# begun: %s\n", recordingHeader, device, driver, begun.UTC().Format(time.RFC3339))
}

// ReadRecording reads a whole recording, and returns the device it is of.
func ReadRecording(r io.Reader) (device string, chunks []Chunk, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if n == 1 && text != recordingHeader {
			return "", nil, fmt.Errorf("this is no recording: its first line is not %q", recordingHeader)
		}
		if rest, is := strings.CutPrefix(text, "# device: "); is {
			device = rest
		}
		if text == "" || text[0] == '#' {
			continue
		}
		f := strings.Fields(text)
		if len(f) != 3 || f[1] != "<" && f[1] != ">" {
			return "", nil, fmt.Errorf("line %d is not of the form \"1.250417 < 540d0a\"", n)
		}
		at, err := strconv.ParseFloat(f[0], 64)
		bytes, err2 := hex.DecodeString(f[2])
		last := time.Duration(0)
		if len(chunks) > 0 {
			last = chunks[len(chunks)-1].At
		}
		c := Chunk{At: time.Duration(at * float64(time.Second)), Sent: f[1] == ">", Bytes: bytes}
		if err != nil || err2 != nil || c.At < last || !(at <= 1e9) {
			return "", nil, fmt.Errorf("line %d: %s is no time after the last, or %s are no bytes in hexadecimal", n, f[0], f[2])
		}
		chunks = append(chunks, c)
	}
	return device, chunks, lines.Err()
}
