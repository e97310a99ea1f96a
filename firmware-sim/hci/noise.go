package hci

import (
	"math/rand/v2"
	"slices"
)

// Spoil is event with up to three things wrong: a byte or a bit that is another, bytes that are missing, the end of one
// of the others. It may be empty.
func Spoil(random *rand.Rand, event []byte, others [][]byte) []byte {
	event = slices.Clone(event)
	for range random.IntN(4) {
		if len(event) == 0 {
			break
		}
		switch i := random.IntN(len(event)); random.IntN(4) {
		case 0:
			event[i] = byte(random.Uint32())
		case 1:
			event[i] ^= 1 << random.IntN(8)
		case 2:
			event = append(event[:i], event[min(len(event)-1, i+random.IntN(4)):]...)
		case 3:
			event = slices.Concat(event[:i], others[random.IntN(len(others))])
		}
	}
	return event
}
