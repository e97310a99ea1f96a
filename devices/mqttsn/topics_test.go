package mqttsn

import (
	"fmt"
	"testing"
)

// Ids are a client's own, the same each time, and of those that the gateway chose the one used longest ago goes when
// there is no room.
func TestTopicIDs(t *testing.T) {
	predefined := func(id uint16) bool { return id < 0x4000 }
	a, b := newTopics(predefined), newTopics(predefined)
	for i := range maxTopics / 2 {
		a.add(fmt.Sprint("ours/", i))
	}
	for i := range maxTopics / 2 {
		a.ask(fmt.Sprint("theirs/", i))
	}
	seen := map[uint16]string{}
	for name, p := range a.ids {
		if other := seen[p.id]; other != "" || p.id == 0 || p.id >= 0x8000 || predefined(p.id) {
			t.Errorf("%s has id %d, which is taken by %q", name, p.id, other)
		}
		seen[p.id] = name
		if a.get(p.id) != p || p.name != name {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if again := b.ask("ours/0"); again.id != a.find("ours/0").id {
		t.Errorf("id %d, and %d another time", a.find("ours/0").id, again.id)
	}
	a.add("ours/0") // used again
	if a.add("ours/new") == nil || a.find("ours/1") != nil || a.find("ours/0") == nil {
		t.Error("another went than the one used longest ago")
	}
	for i := range maxTopics {
		if p := a.ask(fmt.Sprint("more/", i)); (p == nil) != (i >= maxTopics/2) {
			t.Fatalf("%d more: %+v", i, p)
		}
	}
	if a.add("ours/more") != nil {
		t.Error("a name that the client asked for went")
	}
}

// An id that was refused means nothing from then on.
func TestTopicIDSpent(t *testing.T) {
	a := newTopics(func(uint16) bool { return false })
	id := newTopics(a.taken).ask("plant1/t").id
	a.refuse(id)
	if p := a.ask("plant1/t"); p.id == id {
		t.Errorf("id %d", p.id)
	}
}
