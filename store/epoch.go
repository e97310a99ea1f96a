package store

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/weir-iot/weir/gateway"
)

// epoch names one unbroken history of offsets.
type epoch struct {
	name  string
	first uint64 // offset that the first entry got, or would have got
	last  uint64 // the last that survived; first-1 if none; open: MaxOffset
	lost  bool   // entries after last may have been seen and are gone
}

const open = gateway.MaxOffset

// table is what the journal has to know before it looks at a segment. It lives in the file
// "epochs", in two slots that are written in turn: each carries a sequence number
// and a sum, so a write that is torn leaves the other. Writing in place needs no free
// space: a gateway whose disk is full still starts and stops properly.
type table struct {
	seq    uint64
	epochs []epoch // oldest first; the last one is open

	boot    string // the boot in which it was written
	machine string // and the machine
	inode   uint64 // of the file itself: a copied or restored directory has another
	reserve uint64 // offsets from here on were never given out
	clean   uint64 // the next offset when the journal was stopped properly; else 0
	last    uint64 // and the last that was written then
	suspect bool   // a sync failed: what the kernel shows of the tail may not be on disk
	age     ageMark
}

const (
	tableFile    = "epochs"
	tableMagic   = "WEIREPO1"
	tableSlot    = 64 << 10
	maxEpochs    = 1500    // so that a slot holds them; positions in older ones become unknown
	reserveStep  = 1 << 20 // offsets
	reserveGuess = 1 << 32 // how far to jump when the table is gone: more than was ever in flight
)

var epochEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// newEpochName is unique by itself, so that a clone and its original, which both begin
// an epoch, never choose the same name.
func newEpochName() string {
	var b [5]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	return epochEncoding.EncodeToString(b[:])
}

func (t *table) current() *epoch { return &t.epochs[len(t.epochs)-1] }

// begin closes the open epoch at last and opens a new one.
func (t *table) begin(last uint64, lost bool) {
	if n := len(t.epochs); n > 0 {
		t.epochs[n-1].last, t.epochs[n-1].lost = last, lost
		if n >= maxEpochs {
			t.epochs = append([]epoch(nil), t.epochs[n-maxEpochs+1:]...)
		}
	}
	t.epochs = append(t.epochs, epoch{name: newEpochName(), first: t.reserve, last: open})
}

// find is the place of the epoch name in t, or -1.
func (t *table) find(name string) int {
	for i := range t.epochs {
		if t.epochs[i].name == name {
			return i
		}
	}
	return -1
}

func (t *table) encode() []byte {
	b := make([]byte, 20, 512)
	b = binary.AppendUvarint(b, t.seq)
	b = appendString(b, t.boot)
	b = appendString(b, t.machine)
	b = binary.AppendUvarint(b, t.inode)
	b = binary.AppendUvarint(b, t.reserve)
	b = binary.AppendUvarint(b, t.clean)
	b = binary.AppendUvarint(b, t.last)
	b = append(b, flag(t.suspect))
	b = binary.AppendUvarint(b, uint64(t.age.boot))
	b = binary.AppendVarint(b, int64(t.age.base))
	b = binary.AppendVarint(b, int64(t.age.last))
	b = binary.AppendUvarint(b, uint64(t.age.seen.boot))
	b = appendTime(b, t.age.seen.wall)
	b = binary.AppendVarint(b, int64(t.age.seen.age))
	b = binary.AppendUvarint(b, uint64(len(t.epochs)))
	for _, e := range t.epochs {
		b = appendString(b, e.name)
		b = binary.AppendUvarint(b, e.first)
		b = binary.AppendUvarint(b, e.last)
		b = append(b, flag(e.lost))
	}
	copy(b, tableMagic)
	binary.LittleEndian.PutUint32(b[8:], 1) // format version
	binary.LittleEndian.PutUint32(b[12:], uint32(len(b)))
	binary.LittleEndian.PutUint32(b[16:], tableSum(b))
	return b
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// tableSum leaves out the sum's own place.
func tableSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:16], castagnoli), castagnoli, b[20:])
}

var errTable = errors.New("no valid slot")

func decodeTable(b []byte) (*table, error) {
	if len(b) < 20 || string(b[:8]) != tableMagic {
		return nil, errTable
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != 1 {
		return nil, newerFormat("table of epochs", v)
	}
	n := binary.LittleEndian.Uint32(b[12:])
	if n < 20 || uint64(n) > uint64(len(b)) || tableSum(b[:n]) != binary.LittleEndian.Uint32(b[16:]) {
		return nil, errTable
	}
	d := decoder{rest: b[20:n]}
	t := &table{
		seq: d.uvarint(), boot: d.string(), machine: d.string(), inode: d.uvarint(),
		reserve: d.uvarint(), clean: d.uvarint(), last: d.uvarint(), suspect: d.byte() == 1,
	}
	t.age = ageMark{boot: uint32(d.uvarint()), base: time.Duration(d.varint()), last: time.Duration(d.varint())}
	t.age.seen = sighting{boot: uint32(d.uvarint()), wall: d.time(), age: time.Duration(d.varint())}
	for range d.uvarint() {
		if d.err != nil {
			break
		}
		t.epochs = append(t.epochs, epoch{d.string(), d.uvarint(), d.uvarint(), d.byte() == 1})
	}
	if d.err != nil || len(t.epochs) == 0 {
		return nil, errTable
	}
	return t, nil
}

type formatError struct {
	what    string
	version uint32
}

func newerFormat(what string, version uint32) error { return &formatError{what, version} }

func (e *formatError) Error() string {
	return fmt.Sprintf("%s has format version %d, written by a newer weir", e.what, e.version)
}

// tableStore is the open file of the table.
type tableStore struct {
	f     File
	inode uint64
}

// openTable reads the table of dir. Without an error and without a table there is
// none, or none that can be read.
func openTable(d Disk, dir string) (*tableStore, *table, error) {
	path := filepath.Join(dir, tableFile)
	f, err := d.Open(path, false)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var best *table
	for slot := range int64(2) {
		buf := readAround(f, make([]byte, tableSlot), slot*tableSlot)
		t, err := decodeTable(buf)
		if newer := (*formatError)(nil); errors.As(err, &newer) {
			f.Close()
			return nil, nil, err
		}
		if err == nil && (best == nil || t.seq > best.seq) {
			best = t
		}
	}
	if best == nil {
		return nil, nil, f.Close()
	}
	return &tableStore{f, inode(path)}, best, nil
}

// createTable writes t as a new file.
func createTable(d Disk, dir string, t *table) (*tableStore, error) {
	path := filepath.Join(dir, tableFile)
	t.inode = 0 // not known yet; the first save writes it
	blank := make([]byte, 2*tableSlot)
	t.seq++
	copy(blank[t.seq%2*tableSlot:], t.encode())
	if err := writeFileAtomic(d, dir, tableFile, blank); err != nil {
		return nil, err
	}
	f, err := d.Open(path, false)
	if err != nil {
		return nil, err
	}
	return &tableStore{f, inode(path)}, nil
}

// save writes t durably.
func (s *tableStore) save(t *table) error {
	t.inode = s.inode
	t.seq++
	_, err := s.f.WriteAt(t.encode(), int64(t.seq%2)*tableSlot)
	if err == nil {
		err = s.f.Sync()
	}
	if err != nil {
		return fmt.Errorf("write table of epochs: %w", err)
	}
	return nil
}

func inode(path string) uint64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Ino)
	}
	return 0
}

// bootID names the running boot of this machine. Where it cannot be told it is empty,
// which equals no boot.
func bootID() string { return readID("/proc/sys/kernel/random/boot_id") }

// machineID names this machine: its installation, and the board's serial number where
// the firmware tells it, because a copied card brings the installation along.
func machineID() string {
	return readID("/etc/machine-id") + "/" + readID("/proc/device-tree/serial-number")
}

func readID(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, 128))
	return strings.Trim(string(b), "\x00\n ")
}
