// Package store keeps what Weir must not lose: the journal, which is the one ordered log
// of events, and the state, which is keyed and small.
//
//	Append ─► queue ─► writer ─► segment file        one write(2) for all that wait,
//	 encodes           offsets   │                   one fdatasync if anybody waits for it
//	                             ▼
//	                          releaser ─► Hub.Released ─► done(nil) ─► Hub.Synced
//
// The journal is Weir's own segment files because acknowledgements wait for it: it is as
// fast as the disk, bounded by deleting whole files, and honest about a full disk and
// a torn tail, on 32-bit machines too. Start reading in journal.go; then writer.go, which
// gives out offsets; recover.go, which finds the end again; read.go, which serves readers
// from any offset; frame.go, segment.go, index.go and epoch.go, which are the formats.
//
// What is stored survives as follows. Written: kill -9. Synced: a power cut. After a failed sync
// nothing more is stored until the next start, because the kernel may have dropped what
// it could not write and would call the next sync a success.
//
// An epoch names one unbroken history of offsets. A new one begins when entries that
// somebody saw may be gone (a power cut, a torn tail) or when another journal may go on from
// the same place (a copy, a restore, another machine). It starts above a synced reserve, so that
// no offset is ever used twice. A write that a kill broke off is no reason: nobody saw it.
//
// The state (state.go) and the reservoir (reservoir.go) are Badger: a key-value store is what it is good at. The
// state is a view of the journal, so a damaged one is set aside and made again from there. The reservoir is the
// only place that has what it has, so it is opened with what is left, and says what is lost. Both run in
// a process of their own (box.go), because Badger ends the process it is in when the disk is full.
package store
