package health

import "time"

// Report is the payload of a health event, as JSON. Keys are added and never change their meaning; a
// reader passes over those that it does not know. Sizes are bytes, ages and durations whole seconds.
type Report struct {
	Gateway string    `json:"gateway"`
	Version string    `json:"version"`
	Config  string    `json:"config"` // the first 12 hex digits of the SHA-256 of the config files
	Time    time.Time `json:"time"`   // by the gateway's wall clock
	Trusted bool      `json:"clock_trusted"`
	Uptime  int64     `json:"uptime"`   // of the process
	LastEnd string    `json:"last_end"` // how the run before ended: gateway.Recovery.LastEnd
	Epoch   string    `json:"epoch"`    // of the journal

	Accepted uint64 `json:"accepted"` // events, of all time
	Unrouted uint64 `json:"unrouted"`
	// Unaccounted is what the ledger cannot account for; absent if it could not be counted.
	Unaccounted *int64 `json:"unaccounted,omitempty"`

	Journal Journal  `json:"journal"`
	Disk    Disk     `json:"disk"`
	Memory  Memory   `json:"memory"`
	Uplinks []Uplink `json:"uplinks"`
}

// Journal is the store of events.
type Journal struct {
	Bytes    int64 `json:"bytes"`
	MaxBytes int64 `json:"max_bytes"`
	Full     bool  `json:"full"` // events are being refused
}

// Disk is the one that the data directory is on; absent numbers could not be had.
type Disk struct {
	Free    int64  `json:"free,omitempty"`
	Total   int64  `json:"total,omitempty"`
	Written uint64 `json:"written"`     // by the journal, since the process started
	Day     uint64 `json:"written_day"` // and in the last 24 hours of that
}

// Memory is that of the process.
type Memory struct {
	Resident int64  `json:"resident,omitempty"`
	Heap     uint64 `json:"heap"`
}

// Uplink is one far end.
type Uplink struct {
	Name   string    `json:"name"`
	Sink   string    `json:"sink"`
	Up     bool      `json:"up"`
	Reason string    `json:"reason,omitempty"` // why it is not
	Since  time.Time `json:"since"`            // when up last changed
	// CertificateExpires is when the client certificate does, if there is one.
	CertificateExpires time.Time `json:"certificate_expires,omitzero"`
	Routes             []Route   `json:"routes"`
}

// Route is what waits for it.
type Route struct {
	Name         string `json:"name"`
	Queued       uint64 `json:"queued"`        // events
	BacklogBytes int64  `json:"backlog_bytes"` // of those that are in the backlog beside the journal
	OldestAge    int64  `json:"oldest_age"`    // of the oldest of them
	Delivered    uint64 `json:"delivered"`     // of all time
	Dead         uint64 `json:"dead"`          // dead letters that are kept now
}
