package web

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// deviceStream answers with what open writes of a device, for as long as the client reads. It shows bytes that are
// on no topic, so it is for those who may manage the gateway.
func (s *Server) deviceStream(kind, contentType string, open func(ctx context.Context, device string, out io.Writer) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := accountOf(r).CanManage(); err != nil {
			s.fail(w, r, err)
			return
		}
		ctx, done := s.stream(w, r, kind)
		if ctx == nil {
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "no-store")
		out := &flushed{w: w, rc: http.NewResponseController(w), timeout: s.o.WriteTimeout}
		err := open(ctx, r.PathValue("id"), out)
		if err != nil && !out.begun {
			done("refused")
			s.fail(w, r, err)
			return
		}
		done(endReason(ctx, err))
	}
}

// flushed hands on each write at once, and gives a client that does not read no more than a while for it.
type flushed struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	timeout time.Duration
	begun   bool
}

func (f *flushed) Write(p []byte) (int, error) {
	f.begun = true
	if err := f.rc.SetWriteDeadline(time.Now().Add(f.timeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	n, err := f.w.Write(p)
	if err == nil {
		err = f.rc.Flush()
	}
	return n, err
}
