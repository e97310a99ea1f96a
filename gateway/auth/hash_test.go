package auth

import (
	"strings"
	"testing"
)

// cheap is Hash with parameters that cost nothing.
func cheap(password string) string {
	d := digest{params: params{memory: 8, passes: 1, threads: 1}, salt: []byte("salt of a test")}
	d.key = d.compute(password, 32)
	return d.String()
}

func TestHash(t *testing.T) {
	a, err := Hash("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	b, err := Hash("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	if a == b {
		t.Error("two hashes of one password are the same: the salt is not fresh")
	}
	if !strings.HasPrefix(a, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("hash is %s", a)
	}
	d, err := parseHash(a)
	if err != nil {
		t.Fatal(err)
	}
	if d.String() != a {
		t.Errorf("parsed and written again it is %s, was %s", d, a)
	}
	if !d.matches("correct horse") || d.matches("correct horsf") || d.matches("") {
		t.Error("the hash does not tell its password from others")
	}
	if _, err := Hash(""); err == nil {
		t.Error("an empty password was hashed")
	}
	if _, err := Hash(strings.Repeat("x", MaxPassword+1)); err == nil {
		t.Error("a password longer than MQTT's was hashed")
	}
}

// A test vector of the argon2 reference implementation: version 19, t=2, m=2^16 KiB, p=1,
// password "password", salt "somesalt".
func TestHashOfOthers(t *testing.T) {
	d, err := parseHash("$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc")
	if err != nil {
		t.Fatal(err)
	}
	if !d.matches("password") {
		t.Error("a hash of the reference implementation is not understood")
	}
}

func TestParseHashRefuses(t *testing.T) {
	good := "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$7FC1bTbqn1sRbPjPYvWpIA"
	if _, err := parseHash(good); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, hash, want string }{
		{"empty", "", "password_hash is missing"},
		{"plain password", "hunter2", "not of the form"},
		{"bcrypt", "$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy", "not of the form"},
		{"argon2i", strings.Replace(good, "argon2id", "argon2i", 1), "not an argon2id hash"},
		{"old version", strings.Replace(good, "v=19", "v=16", 1), "another version"},
		{"cut", good[:len(good)-14], "has 6 bytes, allowed is 16 to 64"},
		{"line end", good + "\n", "more than one line"},
		{"trailing", good + "$", "not of the form"},
		{"padded", good + "==", "base64 without padding"},
		{"loose bits", good[:len(good)-1] + "B", "base64 without padding"},
		{"bad salt", strings.Replace(good, "c2FsdHNhbHQ", "!", 1), "salt that is not base64"},
		{"short salt", strings.Replace(good, "c2FsdHNhbHQ", "c2FsdA", 1), "salt of 4 bytes"},
		{"gigabytes", strings.Replace(good, "m=8,", "m=4194304,", 1), "m=4194304, allowed is 8 to 65536 KiB"},
		{"more than 32 bits", strings.Replace(good, "m=8,", "m=4294967304,", 1), "parameters"},
		{"too little", strings.Replace(good, "m=8,t=1,p=1", "m=8,t=1,p=2", 1), "m=8, allowed is 16"},
		{"hours", strings.Replace(good, "t=1", "t=100000", 1), "t=100000, allowed is 1 to 16"},
		{"no passes", strings.Replace(good, "t=1", "t=0", 1), "t=0, allowed"},
		{"no threads", strings.Replace(good, "p=1", "p=0", 1), "p=0, allowed"},
		{"threads", strings.Replace(good, "p=1", "p=255", 1), "p=255, allowed is 1 to 16"},
		{"leading zero", strings.Replace(good, "t=1", "t=01", 1), "parameters"},
		{"order", strings.Replace(good, "m=8,t=1,p=1", "t=1,m=8,p=1", 1), "parameters"},
		{"extra parameter", strings.Replace(good, "p=1", "p=1,x=1", 1), "parameters"},
	}
	for _, test := range tests {
		_, err := parseHash(test.hash)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error repeats the password: %v", test.name, err)
		}
	}
}

func FuzzParseHash(f *testing.F) {
	f.Add("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$7FC1bTbqn1sRbPjPYvWpIA")
	f.Add("$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := parseHash(s)
		if err != nil {
			return
		}
		if d.String() != s {
			t.Errorf("%q was read as %q", s, d)
		}
		if d.memory > maxMemory || d.passes > maxPasses || d.threads > maxThreads {
			t.Errorf("%q costs more than allowed", s)
		}
	})
}
