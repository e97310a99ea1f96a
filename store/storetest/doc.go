// Package storetest holds the contract of a journal as tests: order, durability, epochs,
// gaps, damage, a full disk. One suite, for every implementation:
//
//	func TestJournal(t *testing.T) {
//		storetest.TestJournal(t, func(o store.Options) (storetest.Journal, error) { return store.Open(o) })
//	}
//
// The suite re-executes the test binary to kill it, by the name of the calling test. [Disk] is a
// disk with faults: hooks before writes and syncs, and a power cut that forgets what was not synced.
package storetest
