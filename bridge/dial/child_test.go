package dial_test

import (
	"os"
	"os/exec"
	"testing"
)

// child runs the calling test again in a process of its own with more in its environment: the
// system's authorities are read once per process.
func child(t *testing.T, env ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(append(os.Environ(), "WEIR_DIAL_CHILD=1"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
