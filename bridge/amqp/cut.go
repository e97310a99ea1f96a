package amqp

import (
	"bufio"
	"encoding/binary"
	"io"

	"github.com/weir-iot/weir/gateway"
)

// maxBody is the size that a larger message is said to have: one byte more than a gateway takes.
const maxBody = gateway.MaxPayload + 1

// cutter reads what the far end sends, and has the library gather no more of a message than makes sense:
// a RabbitMQ lets 128 MiB through, and one such message would end a small machine, and come again, and
// end it again. A content header frame announces the size of the body, and body frames bring it (AMQP 0-9-1
// §4.2.6). Of a body that is too large the size is lowered; the library takes no notice of frames behind what
// was announced.
type cutter struct {
	r    *bufio.Reader
	head []byte // of a frame, to be handed on; it lies in buf
	buf  [frameHead + contentHead]byte
	rest uint64 // bytes behind head until the next frame
}

const (
	frameHead   = 7  // type, channel, size (§4.2.3)
	contentHead = 12 // class, weight, size of the body (§4.2.6.1)
)

// Read is io.Reader.
func (c *cutter) Read(b []byte) (int, error) {
	if len(c.head) == 0 && c.rest == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	if len(c.head) > 0 {
		n := copy(b, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	n, err := c.r.Read(b[:min(uint64(len(b)), c.rest)])
	c.rest -= uint64(n)
	return n, err
}

// next reads the head of a frame. What is none goes on as it is; the library says so.
func (c *cutter) next() error {
	if _, err := io.ReadFull(c.r, c.buf[:frameHead]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(c.buf[3:])
	c.head, c.rest = c.buf[:frameHead], uint64(size)+1 // and its end octet
	if c.buf[0] != 2 || size < contentHead {
		return nil
	}
	content := c.buf[frameHead:]
	if _, err := io.ReadFull(c.r, content); err != nil {
		return err
	}
	c.head, c.rest = c.buf[:], c.rest-contentHead
	if body := content[4:]; binary.BigEndian.Uint64(body) > maxBody {
		binary.BigEndian.PutUint64(body, maxBody)
	}
	return nil
}
