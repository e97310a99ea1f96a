package store_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/weir-iot/weir/store"
	"github.com/weir-iot/weir/store/storetest"
)

func TestJournal(t *testing.T) {
	storetest.TestJournal(t, func(o store.Options) (storetest.Journal, error) { return store.Open(o) })
	goleak.VerifyNone(t)
}
