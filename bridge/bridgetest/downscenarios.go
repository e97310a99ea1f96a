package bridgetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
)

// SourceScenarios returns the suite.
func SourceScenarios() []SourceScenario {
	always := func(*FarSource) bool { return true }
	cut := func(f *FarSource) bool { return f.Cut != nil }
	stall := func(f *FarSource) bool { return f.Stall != nil }
	return []SourceScenario{
		{"everything comes in order, once, also what was sent meanwhile", always, receiveAll},
		{"nothing is acknowledged before it is stored", always, receiveHanging},
		{"killed between stored and acknowledged", always, receiveKilled},
		{"what cannot be stored comes again", always, receiveFull},
		{"what is denied does not come again", always, receiveDenied},
		{"connection is reset in mid batch", cut, receiveCuts},
		{"far end lies still", stall, receiveStalled},
		{"far end refuses", func(f *FarSource) bool { return f.Refuse != nil }, receiveRefused},
		{"stop while the far end lies still", stall, receiveStopStalled},
		{"many faults, seed 1", cut, func(r *receiver) error { return receiveFaults(r, 1) }},
		{"many faults, seed 2", cut, func(r *receiver) error { return receiveFaults(r, 2) }},
	}
}

// begin starts and waits until it is up: from then on the far end keeps what is sent.
func (r *receiver) begin() error {
	if err := r.start(); err != nil {
		return err
	}
	return r.until("it is up", r.isUp)
}

func receiveAll(r *receiver) error {
	if err := r.begin(); err != nil {
		return err
	}
	if err := r.pass(200); err != nil {
		return err
	}
	if err := r.stop(); err != nil {
		return err
	}
	if err := r.send(50); err != nil {
		return err
	}
	if err := r.start(); err != nil {
		return err
	}
	if err := r.until("250 are stored", r.all); err != nil {
		return err
	}
	if n := len(r.events()); n != 250 {
		return fmt.Errorf("%d events of 250 messages without a fault", n)
	}
	return nil
}

func receiveHanging(r *receiver) error {
	if err := r.begin(); err != nil {
		return err
	}
	r.store(hanging)
	if err := r.send(10); err != nil {
		return err
	}
	if err := r.until("they were taken", func() bool { return r.tookIn() >= r.flight() }); err != nil {
		return err
	}
	if err := r.stop(); err != nil {
		return err
	}
	r.store(storing)
	return r.start() // all of them are to come again
}

func receiveKilled(r *receiver) error {
	if err := r.begin(); err != nil {
		return err
	}
	if err := r.pass(10); err != nil {
		return err
	}
	for range 3 {
		r.store(dying)
		before := r.tookIn()
		if err := r.send(10); err != nil {
			return err
		}
		if err := r.until("they were taken", func() bool { return r.tookIn() >= before+r.flight() }); err != nil {
			return err
		}
		r.die()
		if err := r.start(); err != nil {
			return err
		}
		if r.far.NoIDs {
			continue
		}
		if err := r.until("they came again and were known", func() bool { return r.down.Status().Repeated >= uint64(r.flight()) }); err != nil {
			return err
		}
	}
	return nil
}

func receiveFull(r *receiver) error {
	if err := r.begin(); err != nil {
		return err
	}
	r.store(full)
	if err := r.send(10); err != nil {
		return err
	}
	if err := r.until("it says why it is down", func() bool { s := r.down.Status(); return !s.Up && s.Failed > 1 }); err != nil {
		return err
	}
	r.store(storing)
	return nil
}

func receiveDenied(r *receiver) error {
	if err := r.begin(); err != nil {
		return err
	}
	if err := r.far.Send(Message{ID: "bad", Topic: "down/denied", Payload: "x"}); err != nil {
		return err
	}
	if err := r.pass(10); err != nil {
		return err
	}
	if s := r.down.Status(); s.Denied != 1 || s.Stored != 10 {
		return fmt.Errorf("one was denied and ten were not: %+v", s)
	}
	if err := r.stop(); err != nil {
		return err
	}
	if err := r.begin(); err != nil {
		return err
	}
	if err := r.pass(1); err != nil {
		return err
	}
	if s := r.down.Status(); s.Denied != 0 {
		return errors.New("what was denied came again")
	}
	return nil
}

func receiveCuts(r *receiver) error {
	if err := r.begin(); err != nil {
		return err
	}
	for range 5 {
		before := r.tookIn()
		if err := r.send(60); err != nil {
			return err
		}
		if err := r.until("some were taken", func() bool { return r.tookIn() > before+5 }); err != nil {
			return err
		}
		r.far.Cut()
	}
	return nil
}

func receiveStalled(r *receiver) error {
	if err := r.begin(); err != nil {
		return err
	}
	if err := r.pass(10); err != nil {
		return err
	}
	r.far.Stall()
	if err := r.send(10); err != nil {
		return err
	}
	if err := r.until("the source has noticed", func() bool { return !r.isUp() }); err != nil {
		return err
	}
	if r.down.Status().Reason == "" {
		return errors.New("a downlink is down without a reason")
	}
	r.far.Heal()
	return r.until("it is up again", r.isUp)
}

func receiveRefused(r *receiver) error {
	if err := r.begin(); err != nil {
		return err
	}
	r.far.Refuse()
	if err := r.send(10); err != nil {
		return err
	}
	if err := r.until("it says why it is down", func() bool {
		s := r.down.Status()
		return !s.Up && s.Reason != "" && s.Reason != "not started"
	}); err != nil {
		return err
	}
	r.far.Heal()
	return nil
}

func receiveStopStalled(r *receiver) error {
	if err := r.begin(); err != nil {
		return err
	}
	r.far.Stall()
	if err := r.send(10); err != nil {
		return err
	}
	if err := r.stop(); err != nil {
		return err
	}
	r.far.Heal()
	return r.start()
}

func receiveFaults(r *receiver, seed uint64) error {
	random := rand.New(rand.NewPCG(seed, 0))
	if err := r.begin(); err != nil {
		return err
	}
	faults := []func() error{
		func() error { r.far.Cut(); return nil },
		func() error { r.die(); return r.start() },
		func() error { return errors.Join(r.stop(), r.start()) },
		func() error {
			r.store(full)
			err := r.send(random.IntN(20))
			r.store(storing)
			return err
		},
	}
	if r.far.Refuse != nil {
		faults = append(faults, func() error {
			r.far.Refuse()
			err := r.send(random.IntN(20))
			r.far.Heal()
			return err
		})
	}
	for range 15 {
		if err := r.send(random.IntN(30) + 1); err != nil {
			return err
		}
		if random.IntN(2) == 0 { // sometimes in full flight, sometimes after a while
			if err := r.until("all are stored", r.all); err != nil {
				return fmt.Errorf("seed %d: %w", seed, err)
			}
		}
		if err := faults[random.IntN(len(faults))](); err != nil {
			return fmt.Errorf("seed %d: %w", seed, err)
		}
	}
	return nil
}
