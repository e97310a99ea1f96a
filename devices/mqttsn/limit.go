package mqttsn

import (
	"hash/maphash"
	"net/netip"
	"time"
)

// How much of strangers is looked at: datagrams a second of one address, in a row, and of all addresses.
const (
	strangerRate  = 20
	strangerBurst = 40
	strangersRate = 1000
	bucketCount   = 2048
)

// limit bounds what is done for those we do not know. It takes the same memory however many there are: addresses
// that meet in one bucket share it. It is for one goroutine.
type limit struct {
	seed    maphash.Seed
	all     bucket
	buckets [bucketCount]bucket
}

// bucket holds tokens, which come back with time.
type bucket struct {
	used float64 // tokens taken and not yet back
	at   time.Time
}

func (b *bucket) take(now time.Time, rate, burst float64) bool {
	b.used = max(0, b.used-now.Sub(b.at).Seconds()*rate)
	b.at = now
	if b.used+1 > burst {
		return false
	}
	b.used++
	return true
}

func newLimit() *limit { return &limit{seed: maphash.MakeSeed()} }

// allow tells whether one more datagram of this address may be looked at.
func (l *limit) allow(from netip.Addr, now time.Time) bool {
	address := from.Unmap().As16()
	b := &l.buckets[maphash.Bytes(l.seed, address[:])%bucketCount]
	return b.take(now, strangerRate, strangerBurst) && l.all.take(now, strangersRate, strangersRate)
}
