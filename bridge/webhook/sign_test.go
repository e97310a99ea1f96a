package webhook

import (
	"testing"
	"time"
)

// The example that the Standard Webhooks project publishes with its libraries (the test of
// signing, the same in each language).
func TestSignatureExample(t *testing.T) {
	s, err := New(Config{URL: "https://h", Secrets: []string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"}}, "gw")
	if err != nil {
		t.Fatal(err)
	}
	const want = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	got := sign(s.keys[:1], "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if got != want {
		t.Errorf("%s, not %s", got, want)
	}
	both := sign(s.keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if both[:len(want)+4] != want+" v1," || len(both) != 2*len(want)+1 {
		t.Errorf("two secrets: %s", both)
	}
}
