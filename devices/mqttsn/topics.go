package mqttsn

import "hash/fnv"

// maxTopics is how many topic names one client can have ids for.
const maxTopics = 256

// topics are the topic ids of one client, §6.5. An id is made of its name, so that one which a node still has from
// before a restart means the same topic or none, and never another one.
type topics struct {
	names map[uint16]*topic
	ids   map[string]*topic
	taken func(id uint16) bool // by a predefined topic
	// spent are ids that were refused. They mean nothing from then on, or a late copy of the publish that was refused
	// would be taken in beside the one that the client made of it with the id it asked for then.
	spent map[uint16]bool
	clock uint64
}

type topic struct {
	name  string
	id    uint16
	known bool   // the client knows the id
	asked bool   // the client asked for it: it stays
	used  uint64 // of those that do not stay, the one used longest ago goes first
}

func newTopics(taken func(uint16) bool) *topics {
	return &topics{names: map[uint16]*topic{}, ids: map[string]*topic{}, spent: map[uint16]bool{}, taken: taken}
}

// get is the topic that a client means by id; nil if it means none.
func (t *topics) get(id uint16) *topic { return t.names[id] }

// refuse says that id means nothing.
func (t *topics) refuse(id uint16) {
	if len(t.spent) < maxTopics {
		t.spent[id] = true
	}
}

// find is the topic of that name, if it has an id.
func (t *topics) find(name string) *topic { return t.ids[name] }

// ask gives name an id because the client wants one. It returns nil when there is no room.
func (t *topics) ask(name string) *topic {
	p := t.add(name)
	if p != nil {
		p.known, p.asked = true, true
	}
	return p
}

// add gives name an id, if it has none. It returns nil when the client has asked for as many as there can be.
func (t *topics) add(name string) *topic {
	t.clock++
	if p := t.ids[name]; p != nil {
		p.used = t.clock
		return p
	}
	if len(t.ids) >= maxTopics && !t.evict() {
		return nil
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	for {
		sum := h.Sum32()
		id := uint16(sum^sum>>16) & 0x7FFF                                 // there are clients that read it as a signed number
		if id != 0 && t.names[id] == nil && !t.taken(id) && !t.spent[id] { // 0 is reserved, §5.3.11
			p := &topic{name: name, id: id, used: t.clock}
			t.ids[name], t.names[id] = p, p
			return p
		}
		h.Write([]byte{0})
	}
}

func (t *topics) evict() bool {
	var oldest *topic
	for _, p := range t.ids {
		if !p.asked && (oldest == nil || p.used < oldest.used) {
			oldest = p
		}
	}
	if oldest == nil {
		return false
	}
	delete(t.ids, oldest.name)
	delete(t.names, oldest.id)
	return true
}
