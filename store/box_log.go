package store

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"time"
)

// boxLog takes what a child writes to the log: lines of its own logger with their level, and other lines, which are
// of a crash, as errors.
type boxLog struct {
	log   *slog.Logger
	rest  []byte
	lines int // since when
	since time.Time
}

// More lines than these in that time are left out, and of a line what is longer.
const (
	boxLines = 40
	boxSpan  = 10 * time.Second
	boxLine  = 2 << 10
)

func (l *boxLog) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		line, after, whole := bytes.Cut(b, []byte("\n"))
		l.rest = append(l.rest, line[:min(len(line), boxLine-min(boxLine, len(l.rest)))]...)
		if b = after; whole {
			l.line(l.rest)
			l.rest = l.rest[:0]
		}
	}
	return n, nil
}

func (l *boxLog) line(b []byte) {
	if time.Since(l.since) > boxSpan {
		l.lines, l.since = 0, time.Now()
	}
	if l.lines++; l.lines > boxLines || len(b) == 0 {
		return
	}
	var said map[string]any
	if json.Unmarshal(b, &said) != nil {
		l.log.Error("the process with the databases said", "line", string(b))
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
