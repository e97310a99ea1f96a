package kinesis_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/bridge/bridgetest"
	"github.com/weir-iot/weir/bridge/kinesis"
)

// Keys come from the config, or else from where the AWS tools look.
func TestCredentials(t *testing.T) {
	f := start(t)
	addr := f.Listener.Addr().String()
	none := func(c *kinesis.Config) { c.AccessKeyID, c.SecretAccessKey = "", "" }
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	if _, err := bridgetest.Send(t, newSink(t, addr, none), events("a")...).Finish(); err == nil || !strings.HasPrefix(err.Error(), "no credentials: set access_key_id and secret_access_key") {
		t.Errorf("without any: %v", err)
	}
	for key, change := range map[string]func(*kinesis.Config){
		"AKIDEXAMPLE": func(c *kinesis.Config) { c.SessionToken = "token1" },
		"AKIDENV":     none,
	} {
		t.Setenv("AWS_ACCESS_KEY_ID", "AKIDENV")
		t.Setenv("AWS_SECRET_ACCESS_KEY", "x")
		t.Setenv("AWS_SESSION_TOKEN", "token1")
		if _, err := bridgetest.Send(t, newSink(t, addr, change), events("a")...).Finish(); err != nil {
			t.Fatal(err)
		}
		got := f.auth[len(f.auth)-1]
		if !strings.HasPrefix(got, "AWS4-HMAC-SHA256 Credential="+key+"/") || !strings.Contains(got, "/eu-central-1/kinesis/aws4_request, ") || !strings.HasSuffix(got, " token1") {
			t.Errorf("%s: %s", key, got)
		}
	}
}

// A clock that is wrong here costs one refusal: from then on signatures have the far end's time.
func TestWrongClock(t *testing.T) {
	f := start(t)
	ahead := 49 * time.Hour
	f.answer = func(w http.ResponseWriter, _ []record, n int) bool {
		w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
		return n == 1 && refuseCall(w, 403, "InvalidSignatureException", "Signature expired")
	}
	s := newSink(t, f.Listener.Addr().String())
	if _, err := bridgetest.Send(t, s, events("a")...).Finish(); err == nil {
		t.Fatal("no refusal")
	}
	for range 2 {
		if done, err := bridgetest.Send(t, s, events("a")...).Finish(); err != nil || len(done) != 1 {
			t.Fatal(err)
		}
	}
	for i, date := range f.dates {
		at, err := time.Parse("20060102T150405Z", date)
		if err != nil {
			t.Fatal(err)
		}
		want := time.Now()
		if i > 0 {
			want = want.Add(ahead)
		}
		if off := at.Sub(want).Abs(); off > time.Minute {
			t.Errorf("call %d is signed %v off", i+1, off)
		}
	}
}
