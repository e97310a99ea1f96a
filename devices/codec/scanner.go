package codec

// A cutter looks at what a frame may begin with. It returns how many bytes of p it has
// settled and the frame they are; or a reason why p begins with none, with the damaged frame
// if there is one; or neither for bytes between frames that mean nothing, such as a line
// end. n = 0 asks for more bytes, with which it will be called again. What it says of a
// frame does not change with more bytes.
type cutter func(p []byte) (n int, frame []byte, reason string)

// scanner finds frames that are known by how they begin. Where there is none it looks again
// one byte on: a frame whose head was damaged, or that began in the noise, hides no other.
//
// Garbage is counted once for each stretch of noise and once for each damaged frame, not once
// a byte; in noise without end, once every MaxFrame bytes.
type scanner struct {
	cut  cutter
	max  int // bytes that cut may ask for
	buf  []byte
	lost int // bytes of garbage since the last of it was reported; 0: in step
	// damaged is what is left of a damaged frame that was reported. What looks like a frame
	// in there is not reported again.
	damaged int
	// partial: what comes first may be the rest of a frame whose beginning we did not hear.
	partial bool
	// pauses: a pause ends a frame. Else one that was cut short is ended by what follows.
	pauses bool
	// waits: only a pause tells where a frame begins. What comes before it is dropped.
	waits, waiting bool
}

func (s *scanner) SkipPartial() { s.partial, s.waiting = true, s.waits }

// Pending tells whether a frame has begun, which a pause would end.
func (s *scanner) Pending() bool { return s.pauses && len(s.buf) > 0 || s.waiting }

func (s *scanner) Feed(p []byte, frame func([]byte), garbage func(reason string, raw []byte)) {
	if s.waiting {
		s.drop(p, len(p), Noise, garbage)
		return
	}
	s.buf = append(s.buf, p...)
	s.scan(false, frame, garbage)
}

// Idle says that nothing came for a while: no frame goes on.
func (s *scanner) Idle(frame func([]byte), garbage func(reason string, raw []byte)) {
	s.scan(true, frame, garbage)
	s.waiting, s.partial, s.lost, s.damaged = false, false, 0, 0
}

func (s *scanner) scan(ended bool, frame func([]byte), garbage func(string, []byte)) {
	p := s.buf
	for len(p) > 0 {
		n, f, reason := s.cut(p)
		if n == 0 && (ended || len(p) >= s.max) {
			n, f, reason = 1, p, Malformed
		}
		if n == 0 {
			break
		}
		switch {
		case reason != "":
			if s.damaged > 0 {
				reason = Noise
			}
			s.drop(p, n, reason, garbage)
			s.damaged = max(s.damaged-n, len(f)-n, 0)
		case f != nil:
			s.lost, s.damaged, s.partial = 0, 0, false
			frame(f)
		}
		p = p[n:]
	}
	s.buf = s.buf[:copy(s.buf, p)]
}

// drop counts n bytes of p as garbage.
func (s *scanner) drop(p []byte, n int, reason string, garbage func(string, []byte)) {
	if s.lost == 0 || reason != Noise || s.lost >= MaxFrame {
		s.lost = 0
		if s.partial {
			reason, s.partial = Partial, false
		}
		garbage(reason, p)
	}
	s.lost += n
}
