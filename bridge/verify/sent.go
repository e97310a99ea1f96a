package verify

// Due is an event that a gateway has sent by a route, as the gateway says.
type Due struct {
	ID    string `json:"id"`
	Topic string `json:"topic"`
	// Excuse is why it may not have arrived: it is a dead letter, or may have expired before its turn
	// came. Empty: it has to be there.
	Excuse string `json:"excuse,omitempty"`
}

// Sent is what a gateway says against what has arrived: of its events between the first and the last
// that did, those that did not.
type Sent struct {
	Due     uint64            `json:"due"` // between the two, with both
	Missing Findings          `json:"missing"`
	Excused map[string]uint64 `json:"excused,omitempty"` // missing, by Excuse
}

// Against compares with due, which is in journal order. What lies before the first and behind the last of
// them that has arrived cannot be judged: reading began later and ended earlier.
func (c *Checker) Against(due []Due) *Sent {
	here := func(d Due) bool {
		at, ok := ParseID(d.ID)
		h := c.epochs[[2]string{at.Gateway, at.Epoch}]
		if !ok || h == nil {
			return false
		}
		_, seen := h.seen[at.Offset]
		return seen
	}
	first, last := 0, len(due)
	for first < last && !here(due[first]) {
		first++
	}
	for last > first && !here(due[last-1]) {
		last--
	}
	s := &Sent{Due: uint64(last - first), Excused: map[string]uint64{}}
	for _, d := range due[first:last] {
		switch {
		case here(d):
		case d.Excuse != "":
			s.Excused[d.Excuse]++
		default:
			at, _ := ParseID(d.ID)
			s.Missing.add(at, d.Topic, "")
		}
	}
	return s
}
