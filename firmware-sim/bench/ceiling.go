package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/weir-iot/weir/firmware-sim/fault"
)

// measureCeiling is how fast the far end takes a backlog at all: from a sender that has no work, because its packets lie ready in
// memory, and hardly waits for acknowledgements. It speaks MQTT 3.1.1, where no far end says how many may be in flight.
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
	if err := greet(conn, r); err != nil {
		return err
	}
	for sent, acked := 0, 0; acked < len(ends); {
		if to := min(acked+unbounded, len(ends)); to > sent {
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

// unbounded is how many publishes the ceiling has in flight: their acknowledgements fit into a socket while nobody reads them.
const unbounded = 10_000

// greet connects as MQTT 3.1.1.
func greet(conn net.Conn, r *bufio.Reader) error {
	hello := []byte{0x10, 19, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0, 0, 7}
	if _, err := conn.Write(append(hello, "ceiling"...)); err != nil {
		return err
	}
	conn.SetReadDeadline(time.Now().Add(startLimit))
	connack := make([]byte, 4)
	if _, err := io.ReadFull(r, connack); err != nil {
		return err
	}
	if connack[0] != 0x20 || connack[3] != 0 {
		return fmt.Errorf("it answered % x", connack)
	}
	return conn.SetReadDeadline(time.Time{})
}

// puback reads one packet, which has to be a PUBACK.
func puback(r *bufio.Reader) error {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	rest := make([]byte, head[1])
	if _, err := io.ReadFull(r, rest); err != nil {
		return err
	}
	if head[0] != 0x40 || len(rest) != 2 {
		return fmt.Errorf("it sent something else than a PUBACK: % x % x", head, rest)
	}
	return nil
}

// appendPublish appends a PUBLISH of MQTT 3.1.1 at QoS 1 (§3.3).
func appendPublish(b []byte, id uint16, topic string, payload []byte) []byte {
	b = append(b, 0x32)
	b = binary.AppendUvarint(b, uint64(2+len(topic)+2+len(payload)))
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(topic))), topic...)
	return append(binary.BigEndian.AppendUint16(b, id), payload...)
}
