package bridgetest

import (
	"errors"
	"strings"
	"testing"

	"github.com/weir-iot/weir/gateway"
)

// CheckConfig checks that err, of a sink made from config, says what is wanted, "" for no error; and that it is
// invalid and names the key at which it is placed.
func CheckConfig(t testing.TB, config any, err error, want string) {
	t.Helper()
	got := ""
	if err != nil {
		got = err.Error()
		var placed *gateway.KeyError
		if !errors.As(err, &placed) || !strings.HasPrefix(got, placed.Key+": ") || !errors.Is(err, gateway.ErrInvalid) {
			t.Errorf("%v: not placed, or not invalid", err)
		}
	}
	if got != want {
		t.Errorf("%+v: %q, not %q", config, got, want)
	}
}
