//go:build !faults

package main

import (
	"log/slog"

	"github.com/weir-iot/weir/store"
)

// withFaults is where a build with the tag "faults" puts a disk that forgets under the journal.
func withFaults(o store.Options, _ *slog.Logger) store.Options { return o }
