package mqtt

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"github.com/weir-iot/weir/gateway"
)

// Reader subscribes to a broker and shows what comes, as whoever reads at the far end sees it: MQTT 5,
// QoS 1, a session that is new. It is for checking a far end; see package bridge/verify.
type Reader struct {
	s      *Sink
	filter string
}

// NewReader returns a Reader. Of c it needs the url, the account and how the broker is reached. It opens
// nothing. A wrong value is a gateway.KeyError, a wrong filter gateway.ErrInvalid.
func NewReader(c Config, filter string) (*Reader, error) {
	if _, err := gateway.ParseFilter(filter); err != nil {
		return nil, err
	}
	if c.ClientID == "" {
		c.ClientID = "weir-verify-" + rand.Text()[:8]
	}
	s, err := New(c, "", "", 0, nil)
	return &Reader{s, filter}, err
}

// maxRead is what the broker is asked to send at most: the largest payload there is, in base64, and
// what goes around it.
const maxRead = 4 << 20

// Read calls ready once the broker has the subscription, and got for each publish that is not one
// of those retained from before, in the order in which they come. It ends with ctx, and then returns nil, or when the
// connection does. Nothing is connected again: what a session gets a second time would look like a repeat.
func (r *Reader) Read(ctx context.Context, ready func(), got func(topic, id string, payload []byte)) error {
	err := r.s.within(ctx, 0, func(conn net.Conn, deadline time.Time) (err error) {
		defer func() { // the codec does at malformed packets
			if p := recover(); p != nil {
				err = fmt.Errorf("the broker sent a malformed packet: %v", p)
			}
		}()
		return r.read(conn, deadline, ready, got)
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (r *Reader) read(conn net.Conn, deadline time.Time, ready func(), got func(topic, id string, payload []byte)) error {
	if err := conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	if err := r.hello(conn); err != nil {
		return err
	}
	for answered := false; ; {
		cp, err := packets.ReadPacket(conn)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && !answered:
			return fmt.Errorf("no answer within %v", r.s.dialer.Timeout())
		case errors.Is(err, os.ErrDeadlineExceeded): // of a ping
			return fmt.Errorf("the broker is silent for %v", 2*r.s.c.KeepAlive)
		case err != nil:
			return closed(err)
		}
		switch p := cp.Content.(type) {
		case *packets.Connack:
			if p.ReasonCode >= 0x80 {
				return fmt.Errorf("the broker refused the connection: %w", reason(p.ReasonCode, p.Properties))
			}
		case *packets.Suback:
			for _, code := range p.Reasons {
				if code >= 0x80 {
					return fmt.Errorf("the broker refused the subscription to %q: %w", r.filter, reason(code, p.Properties))
				}
			}
			answered = true
			stop := r.pings(conn)
			defer stop()
			ready()
		case *packets.Publish:
			got(arrival(p))
			if p.QoS == 1 {
				ack := packets.Puback{PacketID: p.PacketID, Properties: &packets.Properties{}}
				if _, err := ack.WriteTo(conn); err != nil {
					return closed(err)
				}
			}
		case *packets.Disconnect:
			return fmt.Errorf("the broker ended the connection: %w", reason(p.ReasonCode, p.Properties))
		}
		if answered {
			if err := conn.SetReadDeadline(time.Now().Add(2 * r.s.c.KeepAlive)); err != nil {
				return err
			}
		}
	}
}

// hello connects and subscribes in one go.
func (r *Reader) hello(conn net.Conn) error {
	c, size := r.s.c, uint32(maxRead)
	connect := packets.Connect{
		ProtocolName: "MQTT", ProtocolVersion: 5, CleanStart: true, KeepAlive: seconds(2 * c.KeepAlive), ClientID: c.ClientID,
		Username: c.Username, UsernameFlag: c.Username != "", Password: []byte(c.Password), PasswordFlag: c.Password != "",
		Properties: &packets.Properties{MaximumPacketSize: &size},
	}
	subscribe := packets.Subscribe{PacketID: 1, Properties: &packets.Properties{}, Subscriptions: []packets.SubOptions{
		{Topic: r.filter, QoS: 1, RetainHandling: 2, RetainAsPublished: true}, // nothing of before the subscription, §3.8.3.1
	}}
	var out bytes.Buffer
	if _, err := connect.WriteTo(&out); err != nil {
		return err
	}
	if _, err := subscribe.WriteTo(&out); err != nil {
		return err
	}
	_, err := conn.Write(out.Bytes())
	return err
}

// pings keeps the connection alive until stop is called. Who does not answer is found by the reader.
func (r *Reader) pings(conn net.Conn) (stop func()) {
	quit, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		t := time.NewTicker(r.s.c.KeepAlive)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				if _, err := conn.Write(pingreq); err != nil {
					return
				}
			case <-quit:
				return
			}
		}
	}()
	return func() {
		close(quit)
		conn.Close()
		<-over
	}
}

// arrival is what the sink puts into a publish; see shaper.
func arrival(p *packets.Publish) (topic, id string, payload []byte) {
	topic = p.Topic
	for _, u := range p.Properties.User {
		switch u.Key {
		case idProperty:
			id = u.Value
		case topicProperty:
			topic = u.Value
		}
	}
	return topic, id, p.Payload
}
