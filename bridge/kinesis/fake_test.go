package kinesis_test

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/gateway"
)

// record is one of PutRecords.
type record struct {
	Data         []byte
	PartitionKey string
}

// result is what is answered for a record.
type result struct {
	SequenceNumber, ShardId, ErrorCode, ErrorMessage string `json:",omitempty"`
}

// fake is PutRecords as the API reference has it, with failures that an emulator does not have.
type fake struct {
	refuse func(record) bool                                         // this record, for now
	answer func(w http.ResponseWriter, records []record, n int) bool // if it returns true it has answered the n-th call

	*httptest.Server
	mu    sync.Mutex
	rand  *rand.Rand
	calls [][]record
	took  []record
	wrong []string
	auth  []string
	dates []string // of the signatures
}

func newFake() *fake { return &fake{rand: rand.New(rand.NewPCG(1, 1))} }

func start(t *testing.T) *fake {
	f := newFake()
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	t.Cleanup(func() {
		for _, w := range f.wrong {
			t.Error(w)
		}
	})
	return f
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var in struct {
		StreamName string
		Records    []record
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := json.Unmarshal(body, &in); err != nil || in.StreamName != "readings" || r.Header.Get("X-Amz-Target") != "Kinesis_20131202.PutRecords" {
		f.wrong = append(f.wrong, fmt.Sprintf("call %s %.100s: %v", r.Header, body, err))
	}
	f.calls = append(f.calls, in.Records)
	f.auth = append(f.auth, r.Header.Get("Authorization")+" "+r.Header.Get("X-Amz-Security-Token"))
	f.dates = append(f.dates, r.Header.Get("X-Amz-Date"))
	keys, size := map[string]bool{}, 0
	for _, r := range in.Records {
		if keys[r.PartitionKey] {
			f.wrong = append(f.wrong, "two records of "+r.PartitionKey+" in one call, which may change places")
		}
		keys[r.PartitionKey] = true
		size += len(r.Data) + len(r.PartitionKey)
		if len(r.PartitionKey) < 1 || len(r.PartitionKey) > 256 || len(r.Data)+len(r.PartitionKey) > 1<<20 {
			f.wrong = append(f.wrong, fmt.Sprintf("a record of %d bytes with key %q", len(r.Data), r.PartitionKey))
		}
	}
	if len(in.Records) > 500 || size > 5<<20 {
		f.wrong = append(f.wrong, fmt.Sprintf("a call with %d records, %d bytes", len(in.Records), size))
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	if f.answer != nil && f.answer(w, in.Records, len(f.calls)) {
		return
	}
	out := struct {
		FailedRecordCount int
		Records           []result
	}{Records: make([]result, len(in.Records))}
	for _, i := range f.rand.Perm(len(in.Records)) { // there is no order within a call
		if f.refuse != nil && f.refuse(in.Records[i]) {
			out.FailedRecordCount++
			out.Records[i] = result{ErrorCode: "ProvisionedThroughputExceededException", ErrorMessage: "Rate exceeded for shard"}
			continue
		}
		f.took = append(f.took, in.Records[i])
		out.Records[i] = result{SequenceNumber: strconv.Itoa(len(f.took)), ShardId: "shardId-000000000000"}
	}
	json.NewEncoder(w).Encode(out)
}

// refuseCall answers a whole call with an error.
func refuseCall(w http.ResponseWriter, status int, code, message string) bool {
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": message})
	return true
}

func (f *fake) allCalls() [][]record {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([][]record(nil), f.calls...)
}

func (f *fake) taken() []record {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]record(nil), f.took...)
}

func (f *fake) arrivals() (all []bridgetest.Arrival) {
	for _, r := range f.taken() {
		all = append(all, arrival(r.Data, r.PartitionKey))
	}
	return all
}

// arrival reads the data of the format event.
func arrival(data []byte, key string) bridgetest.Arrival {
	var face gateway.Face
	json.Unmarshal(data, &face)
	payload, _ := face.Bytes()
	if key != face.Topic {
		face.Topic = strings.Join([]string{face.Topic, "under the key", key}, " ")
	}
	return bridgetest.Arrival{ID: face.ID, Topic: face.Topic, Payload: string(payload)}
}
