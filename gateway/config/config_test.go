package config

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSmoke(t *testing.T) {
	f := filepath.Join(t.TempDir(), "weir.yaml")
	os.WriteFile(f, []byte(`gateway: {id: gw}
listeners:
  mqtt: {adress: 0.0.0.0:1883}
devices: {a/b: }
routes: {x: {topics: [plant1/#], uplink: c}}
`), 0o600)
	_, err := Load(f)
	t.Log(err)
	os.WriteFile(f, []byte(`gateway: {id: gw}
listeners:
  mqtt: {address: 0.0.0.0:1883}
devices: {a/b: }
uplinks: {cloud: {sink: mqtt}}
routes: {x: {topics: [plant1/#], uplink: clod}}
`), 0o600)
	_, err = Load(f)
	t.Log(err)
	os.WriteFile(f, nil, 0o600)
	c, err := Load(f)
	t.Logf("%+v %v", c, err)
}
