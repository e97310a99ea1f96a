package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The test binary is also weir: tests start real processes of it, which under -race are
// checked for races too.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"weir": main})
}

// TestScripts runs testdata/script/*.txtar: what a person types, and what they see.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error {
			mqtt, http := freePort(t), freePort(t)
			env.Setenv("MQTT", mqtt)
			env.Setenv("HTTP", http)
			env.Setenv("FAR", freePort(t)) // for a second gateway
			env.Setenv("FARHTTP", freePort(t))
			env.Setenv("XDG_CONFIG_HOME", env.WorkDir)
			return os.WriteFile(filepath.Join(env.WorkDir, "weir.yaml"), []byte(
				"gateway: {id: test-gw, site: plant1, data_dir: "+filepath.Join(env.WorkDir, "data")+"}\nhealth: {interval: 0}\n"+
					"listeners:\n  mqtt: {address: "+mqtt+"}\n  http: {address: "+http+"}\n"), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"listening": cmdListening,
			"expand":    cmdExpand,
			"wait-for":  cmdWaitFor,
			"mqttpub":   cmdPublish,
			"firstid":   cmdFirstID,
			"tty":       cmdTTY,
		},
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
	})
}
