package nats

import (
	"github.com/nats-io/nats.go"

	"github.com/weir-iot/weir/gateway"
)

// login returns what a connection needs to say who it is. Files are read again for each
// connection, so that renewed ones need no restart.
type login func() ([]nats.Option, error)

// newLogin takes the one way that c has, and reads its files once, to find mistakes.
func newLogin(c *Config) (login, error) {
	if c.Password != "" && c.Username == "" {
		return nil, gateway.BadKey("password", "password needs a username")
	}
	var key string
	way := login(func() ([]nats.Option, error) { return nil, nil })
	for _, w := range []struct {
		key, value string
		login      login
	}{
		{"username", c.Username, fixed(nats.UserInfo(c.Username, c.Password))},
		{"token", c.Token, fixed(nats.Token(c.Token))},
		{"nkey_file", c.NkeyFile, func() ([]nats.Option, error) {
			o, err := nats.NkeyOptionFromSeed(c.NkeyFile)
			return []nats.Option{o}, err
		}},
		{"creds_file", c.CredsFile, func() ([]nats.Option, error) { return credentials(c.CredsFile) }},
	} {
		if w.value == "" {
			continue
		}
		if key != "" {
			return nil, gateway.BadKey(w.key, "%s and %s are two ways to log in: choose one", key, w.key)
		}
		key, way = w.key, w.login
	}
	if _, err := way(); err != nil {
		return nil, gateway.BadKey(key, "%w", err)
	}
	return way, nil
}

func fixed(o nats.Option) login {
	return func() ([]nats.Option, error) { return []nats.Option{o}, nil }
}

// credentials reads both parts of file by way of the library, which knows the format.
func credentials(file string) ([]nats.Option, error) {
	creds := nats.UserCredentials(file)
	var o nats.Options
	if err := creds(&o); err != nil {
		return nil, err
	}
	if _, err := o.UserJWT(); err != nil {
		return nil, err
	}
	if _, err := o.SignatureCB([]byte("try")); err != nil {
		return nil, err
	}
	return []nats.Option{creds}, nil
}
