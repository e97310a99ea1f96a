package codec

import "bytes"

// MaxFrame is the longest frame, in bytes without its ends, unless the configuration says
// otherwise.
const MaxFrame = 4096

// rawKept is how much of garbage is kept for people to look at.
const rawKept = 64

// splitter cuts a stream of bytes into frames that end with a byte which nothing inside them
// is. Empty frames are ignored. A frame longer than the maximum is skipped up to its end.
type splitter struct {
	max      int
	end      byte
	lines    bool // a lone CR ends a frame too
	buf      []byte
	skipping string // the reason the rest of the frame is dropped for, or empty
	lf       bool   // LF was seen
}

// newLines returns a splitter for lines of at most max bytes, 0 meaning MaxFrame. They
// end with LF, CRLF, or a lone CR. A device that ever sent LF is one that ends its lines
// with LF: from then on a lone CR is noise inside a line.
func newLines(max int) *splitter {
	s := newSplitter(max, '\n')
	s.lines = true
	return s
}

func newSplitter(max int, end byte) *splitter {
	if max == 0 {
		max = MaxFrame
	}
	return &splitter{max: max, end: end}
}

// SkipPartial drops what comes before the next end: half a line can look like a whole one
// ("12.34 kg" ends in "2.34 kg").
func (s *splitter) SkipPartial() { s.skipping = Partial }

// Feed adds p to the stream and calls frame for every one that ends in it, and garbage
// for every one that was skipped, in order. What they are given is valid during the call.
func (s *splitter) Feed(p []byte, frame func([]byte), garbage func(reason string, raw []byte)) {
	for len(p) > 0 {
		i := s.find(p)
		if i < 0 {
			s.keep(p)
			return
		}
		s.keep(p[:i])
		s.lf = s.lf || p[i] == '\n'
		s.finish(frame, garbage)
		p = p[i+1:]
	}
}

// Pending is false: a pause in the middle of a frame says nothing.
func (s *splitter) Pending() bool { return false }

// Idle has nothing to do.
func (s *splitter) Idle(func([]byte), func(string, []byte)) {}

func (s *splitter) find(p []byte) int {
	if s.lines && !s.lf {
		return bytes.IndexAny(p, "\r\n")
	}
	return bytes.IndexByte(p, s.end)
}

func (s *splitter) keep(p []byte) {
	if s.skipping == "" && len(s.buf)+len(p) > s.max+1 { // 1 for the CR of a CRLF
		s.skipping = Overlong
	}
	if s.skipping != "" {
		p = p[:min(len(p), max(0, rawKept-len(s.buf)))]
	}
	s.buf = append(s.buf, p...)
}

func (s *splitter) finish(frame func([]byte), garbage func(string, []byte)) {
	b := s.buf
	if s.lines {
		b = bytes.TrimRight(b, "\r")
	}
	reason := s.skipping
	s.buf, s.skipping = s.buf[:0], ""
	switch {
	case reason == "" && len(b) > s.max:
		garbage(Overlong, b)
	case reason != "" && len(b) > 0:
		garbage(reason, b)
	case reason == "" && len(b) > 0:
		frame(b)
	}
}
