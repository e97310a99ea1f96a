package codec

import "bytes"

// MaxLine is the longest line, in bytes without its end, unless the configuration says
// otherwise.
const MaxLine = 4096

// rawKept is how much of garbage is kept for people to look at.
const rawKept = 64

// Splitter cuts a stream of bytes into lines that end with LF, CRLF, or a lone CR. A
// device that ever sent LF is one that ends its lines with LF: from then on a lone CR is
// noise inside a line. Empty lines are ignored. A line longer than the maximum is
// skipped up to its end.
type Splitter struct {
	max      int
	buf      []byte
	skipping string // the reason the rest of the line is dropped for, or empty
	lf       bool   // LF was seen
}

// NewSplitter returns a splitter for lines of at most max bytes; 0 means MaxLine.
func NewSplitter(max int) *Splitter {
	if max == 0 {
		max = MaxLine
	}
	return &Splitter{max: max}
}

// SkipPartial drops what comes before the next line end: half a line can look like a
// whole one ("12.34 kg" ends in "2.34 kg").
func (s *Splitter) SkipPartial() { s.skipping = Partial }

// Feed adds p to the stream and calls line for every line that ends in it, and garbage
// for every one that was skipped, in order. What they are given is valid during the call.
func (s *Splitter) Feed(p []byte, line func([]byte), garbage func(reason string, raw []byte)) {
	for len(p) > 0 {
		i := s.lineEnd(p)
		if i < 0 {
			s.keep(p)
			return
		}
		s.keep(p[:i])
		s.lf = s.lf || p[i] == '\n'
		s.end(line, garbage)
		p = p[i+1:]
	}
}

func (s *Splitter) lineEnd(p []byte) int {
	if s.lf {
		return bytes.IndexByte(p, '\n')
	}
	return bytes.IndexAny(p, "\r\n")
}

func (s *Splitter) keep(p []byte) {
	if s.skipping == "" && len(s.buf)+len(p) > s.max+1 { // 1 for the CR of a CRLF
		s.skipping = Overlong
	}
	if s.skipping != "" {
		p = p[:min(len(p), max(0, rawKept-len(s.buf)))]
	}
	s.buf = append(s.buf, p...)
}

func (s *Splitter) end(line func([]byte), garbage func(string, []byte)) {
	text := bytes.TrimRight(s.buf, "\r")
	reason := s.skipping
	s.buf, s.skipping = s.buf[:0], ""
	switch {
	case reason == "" && len(text) > s.max:
		garbage(Overlong, text[:min(len(text), rawKept)])
	case reason != "" && len(text) > 0:
		garbage(reason, text[:min(len(text), rawKept)])
	case reason == "" && len(text) > 0:
		line(text)
	}
}
