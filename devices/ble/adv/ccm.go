package adv

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"errors"
)

// AES-CCM is not in Go's standard library nor in golang.org/x/crypto, and the modules that
// have it (pion/dtls among them) bring a protocol along. It is two block modes over
// crypto/aes, so it is here, with the packets of RFC 3610 as its test.

// ccm is AES-CCM with a counter field of 15 minus the nonce's length bytes (RFC 3610 §2) and
// additional data of less than 0xFF00 bytes; the formats here have one byte of it.
type ccm struct {
	block cipher.Block
	tag   int // the length of the message integrity check, in bytes: 4, 6, … 16
}

var errTag = errors.New("the message integrity check is wrong")

// newCCM returns AES-CCM for a key of 16 bytes.
func newCCM(key []byte, tag int) (*ccm, error) {
	block, err := aes.NewCipher(key)
	return &ccm{block, tag}, err
}

// open returns the plain text of sealed, which ends in the tag, or errTag. Nonces have 7 to 13 bytes.
func (c *ccm) open(nonce, sealed, additional []byte) ([]byte, error) {
	if len(sealed) < c.tag {
		return nil, errTag
	}
	body, tag := sealed[:len(sealed)-c.tag], sealed[len(sealed)-c.tag:]
	plain := c.crypt(nonce, body)
	if subtle.ConstantTimeCompare(c.authenticate(nonce, plain, additional), tag) != 1 {
		return nil, errTag
	}
	return plain, nil
}

// crypt is the counter mode, from A_1 on (RFC 3610 §2.3). It is its own inverse.
func (c *ccm) crypt(nonce, data []byte) []byte {
	a := c.counter(nonce)
	a[15] = 1
	out := make([]byte, len(data))
	cipher.NewCTR(c.block, a[:]).XORKeyStream(out, data)
	return out
}

func (c *ccm) counter(nonce []byte) (a [16]byte) {
	a[0] = byte(14 - len(nonce)) // L-1
	copy(a[1:], nonce)
	return a
}

// authenticate is the CBC-MAC over B_0, the additional data and the plain text (§2.2),
// encrypted with A_0.
func (c *ccm) authenticate(nonce, plain, additional []byte) []byte {
	var x [16]byte
	x[0] = byte((c.tag-2)/2)<<3 | byte(14-len(nonce))
	if len(additional) > 0 {
		x[0] |= 1 << 6
	}
	copy(x[1:], nonce)
	binary.BigEndian.PutUint16(x[14:], uint16(len(plain))) // advertisements are short
	c.block.Encrypt(x[:], x[:])
	if len(additional) > 0 {
		c.chain(&x, binary.BigEndian.AppendUint16(nil, uint16(len(additional))), additional)
	}
	c.chain(&x, plain)
	a := c.counter(nonce)
	c.block.Encrypt(a[:], a[:])
	subtle.XORBytes(x[:], x[:], a[:])
	return x[:c.tag]
}

// chain runs parts through the CBC-MAC and fills the last block with zeros.
func (c *ccm) chain(x *[16]byte, parts ...[]byte) {
	i := 0
	for _, part := range parts {
		for _, b := range part {
			x[i] ^= b
			if i++; i == len(x) {
				c.block.Encrypt(x[:], x[:])
				i = 0
			}
		}
	}
	if i > 0 {
		c.block.Encrypt(x[:], x[:])
	}
}
