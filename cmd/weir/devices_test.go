package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/weir-iot/weir/firmware-sim/sim/modbusslave"
)

func TestProbe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	plain, odd, sun := modbusslave.New(1), modbusslave.New(2), modbusslave.New(3)
	plain.Set(modbusslave.Holding, 0, 0x41ac, 0, 0x8000, 'W'<<8|'e')
	plain.Set(modbusslave.Holding, 5, 7)
	odd.Lacks(3)
	sun.Set(modbusslave.Holding, 0, 'S'<<8|'u', 'n'<<8|'S', 103, 2, 0, 0, 64001, 1, 0, 0xffff, 0)
	line := &modbusslave.Line{Slaves: map[byte]*modbusslave.Slave{3: plain, 7: odd, 9: sun}}
	ctx, cancel := context.WithCancel(t.Context())
	var serving sync.WaitGroup
	serving.Go(func() { line.Serve(ctx, l, func(c io.ReadWriter) error { return line.ServeTCP(c) }) })
	defer serving.Wait()
	defer cancel()

	file := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(file, []byte("buses: {plant: {address: "+l.Addr().String()+"}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	weir := func(code int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if got := run(t.Context(), append([]string{"-c", file, "devices", "probe"}, args...), nil, &out, &out); got != code {
			t.Fatalf("%v ends with %d, want %d:\n%s", args, got, code, &out)
		}
		return out.String()
	}
	out := weir(0, "--bus", "plant", "--ids", "1-10", "--timeout", "200ms", "--count", "6")
	for _, want := range []string{
		"unit 3 is there\n",
		"  40001 (address 0)  0x41ac\n",
		"uint16 16812, int16 16812, float16 2.8359375\n",
		"uint32 1101791232, int32 1101791232, float32 21.5\n",
		"word_order little: uint32 16812",
		"word_order little, byte_order little: uint32 44097, int32 44097, float32 6.1793e-41\n",
		"40003 (address 2)  0x8000\n",
		"uint16 32768, int16 -32768",
		"bits 0101011101100101, string We",
		"40006 (address 5)  0x0007\n", // what is not there in between is left out
		"unit 7 is there; it refuses to read holding register 40001: illegal function",
		"  it speaks SunSpec, models 103 (inverter), 64001 (not known to Weir): sunspec: true reads them\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "unit 4") || strings.Count(out, "(address 4)") != 1 /* of unit 9 */ {
		t.Errorf("shows what is not there:\n%s", out)
	}
	var slaves []slave
	_, text, _ := strings.Cut(weir(0, "--bus", "plant", "--ids", "3", "--address", "5", "--count", "1", "--json"), "\n")
	if err := json.Unmarshal([]byte(text), &slaves); err != nil || len(slaves) != 1 || slaves[0].Registers[0].Values[0].Value != "7" {
		t.Errorf("%s: %v", text, err)
	}
	if out := weir(exitFailed, "--bus", "plant", "--ids", "20", "--timeout", "50ms"); !strings.Contains(out, "nobody answered") {
		t.Error(out)
	}
	for _, args := range [][]string{{"--bus", "plnat"}, {"--bus", "plant", "--ids", "9-3"}, {"--bus", "plant", "--table", "hold"}, {"--bus", "plant", "--count", "-1"}} {
		weir(exitUsage, args...)
	}
}
