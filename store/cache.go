package store

import (
	"sync"
)

// fileCache keeps a bounded number of segments open for readers.
type fileCache struct {
	disk Disk

	mu      sync.Mutex
	open    map[*segment]*cachedFile
	clock   int64
	buffers [][]byte
}

type cachedFile struct {
	f    File
	refs int
	used int64
	gone bool // the segment is deleted
}

const (
	maxOpen    = 16 // more only while as many are being read at once
	maxBuffers = 4
)

func (c *fileCache) init(d Disk) {
	c.disk, c.open = d, map[*segment]*cachedFile{}
}

// get returns the file of s. Each get is followed by a put.
func (c *fileCache) get(s *segment) (File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clock++
	if o := c.open[s]; o != nil {
		o.refs++
		o.used = c.clock
		return o.f, nil
	}
	f, err := c.disk.Open(s.path, false)
	if err != nil {
		return nil, err
	}
	c.open[s] = &cachedFile{f: f, refs: 1, used: c.clock}
	return f, nil
}

func (c *fileCache) put(s *segment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[s].refs--
	if o := c.open[s]; o.gone && o.refs == 0 {
		o.f.Close()
		delete(c.open, s)
	}
	if len(c.open) <= maxOpen {
		return
	}
	var oldest *segment
	for s, o := range c.open {
		if o.refs == 0 && (oldest == nil || o.used < c.open[oldest].used) {
			oldest = s
		}
	}
	if oldest != nil {
		c.open[oldest].f.Close() // it was only read
		delete(c.open, oldest)
	}
}

// drop forgets s, whose file is about to be deleted, so that its blocks are given back.
func (c *fileCache) drop(s *segment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o := c.open[s]; o != nil {
		if o.gone = true; o.refs == 0 {
			o.f.Close()
			delete(c.open, s)
		}
	}
}

func (c *fileCache) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	for s, o := range c.open {
		if cerr := o.f.Close(); err == nil {
			err = cerr
		}
		delete(c.open, s)
	}
	return err
}

// buffer lends memory for a scan; giveBuffer takes it back unless a large frame has grown it.
func (c *fileCache) buffer() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.buffers); n > 0 {
		b := c.buffers[n-1]
		c.buffers = c.buffers[:n-1]
		return b[:0]
	}
	return make([]byte, 0, scanChunk)
}

func (c *fileCache) giveBuffer(b []byte) {
	if cap(b) > 4*scanChunk {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.buffers) < maxBuffers {
		c.buffers = append(c.buffers, b)
	}
}

// indexCache keeps the indexes that were used last, up to a number of bytes.
type indexCache struct {
	mu     sync.Mutex
	held   map[*segment]int64 // when it was used
	clock  int64
	memory int
}

const maxIndexMemory = 2 << 20

func (c *indexCache) init() { c.held = map[*segment]int64{} }

// use returns the index of s if it is in memory, and makes room for it.
func (c *indexCache) use(s *segment) *index {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := s.index.Load()
	if x == nil {
		return nil
	}
	if _, held := c.held[s]; !held {
		c.memory += x.memory
	}
	c.clock++
	c.held[s] = c.clock
	for c.memory > maxIndexMemory && len(c.held) > 1 {
		oldest := s
		for o, used := range c.held {
			if used < c.held[oldest] {
				oldest = o
			}
		}
		c.memory -= oldest.index.Load().memory
		oldest.index.Store(nil)
		delete(c.held, oldest)
	}
	return x
}

func (c *indexCache) drop(s *segment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, held := c.held[s]; held {
		c.memory -= s.index.Load().memory
		delete(c.held, s)
	}
}

// hints remember where readers stopped, so that reading on costs no search.
type hints struct {
	mu     sync.Mutex
	places map[hint]int64
}

type hint struct {
	seg    *segment
	offset uint64
}

const maxHints = 256

func (h *hints) init() { h.places = map[hint]int64{} }

func (h *hints) put(s *segment, offset uint64, pos int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.places) >= maxHints {
		for k := range h.places { // any: who misses it searches
			delete(h.places, k)
			break
		}
	}
	h.places[hint{s, offset}] = pos
}

func (h *hints) drop(s *segment) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for k := range h.places {
		if k.seg == s {
			delete(h.places, k)
		}
	}
}

func (h *hints) take(s *segment, offset uint64) (int64, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	pos, ok := h.places[hint{s, offset}]
	delete(h.places, hint{s, offset})
	return pos, ok
}
