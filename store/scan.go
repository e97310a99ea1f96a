package store

import (
	"io"

	"github.com/weir-iot/weir/gateway"
)

// frame is an intact frame that a scanner found.
type frame struct {
	header
	pos  int64
	body []byte // valid until the scanner goes on
	skip bool   // bytes before it, up to the frame before, are damaged
}

// scanner walks over the frames of a segment. What is damaged it passes: where a
// header still tells the length, to the next frame; otherwise byte by byte, until a
// frame begins again.
type scanner struct {
	f    io.ReaderAt
	seed uint32
	end  int64  // frames end here
	min  uint64 // smaller offsets are not expected any more
	pos  int64  // where to look next
	done int64  // where the last intact frame ended

	buf []byte
	at  int64 // where buf begins in the file
}

const scanChunk = 64 << 10

func newScanner(f io.ReaderAt, seed uint32, pos, end int64) *scanner {
	return &scanner{f: f, seed: seed, pos: pos, done: pos, end: end}
}

// window returns the n bytes at pos, or what there is of them before end.
func (s *scanner) window(pos, n int64) []byte {
	n = min(n, s.end-pos)
	if n <= 0 {
		return nil
	}
	if pos < s.at || pos+n > s.at+int64(len(s.buf)) {
		want := min(max(n, scanChunk), s.end-pos)
		if int64(cap(s.buf)) < want {
			s.buf = make([]byte, want)
		}
		s.buf = readAround(s.f, s.buf[:want], pos)
		s.at = pos
	}
	from := pos - s.at
	return s.buf[from:min(from+n, int64(len(s.buf)))]
}

// next returns the next intact frame. Without one, bytes between done and end are no frame.
func (s *scanner) next() (frame, bool) {
	for {
		h, ok := s.header(s.pos)
		if !ok {
			if !s.resync() {
				return frame{}, false
			}
			continue
		}
		pos := s.pos
		s.pos += h.size
		raw := s.window(pos, h.size)
		if int64(len(raw)) != h.size || !bodyIntact(raw) {
			if _, ok := s.header(s.pos); !ok { // its header does not say where the next one is
				s.pos = pos
				s.resync()
			}
			continue
		}
		fr := frame{header: h, pos: pos, body: raw[frameHeader:], skip: pos != s.done}
		s.done, s.min = s.pos, h.offset+1
		return fr, true
	}
}

func (s *scanner) header(pos int64) (header, bool) {
	w := s.window(pos, frameHeader)
	if len(w) < frameHeader {
		return header{}, false
	}
	h, ok := parseHeader(w, s.seed)
	return h, ok && h.offset >= s.min && pos+h.size <= s.end
}

// resync moves pos forward to the next header.
func (s *scanner) resync() bool {
	for pos := s.pos + 1; ; {
		w := s.window(pos, scanChunk)
		if len(w) < frameHeader {
			s.pos = s.end
			return false
		}
		for i := 0; i+frameHeader <= len(w); i++ {
			if w[i+11]>>4 != frameVersion { // cheap, and wrong for most
				continue
			}
			h, ok := parseHeader(w[i:], s.seed)
			if ok && h.offset >= s.min && pos+int64(i)+h.size <= s.end {
				s.pos = pos + int64(i)
				return true
			}
		}
		pos += int64(len(w) - frameHeader + 1)
	}
}

// lastUsed is the end of what is not zero between from and to.
func lastUsed(f io.ReaderAt, from, to int64) int64 {
	buf := make([]byte, scanChunk)
	used := from
	for pos := from; pos < to; {
		b := readAround(f, buf[:min(int64(len(buf)), to-pos)], pos)
		if len(b) == 0 {
			break
		}
		for i := len(b) - 1; i >= 0; i-- {
			if b[i] != 0 {
				used = pos + int64(i) + 1
				break
			}
		}
		pos += int64(len(b))
	}
	return used
}

// event decodes fr.
func (fr *frame) event(epoch string) (*gateway.Event, error) {
	e, err := decodeBody(fr.body, fr.kind)
	if err != nil {
		return nil, err
	}
	e.Epoch, e.Offset = epoch, fr.offset
	return e, nil
}
