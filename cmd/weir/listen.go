package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// listen opens a TCP listener for the config key.
func listen(key, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, listenError(key, "tcp", address, err)
	}
	return l, nil
}

// listenUDP opens a UDP socket for the config key.
func listenUDP(key, address string) (*net.UDPConn, error) {
	l, err := net.ListenPacket("udp", address)
	if err != nil {
		return nil, listenError(key, "udp", address, err)
	}
	return l.(*net.UDPConn), nil
}

// listenError says of a port that is taken the key, the process that holds it where that can be known, and the cure.
func listenError(key, network, address string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		by := "another process"
		if name := portHolder(network, address); name != "" {
			by = name
		}
		return fmt.Errorf("%s: %s is in use by %s: stop it, or set another address in %s", key, address, by, key)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s: %s: ports below 1024 need the capability CAP_NET_BIND_SERVICE: choose a higher one", key, address)
	}
	return fmt.Errorf("%s: %w", key, err)
}

// portHolder names the process that listens on address's port, as "name (pid N)". It
// returns "" when /proc does not tell, as for other users' processes.
func portHolder(network, address string) string {
	_, portText, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return ""
	}
	// proc(5): 0A is LISTEN; a UDP socket that is not connected is 07, CLOSE.
	waiting := map[string]string{"tcp": "0A", "udp": "07"}[network]
	inodes := map[string]bool{}
	for _, table := range []string{"/proc/net/" + network, "/proc/net/" + network + "6"} {
		f, err := os.Open(table)
		if err != nil {
			continue
		}
		for s := bufio.NewScanner(f); s.Scan(); {
			col := strings.Fields(s.Text()) // sl local_address rem_address st … inode
			if len(col) > 9 && col[3] == waiting && strings.HasSuffix(col[1], fmt.Sprintf(":%04X", port)) {
				inodes["socket:["+col[9]+"]"] = true
			}
		}
		f.Close()
	}
	if len(inodes) == 0 {
		return ""
	}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err != nil || !inodes[target] {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		if name, err := os.ReadFile("/proc/" + pid + "/comm"); err == nil {
			return fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(name)), pid)
		}
	}
	return ""
}

// listenUnix opens the socket on which the gateway answers its own commands. The journal's
// lock is held, so a socket that is there was left by a gateway that was killed.
func listenUnix(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		if errors.Is(err, syscall.EINVAL) {
			return nil, fmt.Errorf("gateway.data_dir: %s is too long a path for a unix socket (at most 107 bytes)", path)
		}
		return nil, fmt.Errorf("open command socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("open command socket: %w", err)
	}
	return peerListener{l.(*net.UnixListener)}, nil
}

// peerListener accepts connections of the gateway's own user and of root only: file
// modes alone would trust whoever was handed an open socket.
type peerListener struct{ *net.UnixListener }

func (l peerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := peerUID(c); err == nil && (uid == 0 || int(uid) == os.Getuid()) {
			return c, nil
		}
		c.Close()
	}
}

func peerUID(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *syscall.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return cred.Uid, nil
}

// browserURL is where a browser on this machine finds the page.
func browserURL(address net.Addr) string {
	ap, err := netip.ParseAddrPort(address.String())
	if err != nil {
		return "http://" + address.String()
	}
	host := ap.Addr().String()
	if ap.Addr().IsUnspecified() || ap.Addr().IsLoopback() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(int(ap.Port())))
}
