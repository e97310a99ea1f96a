package bridgetest

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"time"
)

// Tell publishes to an MQTT broker, with version 5 and QoS 1, and returns when the broker has it all. An id
// goes into the user property weir-command-id.
func Tell(addr string, messages ...Message) error {
	publishes := make([]Publish, len(messages))
	for i, m := range messages {
		publishes[i] = Publish{Topic: m.Topic, Payload: []byte(m.Payload)}
		if m.ID != "" {
			publishes[i].Properties.User = [][2]string{{"weir-command-id", m.ID}}
		}
	}
	return TellAll(addr, publishes...)
}

// TellAll is Tell with the retain flag, the expiry, the content type and the user properties of each.
func TellAll(addr string, publishes ...Publish) error {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	hello := append(appendText(nil, "MQTT"), 5, 2, 0, 0, 0) // clean, no keep alive, no properties
	out := appendPacket(nil, 0x10, appendText(hello, fmt.Sprintf("teller-%d", time.Now().UnixNano())))
	if _, err := conn.Write(out); err != nil {
		return err
	}
	r := bufio.NewReader(conn)
	if p, err := readPacket(r); err != nil || p.kind() != 2 || p.body[1] != 0 {
		return fmt.Errorf("connect to tell: %v, %v", p, err)
	}
	for i, m := range publishes {
		var props []byte
		if m.Properties.Expiry != nil {
			props = binary.BigEndian.AppendUint32(append(props, 2), *m.Properties.Expiry)
		}
		if m.Properties.ContentType != "" {
			props = appendText(append(props, 3), m.Properties.ContentType)
		}
		for _, u := range m.Properties.User {
			props = appendText(appendText(append(props, 38), u[0]), u[1])
		}
		body := binary.BigEndian.AppendUint16(appendText(nil, m.Topic), uint16(i%1000+1))
		body = append(binary.AppendUvarint(body, uint64(len(props))), props...)
		first := byte(0x32)
		if m.Retain {
			first |= 1
		}
		if _, err := conn.Write(appendPacket(nil, first, append(body, m.Payload...))); err != nil {
			return err
		}
		if p, err := readPacket(r); err != nil || p.kind() != 4 {
			return fmt.Errorf("tell: %v, %w", p, err)
		}
	}
	conn.Write([]byte{0xE0, 0})
	return nil
}
