package fault

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"syscall"
)

// Addresses given out lie below the ports that Linux gives to outgoing connections (ip_local_port_range, 32768 on): one of
// those, which listening on port 0 yields, may be somebody's own end of a connection by the time it is used.
const (
	firstPort = 10_000
	lastPort  = 32_000
)

// Each process begins at a place of its own, so that two of them seldom try the same port.
var (
	place = rand.Uint32N(lastPort - firstPort)
	given atomic.Uint32
)

// FreeAddress returns an address on loopback, host:port, where nobody listens, for a program that is told where it shall. Network is tcp or
// udp. This process gets each address once.
func FreeAddress(network string) (string, error) {
	for range lastPort - firstPort {
		address := fmt.Sprintf("127.0.0.1:%d", firstPort+(place+given.Add(1))%(lastPort-firstPort))
		var free interface{ Close() error }
		var err error
		if network == "udp" {
			free, err = net.ListenPacket(network, address)
		} else {
			free, err = net.Listen(network, address)
		}
		switch {
		case err == nil:
			return address, free.Close()
		case !errors.Is(err, syscall.EADDRINUSE) && !errors.Is(err, syscall.EACCES):
			return "", err
		}
	}
	return "", errors.New("no port is free")
}
