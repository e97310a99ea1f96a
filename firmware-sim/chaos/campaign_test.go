package chaos

import (
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCampaign is a minute of what make chaos does for longer, on programs that are built for it.
func TestCampaign(t *testing.T) {
	if testing.Short() {
		t.Skip("takes more than a minute")
	}
	bin := t.TempDir()
	weir, sim := filepath.Join(bin, "weir"), filepath.Join(bin, "firmware-sim")
	const module = "github.com/weir-iot/weir/"
	for _, build := range [][]string{{"-tags", "faults", "-o", weir, module + "cmd/weir"}, {"-o", sim, module + "firmware-sim"}} {
		if out, err := exec.Command("go", append([]string{"build"}, build...)...).CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
	}
	cmd := exec.Command(sim, "chaos", "--for", "1m", "--seed", "1", "--json", "--dir", filepath.Join(bin, "run"))
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	var r Report
	if jsonErr := json.Unmarshal(out, &r); jsonErr != nil {
		t.Fatalf("%v, %v\n%s\n%s", err, jsonErr, out, said.String())
	}
	t.Logf("\n%s", &r)
	if err != nil || !r.OK() {
		t.Errorf("%v\n%s", err, said.String())
	}
}
