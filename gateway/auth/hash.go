package auth

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Bounds on what a hash in the config may ask for: a gateway of 512 MB computes two
// at once (see maxConcurrent) and has to live on. RFC 9106's parameters for small
// memory (64 MiB, 3 passes, 4 lanes) are inside.
const (
	maxMemory  = 64 << 10 // KiB
	maxPasses  = 16
	maxThreads = 16
	minSalt    = 8
	minKey     = 16
	maxKey     = 64
)

// MaxPassword is the longest password in bytes; it is MQTT's own limit (§1.5.6).
const MaxPassword = 65535

// params are the cost of a hash, as they stand in its text.
type params struct {
	memory  uint32 // KiB
	passes  uint32
	threads uint8
}

// defaults are OWASP's second choice: the memory still fits a small board.
var defaults = params{memory: 19456, passes: 2, threads: 1}

const (
	defaultSalt = 16
	defaultKey  = 32
)

// digest is a parsed hash.
type digest struct {
	params
	salt, key []byte
}

// Hash returns password hashed with argon2id and a fresh salt, in PHC format:
// "$argon2id$v=19$m=19456,t=2,p=1$salt$hash".
func Hash(password string) (string, error) {
	if err := checkPassword(password); err != nil {
		return "", err
	}
	d := digest{params: defaults, salt: make([]byte, defaultSalt)}
	rand.Read(d.salt) // never fails
	d.key = d.compute(password, defaultKey)
	return d.String(), nil
}

func checkPassword(password string) error {
	switch {
	case password == "":
		return errors.New("password is empty")
	case len(password) > MaxPassword:
		return fmt.Errorf("password is longer than %d bytes", MaxPassword)
	}
	return nil
}

func (p params) String() string {
	return fmt.Sprintf("m=%d,t=%d,p=%d", p.memory, p.passes, p.threads)
}

func (d digest) String() string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$%s$%s$%s", argon2.Version, d.params,
		b64.EncodeToString(d.salt), b64.EncodeToString(d.key))
}

func (d digest) compute(password string, keyLen int) []byte {
	return argon2.IDKey([]byte(password), d.salt, d.passes, d.memory, d.threads, uint32(keyLen))
}

func (d digest) matches(password string) bool {
	return subtle.ConstantTimeCompare(d.compute(password, len(d.key)), d.key) == 1
}

// parseHash reads a PHC string. It accepts what String writes and nothing looser: a
// hash that was pasted wrongly should be found when the config is loaded.
func parseHash(s string) (digest, error) {
	var d digest
	if strings.ContainsAny(s, "\r\n") { // which package base64 passes over
		return d, errors.New("password hash has more than one line")
	}
	if s == "" {
		return d, errors.New("password_hash is missing; `weir user add` makes one")
	}
	// What stands there is not repeated: it may be a password by mistake.
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" {
		return d, errors.New("password hash is not of the form $argon2id$v=19$m=…,t=…,p=…$salt$hash")
	}
	if parts[1] != "argon2id" {
		return d, errors.New("password hash is not an argon2id hash; `weir user add` makes one")
	}
	if parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return d, fmt.Errorf("password hash has another version than v=%d", argon2.Version)
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &d.memory, &d.passes, &d.threads); err != nil || d.params.String() != parts[3] {
		return d, errors.New("password hash has no parameters of the form m=…,t=…,p=…")
	}
	switch {
	case d.threads < 1 || d.threads > maxThreads:
		return d, fmt.Errorf("password hash has p=%d, allowed is 1 to %d", d.threads, maxThreads)
	case d.passes < 1 || d.passes > maxPasses:
		return d, fmt.Errorf("password hash has t=%d, allowed is 1 to %d", d.passes, maxPasses)
	case d.memory < 8*uint32(d.threads) || d.memory > maxMemory:
		return d, fmt.Errorf("password hash has m=%d, allowed is %d to %d KiB", d.memory, 8*uint32(d.threads), maxMemory)
	}
	var err error
	b64 := base64.RawStdEncoding.Strict()
	if d.salt, err = b64.DecodeString(parts[4]); err != nil {
		return d, errors.New("password hash has a salt that is not base64 without padding")
	}
	if d.key, err = b64.DecodeString(parts[5]); err != nil {
		return d, errors.New("password hash does not end in base64 without padding")
	}
	switch {
	case len(d.salt) < minSalt || len(d.salt) > maxKey:
		return d, fmt.Errorf("password hash has a salt of %d bytes, allowed is %d to %d", len(d.salt), minSalt, maxKey)
	case len(d.key) < minKey || len(d.key) > maxKey:
		return d, fmt.Errorf("password hash has %d bytes, allowed is %d to %d", len(d.key), minKey, maxKey)
	}
	return d, nil
}
