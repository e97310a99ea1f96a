package webhook_test

import (
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/webhook"
	"github.com/weir-iot/weir/gateway"
)

// exampleSecret is a secret that the Standard Webhooks project publishes in its tests.
const exampleSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// caFile is the authority of a TLS server.
func caFile(t *testing.T, s *httptest.Server) string {
	t.Helper()
	return pemFile(t, "CERTIFICATE", s.Certificate().Raw)
}

func pemFile(t *testing.T, kind string, der []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func newSink(t *testing.T, c webhook.Config) *webhook.Sink {
	t.Helper()
	s, err := webhook.New(c, bridgetest.GatewayID)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var accepted = time.Date(2026, 11, 23, 12, 0, 0, 123456789, time.UTC)

// events are n events from offset first on, with their offset as payload.
func events(first, n int) (all []*gateway.Event) {
	for i := first; i < first+n; i++ {
		all = append(all, &gateway.Event{
			Topic: "plant1/boiler/temperature", Payload: []byte(strconv.Itoa(i)),
			Accepted: accepted, Epoch: "e1", Offset: uint64(i),
		})
	}
	return all
}
