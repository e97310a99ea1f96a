package dial_test

import (
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-iot/weir/bridge/dial"
)

// A slow link may take longer for a large payload than the ack timeout, as long as it moves.
func TestSlowLinkIsNotDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		const size, chunk = 256 << 10, 16 << 10
		go func() {
			buf := make([]byte, chunk)
			for got := 0; got < size; {
				time.Sleep(time.Second)
				n, err := b.Read(buf)
				if err != nil {
					return
				}
				got += n
			}
		}()
		began := time.Now()
		w := dial.Paced{Conn: a, Limit: 2 * time.Second}
		if n, err := w.Write(make([]byte, size)); n != size || err != nil {
			t.Errorf("wrote %d after %v: %v", n, time.Since(began), err)
		}
		if took := time.Since(began); took < 10*time.Second {
			t.Errorf("took %v; the test proves nothing", took)
		}
		_, err := w.Write([]byte("x")) // nobody reads any more
		if err == nil || !strings.Contains(err.Error(), "taken nothing for 2s") {
			t.Errorf("a dead link: %v", err)
		}
	})
}
