package child

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"time"
)

// lines takes what a child writes to the log: lines of its own logger with their level, and other lines, which are
// of a crash, as errors.
type lines struct {
	log   *slog.Logger
	name  string
	rest  []byte
	count int // since when
	since time.Time
}

// More lines than these in that time are left out, and of a line what is longer.
const (
	maxLines = 40
	span     = 10 * time.Second
	maxLine  = 2 << 10
)

func (l *lines) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		line, after, whole := bytes.Cut(b, []byte("\n"))
		l.rest = append(l.rest, line[:min(len(line), maxLine-min(maxLine, len(l.rest)))]...)
		if b = after; whole {
			l.line(l.rest)
			l.rest = l.rest[:0]
		}
	}
	return n, nil
}

func (l *lines) line(b []byte) {
	if time.Since(l.since) > span {
		l.count, l.since = 0, time.Now()
	}
	if l.count++; l.count > maxLines || len(b) == 0 {
		return
	}
	var said map[string]any
	if json.Unmarshal(b, &said) != nil {
		l.log.Error(l.name+" said", "line", string(b))
		return
	}
	level := slog.LevelError
	if text, ok := said[slog.LevelKey].(string); ok {
		level.UnmarshalText([]byte(text)) // or it stays an error
	}
	message, _ := said[slog.MessageKey].(string)
	var attrs []slog.Attr
	for key, value := range said {
		if key != slog.LevelKey && key != slog.MessageKey && key != slog.TimeKey {
			attrs = append(attrs, slog.Any(key, value))
		}
	}
	l.log.LogAttrs(context.Background(), level, message, attrs...)
}
