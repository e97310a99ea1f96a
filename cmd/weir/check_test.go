package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/weir-iot/weir/gateway/config"
)

// Every example is valid down to its devices and uplinks, as weir check would find.
func TestExamplesAreValid(t *testing.T) {
	files, err := filepath.Glob("../../configs/good/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	// The commented file, with what it comments out: "#key" and "#  key" are config, "# Text" is not.
	text, err := os.ReadFile("../../configs/weir.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := filepath.Join(t.TempDir(), "weir.yaml")
	text = regexp.MustCompile(`(?m)^#(\w|  )`).ReplaceAll(text, []byte("$1"))
	text = bytes.ReplaceAll(text, []byte("${file:/etc/weir/cloud.password}"), []byte("secret"))
	if err := os.WriteFile(all, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, "../../configs/weir.yaml", all) {
		cfg, err := config.Load(file)
		if err == nil {
			err = checkParts(cfg)
		}
		if err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestExitCodes(t *testing.T) {
	good, bad := filepath.Join(t.TempDir(), "good.yaml"), filepath.Join(t.TempDir(), "bad.yaml")
	data := t.TempDir()
	if err := os.WriteFile(good, []byte("gateway: {data_dir: "+data+"}\nusers: {u: {password_hash: \"$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNo\"}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bad, []byte("gatway: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		code int
		args []string
	}{
		{0, []string{"version"}},
		{0, []string{"check", good}},
		{exitFailed, []string{"-c", good, "can", "u", "publish", "a"}},
		{exitUsage, []string{"frob"}},
		{exitUsage, []string{"tail"}},
		{exitUsage, []string{"pub", "--frob"}},
		{exitUsage, []string{"pub", "a/#", "1"}},
		{exitConfig, []string{"check", bad}},
		{exitConfig, []string{"-c", bad, "queue"}},
		{exitUnreachable, []string{"-c", good, "queue"}},
		{exitUnreachable, []string{"-c", good, "pub", "a", "1"}},
		{exitUnreachable, []string{"-c", good, "tail", "#"}},
	} {
		if code := run(t.Context(), c.args, nil, io.Discard, io.Discard); code != c.code {
			t.Errorf("weir %v ends with %d, want %d", c.args, code, c.code)
		}
	}
}
