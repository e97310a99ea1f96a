package main

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/weir-iot/weir/gateway"
)

// A start that fails of what may be over in a moment is tried again, and no other.
func TestPersist(t *testing.T) {
	moment := gateway.Errorf(gateway.ErrTransient, "the process with the databases ended")
	full := gateway.Errorf(gateway.ErrFull, "the disk is full")
	over := errors.New("the port is in use")
	for _, c := range []struct {
		name   string
		errs   []error // of the first starts
		starts int
		want   error
	}{
		{"at once", nil, 1, nil},
		{"the databases are killed twice", []error{moment, moment}, 3, nil},
		{"and the disk is full", []error{full}, 2, nil},
		{"they never stay", []error{moment, moment, moment, moment, moment, moment}, startAttempts, moment},
		{"a mistake", []error{over}, 1, over},
	} {
		n := 0
		got, err := persist(t.Context(), slog.New(slog.DiscardHandler), func() (int, error) {
			if n++; n <= len(c.errs) {
				return 0, c.errs[n-1]
			}
			return 7, nil
		})
		if n != c.starts || !errors.Is(err, c.want) || err == nil && got != 7 {
			t.Errorf("%s: %d starts, %d, %v", c.name, n, got, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	if _, err := persist(ctx, slog.New(slog.DiscardHandler), func() (int, error) { n++; cancel(); return 0, moment }); n != 1 || err == nil {
		t.Errorf("ended while it started: %d starts, %v", n, err)
	}
}
