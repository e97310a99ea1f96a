package mqtt

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/google/go-cmp/cmp"

	"github.com/weir-iot/weir/gateway"
)

// What a link writes itself, the codec reads as it was meant.
func TestPublishV5(t *testing.T) {
	one, left := byte(1), uint32(59)
	s := shaper{gatewayID: "gw", topics: &topics{bare: true}, format: asPayload, retain: true}
	var m message // one for all, as a link has it
	for _, c := range []struct {
		e    gateway.Event
		want packets.Publish
	}{
		{
			gateway.Event{
				Topic: "a/b", Payload: bytes.Repeat([]byte("x"), 70_000), Retain: true, UTF8: true, ContentType: "text/plain",
				Expiry: time.Minute, Age: time.Hour - 1500*time.Millisecond, ResponseTopic: "back", CorrelationData: []byte{0, 1},
				UserProperties: []gateway.UserProperty{{Key: "k", Value: strings.Repeat("v", 200)}, {Key: "weir-id", Value: "another's"}, {}},
				Epoch:          "e1", Offset: 7, Origin: gateway.Origin{ID: "oven"}, Quality: gateway.Bad,
				Accepted: time.Unix(1, 0),
			},
			packets.Publish{Topic: "a/b", Payload: bytes.Repeat([]byte("x"), 70_000), Retain: true, QoS: 1, PacketID: 1000, Properties: &packets.Properties{
				PayloadFormat: &one, MessageExpiry: &left, ContentType: "text/plain", ResponseTopic: "back", CorrelationData: []byte{0, 1},
				User: []packets.User{
					{Key: "weir-id", Value: "gw/e1-7"}, {Key: "weir-time", Value: "1970-01-01T00:00:01Z"}, {Key: "weir-device", Value: "oven"},
					{Key: "weir-quality", Value: "bad"}, {Key: "k", Value: strings.Repeat("v", 200)}, {},
				},
			}},
		},
		{
			gateway.Event{Topic: "c", Epoch: "e1", Offset: 8},
			packets.Publish{Topic: "c", Payload: []byte{}, QoS: 1, PacketID: 1000, Properties: &packets.Properties{User: []packets.User{{Key: "weir-id", Value: "gw/e1-8"}}}},
		},
	} {
		var out bytes.Buffer
		out.WriteString("before")
		err := s.shape(&m, &c.e)
		if err == nil {
			err = v5{}.publish(&out, 1000, &m, func() time.Duration { return time.Hour })
		}
		if err != nil {
			t.Fatal(err)
		}
		if before := string(out.Next(6)); before != "before" {
			t.Errorf("wrote over %q", before)
		}
		p, err := packets.ReadPacket(&out)
		if err != nil || out.Len() > 0 {
			t.Fatalf("%v, %d bytes too many", err, out.Len())
		}
		if diff := cmp.Diff(&c.want, p.Content); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
}
