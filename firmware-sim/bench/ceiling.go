package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/weir-iot/weir/firmware-sim/fault"
)

// measureCeiling is how fast far takes a backlog from a sender that has no work: its packets lie ready in memory, and it does
// nothing but write them as the window allows. Nobody who speaks MQTT at QoS 1 over one connection is much faster.
func measureCeiling(ctx context.Context, dir string, taker bool, events int) (rate float64, err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	at, err := fault.FreeAddress("tcp")
	if err != nil {
		return 0, err
	}
	far, err := startFar(ctx, dir, at, taker)
	if err != nil {
		return 0, err
	}
	defer far.stop()
	p, err := start(ctx, exec.Command("/proc/self/exe", "ceiling", at, strconv.Itoa(events)), at)
	if err != nil {
		return 0, err
	}
	defer p.stop()
	took, err := far.drained(ctx, p)
	return float64(events) / took.Seconds(), err
}

// ceiling is a child that sends such a backlog to an address, and waits to be ended.
func ceiling(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	var packets []byte
	ends := make([]int, 0, n+2)
	add := func(topic string, payload []byte) {
		packets = appendPublish(packets, uint16(len(ends)%0xffff+1), topic, payload)
		ends = append(ends, len(packets))
	}
	body := payload()
	add(firstTopic, nil)
	for k := range n {
		add(fmt.Sprintf(backlogTopic, k%backlogTopics), body)
	}
	add(lastTopic, nil)
	conn, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	window, err := greet(conn, r)
	if err != nil {
		return err
	}
	for sent, acked := 0, 0; acked < len(ends); {
		if to := min(acked+window, len(ends)); to > sent { // at once: what goes carries the TCP acknowledgement that Nagle waits for
			from := 0
			if sent > 0 {
				from = ends[sent-1]
			}
			if _, err := conn.Write(packets[from:ends[to-1]]); err != nil {
				return err
			}
			sent = to
		}
		for { // whatever has come
			if err := puback(r); err != nil {
				return err
			}
			if acked++; r.Buffered() == 0 {
				break
			}
		}
	}
	select {}
}

// greet connects as MQTT 5 and returns how many publishes the far end takes at once (§3.2.2.3.3), as far as weir's own bound.
func greet(conn net.Conn, r *bufio.Reader) (window int, err error) {
	hello := []byte{0x10, 20, 0, 4, 'M', 'Q', 'T', 'T', 5, 2, 0, 0, 0, 0, 7}
	if _, err := conn.Write(append(hello, "ceiling"...)); err != nil {
		return 0, err
	}
	conn.SetReadDeadline(time.Now().Add(startLimit))
	head := make([]byte, 5) // CONNACK, its length, flags, reason, length of the properties
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, err
	}
	if head[0] != 0x20 || head[3] != 0 {
		return 0, fmt.Errorf("it answered % x", head)
	}
	properties := make([]byte, head[1]-3)
	if _, err := io.ReadFull(r, properties); err != nil {
		return 0, err
	}
	window = 1000
	for i := 0; i < len(properties); {
		switch id := properties[i]; id {
		case 0x21: // Receive Maximum
			window = min(window, int(binary.BigEndian.Uint16(properties[i+1:])))
			i += 3
		case 0x22, 0x13: // Topic Alias Maximum, Server Keep Alive
			i += 3
		case 0x24, 0x25, 0x28, 0x29, 0x2A: // a byte each
			i += 2
		case 0x11, 0x27: // Session Expiry Interval, Maximum Packet Size
			i += 5
		default:
			return 0, fmt.Errorf("it answered with a property 0x%02x", id)
		}
	}
	return window, conn.SetReadDeadline(time.Time{})
}

// puback reads one packet, which has to be a PUBACK of success.
func puback(r *bufio.Reader) error {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	rest := make([]byte, head[1])
	if _, err := io.ReadFull(r, rest); err != nil {
		return err
	}
	if head[0] != 0x40 || len(rest) < 2 || len(rest) > 2 && rest[2] >= 0x80 {
		return errors.New("it sent something else than a PUBACK: " + fmt.Sprintf("% x % x", head, rest))
	}
	return nil
}

// appendPublish appends a PUBLISH of MQTT 5 at QoS 1 (§3.3).
func appendPublish(b []byte, id uint16, topic string, payload []byte) []byte {
	b = append(b, 0x32)
	b = binary.AppendUvarint(b, uint64(2+len(topic)+2+1+len(payload)))
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(topic))), topic...)
	b = append(binary.BigEndian.AppendUint16(b, id), 0)
	return append(b, payload...)
}
