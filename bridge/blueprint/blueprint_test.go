package blueprint_test

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/bridge/blueprint"
	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestSink is all that a sink needs to show. The disk's one fault here is that the file
// cannot be opened.
func TestSink(t *testing.T) {
	bridgetest.Run(t, func(t *testing.T) *bridgetest.FarEnd {
		dir := filepath.Join(t.TempDir(), "mount")
		path := filepath.Join(dir, "events.jsonl")
		heal := func() { os.Mkdir(dir, 0o700) }
		heal()
		s, err := blueprint.New(blueprint.Config{Path: path}, bridgetest.GatewayID)
		if err != nil {
			t.Fatal(err)
		}
		return &bridgetest.FarEnd{
			Sink:     s,
			Arrivals: func() []bridgetest.Arrival { return lines(path) },
			Refuse:   func() { os.RemoveAll(dir) },
			Heal:     heal,
		}
	})
}

// lines are the whole lines of the file.
func lines(path string) (all []bridgetest.Arrival) {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		var face gateway.Face
		if json.Unmarshal(in.Bytes(), &face) != nil {
			break
		}
		payload, _ := face.Bytes()
		all = append(all, bridgetest.Arrival{ID: face.ID, Topic: face.Topic, Payload: string(payload)})
	}
	return all
}

// What a crash left of a line does not spoil the next one.
func TestTornLine(t *testing.T) {
	for _, torn := range []string{"", "{\"id\":\"x", string(make([]byte, 10000))} {
		path := filepath.Join(t.TempDir(), "events.jsonl")
		whole := `{"id":"a/e1-1","topic":"t","time":"2026-11-23T12:00:00Z","payload":1}` + "\n"
		if err := os.WriteFile(path, []byte(whole+torn), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := blueprint.New(blueprint.Config{Path: path}, "a")
		if err != nil {
			t.Fatal(err)
		}
		events := make(chan *gateway.Event, 1)
		events <- &gateway.Event{Topic: "t", Payload: []byte("2"), Epoch: "e1", Offset: 2}
		close(events)
		if err := s.Send(t.Context(), events, func() {}, func(_ *gateway.Event, err error) {
			if err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		if got := lines(path); len(got) != 2 || got[0].ID != "a/e1-1" || got[1].ID != "a/e1-2" {
			t.Errorf("%q: %+v", torn, got)
		}
	}
}
