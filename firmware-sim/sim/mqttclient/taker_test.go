package mqttclient

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// A client's messages come once and in order, with their properties, in both versions.
func TestTaker(t *testing.T) {
	for _, v := range []Version{V311, V5} {
		var mu sync.Mutex
		var got []string
		taker := &Taker{Take: func(m *Message) {
			mu.Lock()
			defer mu.Unlock()
			id, _ := m.Property("id")
			got = append(got, fmt.Sprintf("%s %s %s", m.Topic, m.Payload, id))
		}}
		if err := taker.Start(); err != nil {
			t.Fatal(err)
		}
		c := New(Options{Address: taker.Addr(), ClientID: "c", Version: v, KeepAlive: time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		done := make(chan struct{})
		go func() { defer close(done); c.Run(ctx) }()
		for i := range 3 {
			m := &Message{Topic: "a", Payload: fmt.Append(nil, i), QoS: 1, Properties: []UserProperty{{"id", "x"}}}
			if err := c.PublishWait(ctx, m); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		<-done
		taker.Close()
		want := "[a 0 x a 1 x a 2 x]"
		if v == V311 {
			want = "[a 0  a 1  a 2 ]"
		}
		if fmt.Sprint(got) != want || taker.Problem() != nil {
			t.Errorf("version %d: got %v, %v", v, got, taker.Problem())
		}
	}
}

func TestTakerSaysWhatMayNotBe(t *testing.T) {
	taker := &Taker{Take: func(*Message) {}}
	if err := taker.Start(); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", taker.Addr())
	if err != nil {
		t.Fatal(err)
	}
	c.Write([]byte{pingreq << 4, 0})
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("it answers")
	}
	c.Close()
	taker.Close()
	if err := taker.Problem(); err == nil {
		t.Error("a ping before CONNECT is no problem")
	}
}
