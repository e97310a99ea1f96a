package kinesis_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/cloudevents"
	"github.com/weir-iot/weir/bridge/dial"
	"github.com/weir-iot/weir/bridge/kinesis"
	"github.com/weir-iot/weir/gateway"
)

func TestConfig(t *testing.T) {
	with := func(change func(*kinesis.Config)) kinesis.Config {
		c := kinesis.Config{Stream: "s", Region: "eu-central-1"}
		change(&c)
		return c
	}
	for _, c := range []struct {
		c    kinesis.Config
		want string
	}{
		{with(func(*kinesis.Config) {}), ""},
		{with(func(c *kinesis.Config) { c.Region = "cn-north-1" }), ""},
		{kinesis.Config{Region: "eu-central-1"}, "stream: stream is missing: the stream's name"},
		{kinesis.Config{Stream: "s"}, "region: region is missing, such as eu-central-1"},
		{with(func(c *kinesis.Config) { c.Stream = "a/b" }), `stream: "a/b" is not the name of a stream: 1 to 128 of a-z A-Z 0-9 _ . -`},
		{with(func(c *kinesis.Config) { c.Region = "example.com/" }), `region: "example.com/" is not a region, such as eu-central-1`},
		{with(func(c *kinesis.Config) { c.Endpoint = "host:1" }), "endpoint: not an endpoint: https://host or http://host:port"},
		{with(func(c *kinesis.Config) { c.Endpoint = "https://u:p@h" }), "endpoint: not an endpoint: https://host or http://host:port"},
		{with(func(c *kinesis.Config) { c.AccessKeyID = "a" }), "access_key_id: access_key_id needs a secret_access_key"},
		{with(func(c *kinesis.Config) { c.SecretAccessKey = "a" }), "secret_access_key: secret_access_key needs an access_key_id"},
		{with(func(c *kinesis.Config) { c.SessionToken = "a" }), "session_token: session_token needs an access_key_id"},
		{with(func(c *kinesis.Config) { c.Format = "json" }), `format: unknown format "json": event, payload or cloudevents`},
		{with(func(c *kinesis.Config) { c.AckTimeout = 2 * time.Hour }), "ack_timeout: 2h0m0s is not from 1ms to 1h"},
		{with(func(c *kinesis.Config) { c.Proxy = "ftp://p:1" }), `proxy: unknown scheme "ftp": http://host:port, https://host:port or socks5://host:port`},
		{with(func(c *kinesis.Config) { c.Endpoint, c.Config = "http://h", dial.Config{CAFile: "x"} }), "ca_file: ca_file is for TLS, and this url has none"},
	} {
		_, err := kinesis.New(c.c, "gw", byTopic)
		bridgetest.CheckConfig(t, c.c, err, c.want)
	}
}

// events are one for each topic, with their number as payload.
func events(topics ...string) (all []*gateway.Event) {
	for i, topic := range topics {
		all = append(all, &gateway.Event{Topic: topic, Payload: []byte(strconv.Itoa(i + 1)), Accepted: time.Now(), Epoch: "e1", Offset: uint64(i + 1)})
	}
	return all
}

// keys are those of each call.
func keys(calls [][]record) (all []string) {
	for _, call := range calls {
		var k []string
		for _, r := range call {
			k = append(k, r.PartitionKey)
		}
		all = append(all, strings.Join(k, " "))
	}
	return all
}

// No two records of a key go into one call; those of other keys do not wait for them.
func TestOneOfEachKey(t *testing.T) {
	f := start(t)
	all := events("a", "b", "a", "c", "a", "b")
	if done, err := bridgetest.Send(t, newSink(t, f.Listener.Addr().String()), all...).Finish(); err != nil || len(done) != len(all) {
		t.Errorf("%v, %d outcomes", err, len(done))
	}
	if got := keys(f.allCalls()); !slices.Equal(got, []string{"a b c", "a b", "a"}) {
		t.Errorf("calls %q", got)
	}
}

// Of a call that was taken in part only what was refused is sent again, and nothing of its key
// before it.
func TestPartialFailure(t *testing.T) {
	f := start(t)
	left := 2
	f.refuse = func(r record) bool {
		if r.PartitionKey == "b" && left > 0 {
			left--
			return true
		}
		return false
	}
	s := newSink(t, f.Listener.Addr().String())
	all := events("a", "b", "c", "b", "d", "a")
	offsets := func(done []bridgetest.Outcome) (o []uint64) {
		for _, d := range done {
			if d.Err != nil {
				t.Error(d.Err)
			}
			o = append(o, d.Event.Offset)
		}
		slices.Sort(o)
		return o
	}
	done, err := bridgetest.Send(t, s, all...).Finish()
	const why = "the far end refused 1 of 4 records for now: ProvisionedThroughputExceededException: Rate exceeded for shard"
	if err == nil || err.Error() != why || !errors.Is(err, gateway.ErrFull) || !slices.Equal(offsets(done), []uint64{1, 3, 5}) {
		t.Errorf("%v, %v", err, offsets(done))
	}
	done, err = bridgetest.Send(t, s, all[1:]...).Finish() // as the pump does: from the first refused one on
	if err == nil || !slices.Equal(offsets(done), []uint64{3, 5, 6}) {
		t.Errorf("%v, %v", err, offsets(done))
	}
	done, err = bridgetest.Send(t, s, all[1:]...).Finish() // what was taken twice ago is still known
	if err != nil || !slices.Equal(offsets(done), []uint64{2, 3, 4, 5, 6}) {
		t.Errorf("%v, %v", err, offsets(done))
	}
	if got, want := keys(f.allCalls()), []string{"a b c d", "b a", "b", "b"}; !slices.Equal(got, want) {
		t.Errorf("calls %q, not %q", got, want)
	}
	if n := len(f.taken()); n != len(all) {
		t.Errorf("%d records for %d events", n, len(all))
	}
}

// A pump and a stream that refuses half of all records: each event arrives once, in order per key.
func TestHalfRefused(t *testing.T) {
	f := start(t)
	f.refuse = func(record) bool { return f.rand.IntN(2) == 0 }
	p := bridgetest.RunPump(t, newSink(t, f.Listener.Addr().String()))
	const n = 300
	for i := range n {
		p.Log.Append(&gateway.Event{Topic: "up/" + strconv.Itoa(i*i%17), Payload: []byte(strconv.Itoa(i)), Accepted: time.Now()})
	}
	bridgetest.Until(t, "all are delivered", func() bool { return p.Status().Delivered == n })
	last := map[string]int{}
	for _, a := range f.arrivals() {
		i, err := strconv.Atoi(a.Payload)
		if prev, ok := last[a.Topic]; err != nil || ok && i <= prev {
			t.Fatalf("%s: %s after %d", a.Topic, a.Payload, prev)
		}
		last[a.Topic] = i
	}
	if got := len(f.taken()); got != n {
		t.Errorf("%d records for %d events", got, n)
	}
}

// What an error of a whole call means. None of them is tried again by the SDK.
func TestCallErrors(t *testing.T) {
	for _, c := range []struct {
		status     int
		code, text string
		poison     bool
		reason     string
	}{
		{400, "ProvisionedThroughputExceededException", "Rate exceeded", false, "the far end answers ProvisionedThroughputExceededException: Rate exceeded"},
		{400, "ResourceNotFoundException", "Stream readings not found.", false, "the far end answers ResourceNotFoundException: Stream readings not found. (check stream and region: readings in eu-central-1)"},
		{400, "AccessDeniedException", "no", false, "the far end answers AccessDeniedException: no (the keys need the right kinesis:PutRecords on the stream)"},
		{403, "ExpiredTokenException", "expired", false, "the far end answers ExpiredTokenException: expired (the session_token has expired)"},
		{403, "InvalidSignatureException", "Signature expired", false, "the far end answers InvalidSignatureException: Signature expired (check secret_access_key, and this machine's clock)"},
		{403, "UnrecognizedClientException", "who?", false, "the far end answers UnrecognizedClientException: who? (check the keys)"},
		{500, "InternalFailure", "oops", false, "the far end answers InternalFailure: oops"},
		{400, "ValidationException", "Value at 'records.1.member.data' failed to satisfy constraint", true, "ValidationException: Value at 'records.1.member.data' failed to satisfy constraint"},
		{400, "ValidationException", "Value at 'shoe' failed", false, "the far end answers ValidationException: Value at 'shoe' failed"},
	} {
		f := start(t)
		f.answer = func(w http.ResponseWriter, _ []record, _ int) bool { return refuseCall(w, c.status, c.code, c.text) }
		done, err := bridgetest.Send(t, newSink(t, f.Listener.Addr().String()), events("a")...).Finish()
		if c.poison && len(done) == 1 {
			if err != nil || !errors.Is(done[0].Err, gateway.ErrInvalid) {
				t.Errorf("%s: %v, %v", c.code, err, done[0].Err)
			}
			err = done[0].Err
		} else if len(done) != 0 || errors.Is(err, gateway.ErrInvalid) {
			t.Errorf("%s: %v, %d outcomes", c.code, err, len(done))
		}
		if err == nil || err.Error() != c.reason || errors.Is(err, gateway.ErrFull) != strings.HasPrefix(c.code, "Provisioned") {
			t.Errorf("%s: %v", c.code, err)
		}
		if n := len(f.allCalls()); n != 1 {
			t.Errorf("%s: %d calls", c.code, n)
		}
	}
}

// An answer that does not fit the call acknowledges nothing.
func TestWrongAnswers(t *testing.T) {
	for body, want := range map[string]string{
		`{"FailedRecordCount":0,"Records":[{"SequenceNumber":"1","ShardId":"s"}]}`: "the far end answers for 1 of 2 records",
		`{"FailedRecordCount":0,"Records":[{},{}]}`:                                "the far end answers for a record without saying that it has it",
		`<html>hello</html>`: "cannot make sense of the far end's answer: ",
		``:                   "the far end answers for 0 of 2 records",
	} {
		f := start(t)
		f.answer = func(w http.ResponseWriter, _ []record, _ int) bool {
			fmt.Fprint(w, body)
			return true
		}
		done, err := bridgetest.Send(t, newSink(t, f.Listener.Addr().String()), events("a", "b")...).Finish()
		if err == nil || !strings.HasPrefix(err.Error(), want) || len(done) != 0 {
			t.Errorf("%s: %v, %d outcomes", body, err, len(done))
		}
	}
}

// Of a call that is called invalid only the guilty record is refused.
func TestInvalidRecordInACall(t *testing.T) {
	f := start(t)
	f.answer = func(w http.ResponseWriter, records []record, _ int) bool {
		return slices.ContainsFunc(records, func(r record) bool { return r.PartitionKey == "c" }) &&
			refuseCall(w, 400, "InvalidArgumentException", "Record 3 is not as it should be")
	}
	s := newSink(t, f.Listener.Addr().String())
	done, err := bridgetest.Send(t, s, events("a", "b", "c", "d", "d", "a")...).Finish()
	if err != nil || len(done) != 6 {
		t.Fatalf("%v, %d outcomes", err, len(done))
	}
	for _, o := range done {
		if errors.Is(o.Err, gateway.ErrInvalid) != (o.Event.Topic == "c") {
			t.Errorf("%s: %v", o.Event.Topic, o.Err)
		}
	}
	if got, want := keys(f.allCalls()), []string{"a b c d", "a", "b", "c", "d", "d a"}; !slices.Equal(got, want) {
		t.Errorf("calls %q, not %q", got, want)
	}
}

// What does not fit into a record is refused before it is sent; calls stay within their limits, and
// long keys get short ones.
func TestLimits(t *testing.T) {
	f := start(t)
	var all []*gateway.Event
	add := func(topic string, size int) *gateway.Event {
		e := &gateway.Event{Topic: topic, Payload: []byte(strings.Repeat("x", size)), Epoch: "e1", Offset: uint64(len(all) + 1)}
		all = append(all, e)
		return e
	}
	for i := range 600 {
		add("t"+strconv.Itoa(i), 1)
	}
	for i := range 7 {
		add("big"+strconv.Itoa(i), 1<<20-100)
	}
	fits, tooBig := add("edge", 1<<20-4), add("edge", 1<<20-3)
	long := add(strings.Repeat("long/", 60), 1)
	s := newSink(t, f.Listener.Addr().String(), func(c *kinesis.Config) { c.Format = "payload" })
	done, err := bridgetest.Send(t, s, all...).Finish()
	if err != nil || len(done) != len(all) {
		t.Errorf("%v, %d outcomes", err, len(done))
	}
	for _, o := range done {
		if errors.Is(o.Err, gateway.ErrInvalid) != (o.Event == tooBig) {
			t.Errorf("%s of %d bytes: %v", o.Event.Topic, len(o.Event.Payload), o.Err)
		}
	}
	for _, r := range f.taken() {
		if r.PartitionKey == fits.Topic && len(r.Data) != 1<<20-4 || r.PartitionKey == long.Topic {
			t.Errorf("%s: %d bytes", r.PartitionKey, len(r.Data))
		}
	}
	if n := len(f.allCalls()); n != 3 { // 500; 100 and 4 large ones; the rest
		t.Errorf("%d calls", n)
	}
}

func TestFormats(t *testing.T) {
	f := start(t)
	addr := f.Listener.Addr().String()
	for _, format := range []string{"", "cloudevents", "payload"} {
		if _, err := bridgetest.Send(t, newSink(t, addr, func(c *kinesis.Config) { c.Format = format }), events("plant1/t")...).Finish(); err != nil {
			t.Fatal(err)
		}
	}
	all := f.taken()
	if a := arrival(all[0].Data, all[0].PartitionKey); a.ID != "test-gw/e1-1" || a.Topic != "plant1/t" || a.Payload != "1" {
		t.Errorf("%+v", a)
	}
	var c cloudevents.Event
	if err := json.Unmarshal(all[1].Data, &c); err != nil || c.ID != "test-gw/e1-1" || c.Subject != "plant1/t" || string(c.Data) != "1" {
		t.Errorf("%+v, %v", c, err)
	}
	if string(all[2].Data) != "1" {
		t.Errorf("%s", all[2].Data)
	}
}
