package adv

import (
	"bytes"
	"encoding/hex"
	"testing"
)

// unhex is for text that stands in the tests.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return b
}

// seal is what the devices do.
func seal(t testing.TB, key, nonce, plain, additional []byte, tag int) []byte {
	t.Helper()
	c, err := newCCM(key, tag)
	if err != nil {
		t.Fatal(err)
	}
	return append(c.crypt(nonce, plain), c.authenticate(nonce, plain, additional)...)
}

// RFC 3610 §8, packet vectors 1 (one block and a half), 2 (whole blocks), 3, 4 (longer header), 7 (longer
// tag) and 13 (another key).
func TestCCM(t *testing.T) {
	const key = "c0c1c2c3c4c5c6c7c8c9cacbcccdcecf"
	for _, v := range []struct {
		name, key, nonce, header, plain, sealed string
		tag                                     int
	}{
		{"1", key, "00000003020100a0a1a2a3a4a5", "0001020304050607",
			"08090a0b0c0d0e0f101112131415161718191a1b1c1d1e",
			"588c979a61c663d2f066d0c2c0f989806d5f6b61dac38417e8d12cfdf926e0", 8},
		{"2", key, "00000004030201a0a1a2a3a4a5", "0001020304050607",
			"08090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
			"72c91a36e135f8cf291ca894085c87e3cc15c439c9e43a3ba091d56e10400916", 8},
		{"3", key, "00000005040302a0a1a2a3a4a5", "0001020304050607",
			"08090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20",
			"51b1e5f44a197d1da46b0f8e2d282ae871e838bb64da8596574adaa76fbd9fb0c5", 8},
		{"4", key, "00000006050403a0a1a2a3a4a5", "000102030405060708090a0b",
			"0c0d0e0f101112131415161718191a1b1c1d1e",
			"a28c6865939a9a79faaa5c4c2a9d4a91cdac8c96c861b9c9e61ef1", 8},
		{"7", key, "00000009080706a0a1a2a3a4a5", "0001020304050607",
			"08090a0b0c0d0e0f101112131415161718191a1b1c1d1e",
			"0135d1b2c95f41d5d1d4fec185d166b8094e999dfed96c048c56602c97acbb7490", 10},
		{"13", "d7828d13b2b0bdc325a76236df93cc6b", "00412b4ea9cdbe3c9696766cfa", "0be1a88bace018b1",
			"08e8cf97d820ea258460e96ad9cf5289054d895ceac47c",
			"4cb97f86a2a4689a877947ab8091ef5386a6ffbdd080f8e78cf7cb0cddd7b3", 8},
	} {
		c, err := newCCM(unhex(t, v.key), v.tag)
		if err != nil {
			t.Fatal(err)
		}
		nonce, header, sealed := unhex(t, v.nonce), unhex(t, v.header), unhex(t, v.sealed)
		plain, err := c.open(nonce, sealed, header)
		if err != nil || !bytes.Equal(plain, unhex(t, v.plain)) {
			t.Errorf("vector %s: %x, %v", v.name, plain, err)
		}
		if got := seal(t, unhex(t, v.key), nonce, unhex(t, v.plain), header, v.tag); !bytes.Equal(got, sealed) {
			t.Errorf("vector %s sealed: %x", v.name, got)
		}
		for i := range sealed {
			bad := bytes.Clone(sealed)
			bad[i] ^= 0x40
			if _, err := c.open(nonce, bad, header); err != errTag {
				t.Fatalf("vector %s with byte %d changed opens: %v", v.name, i, err)
			}
		}
		header[0] ^= 1
		if _, err := c.open(nonce, sealed, header); err != errTag {
			t.Errorf("vector %s with another header opens", v.name)
		}
		if _, err := c.open(nonce, sealed[:v.tag-1], header); err != errTag {
			t.Errorf("vector %s cut short opens", v.name)
		}
	}
}
