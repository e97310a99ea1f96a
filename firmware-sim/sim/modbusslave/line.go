package modbusslave

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// Line is slaves that share a bus, by unit id.
type Line struct {
	Slaves map[byte]*Slave
	Echo   bool // the bus brings back what the master sends, as two-wire adapters do
}

// idle is after how much silence the rest of a broken request is forgotten.
const idle = 50 * time.Millisecond

// ServeRTU answers what comes over port until it ends.
func (l *Line) ServeRTU(port io.ReadWriter) error {
	var in []byte
	var last time.Time
	buf := make([]byte, 512)
	for {
		n, err := port.Read(buf)
		if now := time.Now(); n > 0 {
			if now.Sub(last) > idle {
				in = nil
			}
			last = now
		}
		if l.Echo {
			port.Write(buf[:n])
		}
		in = append(in, buf[:n]...)
		for len(in) > 0 {
			size, known := requestSize(in)
			if !known && len(in) < 256 {
				break
			}
			if size <= len(in) && known && sum(in[:size]) == 0 {
				l.rtu(port, in[0], in[1:size-2])
				in = in[size:]
				continue
			}
			if known && size > len(in) {
				break
			}
			in = in[1:]
		}
		if err != nil {
			return err
		}
	}
}

// requestSize is how long the request that begins b is, as a frame.
func requestSize(b []byte) (int, bool) {
	if len(b) < 2 {
		return 0, false
	}
	switch b[1] {
	case 15, 16:
		if len(b) < 7 {
			return 0, false
		}
		return 9 + int(b[6]), true
	case 22:
		return 10, true
	}
	return 8, true
}

func (l *Line) rtu(port io.Writer, unit byte, pdu []byte) {
	s := l.Slaves[unit]
	if s == nil {
		return
	}
	out, h := s.answer(pdu)
	time.Sleep(h.Late)
	if out == nil {
		return
	}
	if h.As != 0 {
		unit = h.As
	}
	frame := append([]byte{unit}, out...)
	crc := sum(frame)
	frame = append(frame, byte(crc), byte(crc>>8))
	s.send(port, frame, h)
}

// send is where the wire is bad.
func (s *Slave) send(port io.Writer, frame []byte, h Habit) {
	s.mu.Lock()
	if h.Spoilt {
		frame[s.rng.IntN(len(frame))] ^= byte(1 + s.rng.IntN(255))
	}
	noise := make([]byte, h.Noise)
	for i := range noise {
		noise[i] = byte(s.rng.IntN(256))
	}
	s.mu.Unlock()
	frame = append(noise, frame...)
	pieces := max(1, h.Pieces)
	for i := range pieces {
		if i > 0 {
			time.Sleep(h.Pause)
		}
		port.Write(frame[i*len(frame)/pieces : (i+1)*len(frame)/pieces])
	}
}

// sum is the CRC of a line's frames; of a frame with its CRC it is 0.
func sum(b []byte) uint16 {
	crc := uint16(0xffff)
	for _, c := range b {
		crc ^= uint16(c)
		for range 8 {
			carry := crc & 1
			crc >>= 1
			if carry == 1 {
				crc ^= 0xa001
			}
		}
	}
	return crc
}

// Serve takes connections until ctx ends and answers each with one, ServeRTU or ServeTCP.
func (l *Line) Serve(ctx context.Context, listener net.Listener, one func(io.ReadWriter) error) error {
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	stop := context.AfterFunc(ctx, func() {
		listener.Close()
		mu.Lock()
		defer mu.Unlock()
		for c := range open {
			c.Close()
		}
	})
	defer stop()
	var running sync.WaitGroup
	defer running.Wait()
	for {
		c, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		mu.Lock()
		open[c] = true
		mu.Unlock()
		if ctx.Err() != nil {
			c.Close()
		}
		running.Go(func() {
			one(c)
			c.Close()
			mu.Lock()
			defer mu.Unlock()
			delete(open, c)
		})
	}
}

// ServeTCP answers what comes over a connection until it ends.
func (l *Line) ServeTCP(conn io.ReadWriter) error {
	for {
		head := make([]byte, 7)
		if _, err := io.ReadFull(conn, head); err != nil {
			return err
		}
		size := int(two(head[4:])) - 1
		if two(head[2:]) != 0 || size < 1 || size > 253 {
			return errors.New("not Modbus TCP")
		}
		pdu := make([]byte, size)
		if _, err := io.ReadFull(conn, pdu); err != nil {
			return err
		}
		s := l.Slaves[head[6]]
		if s == nil {
			continue
		}
		out, h := s.answer(pdu)
		time.Sleep(h.Late)
		if out == nil {
			continue
		}
		if h.As != 0 {
			head[6] = h.As
		}
		head[4], head[5] = byte((len(out)+1)>>8), byte(len(out)+1)
		s.send(conn, append(head, out...), h)
	}
}
