package mqtt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// What a packet from the far end may have of bytes. A sink subscribes to nothing, so only CONNACK and
// DISCONNECT have any size at all. Of a message a gateway takes no more payload than so much.
const (
	maxAnswer  = 64 << 10
	maxMessage = gateway.MaxPayload + 128<<10
	maxPacket  = 268_435_455 // §2.1.4
)

// answer is a packet from the far end.
type answer struct {
	kind     byte // one of the constants below
	packetID uint16
	err      error // PUBACK, CONNACK: the refusal; DISCONNECT: why
	limits   limits
	event    *gateway.Event // PUBLISH: the message
	granted  []byte         // SUBACK: a code for each filter
}

const (
	connack    = 2
	publish    = 3
	puback     = 4
	suback     = 9
	pingresp   = 13
	disconnack = 14 // DISCONNECT from the far end, version 5
)

// limits are what a CONNACK tells. Zero means that it does not say.
type limits struct {
	window    int
	maxPacket int
	keepAlive time.Duration
	noRetain  bool
	noQoS1    bool
}

// listen reads packets until the connection ends.
func (l *link) listen(to chan<- answer, quit <-chan struct{}) error {
	for {
		a, err := l.read()
		if err != nil {
			return err
		}
		select {
		case to <- a:
		case <-quit:
			return nil
		}
	}
}

// read reads one packet. A far end that sends what makes a codec panic (a property length
// that is negative in 32 bits does) loses its connection, and nothing else happens.
func (l *link) read() (a answer, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the far end sent a malformed packet: %v", p)
		}
	}()
	if err := l.checkHeader(); err != nil {
		return answer{}, closed(err)
	}
	if a, ok, err := l.readAck(); ok || err != nil {
		return a, closed(err)
	}
	a, err = l.s.codec.read(l.r)
	return a, closed(err)
}

// readAck reads a PUBACK that has nothing but its packet identifier, which is success in both versions, or besides
// a reason code of version 5 that is success too, such as "no matching subscribers" (§3.4.2.1). Nearly
// all that comes is one, so it costs no codec.
func (l *link) readAck() (a answer, ok bool, err error) {
	head, err := l.r.Peek(2)
	if err != nil || head[0] != puback<<4 || head[1] < 2 || head[1] > 3 {
		return a, false, err
	}
	if head, err = l.r.Peek(2 + int(head[1])); err != nil || len(head) == 5 && head[4] >= 0x80 {
		return a, false, err
	}
	a = answer{kind: puback, packetID: binary.BigEndian.Uint16(head[2:])}
	l.r.Discard(len(head))
	return a, true, nil
}

func closed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the far end closed the connection")
	}
	return err
}

// checkHeader looks at the fixed header (§2.1) before a codec sees it: the codecs allocate
// what it says, and know packets that have no business here.
func (l *link) checkHeader() error {
	size := 0
	for n := 2; n <= 5; n++ {
		head, err := l.r.Peek(n)
		if err != nil {
			return err
		}
		most := maxAnswer
		switch kind := head[0] >> 4; {
		case kind == connack || kind == puback || kind == pingresp || kind == disconnack:
		case l.source && kind == suback:
		case l.source && kind == publish:
			most = l.s.codec.most()
		default:
			return fmt.Errorf("the far end sent a packet of type %d, which makes no sense here", kind)
		}
		size |= int(head[n-1]&0x7f) << (7 * (n - 2))
		if head[n-1] < 0x80 {
			if size > most {
				return fmt.Errorf("the far end sent a packet of %d bytes; at most %d make sense here", size, most)
			}
			return nil
		}
	}
	return errors.New("the far end sent a packet with a malformed length")
}
