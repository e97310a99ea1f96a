package broker

import (
	"context"
	"errors"

	"github.com/weir-iot/weir/gateway"
)

// authenticate decides about CONNECT. What is not allowed leaves its reason in c.refused.
func (c *conn) authenticate() bool {
	ctx, cancel := context.WithDeadline(c.ctx, c.since.Add(c.b.o.ConnectTimeout))
	defer cancel()
	if c.refused = c.admit(ctx); c.refused == codeSuccess {
		c.refused = c.b.enter(ctx, c)
	}
	if c.refused != codeSuccess {
		c.stop(cause{reason: "connect refused"})
		return false
	}
	c.accepted.Store(true)
	return true
}

// admit finds the account.
func (c *conn) admit(ctx context.Context) byte {
	var err error
	policy := c.b.o.Auth
	switch {
	case c.proxy != nil:
		c.account = c.proxy.Account
	case policy.Open():
		c.account, err = policy.Anonymous()
	case !c.connect.named:
		return codeNotAuthorized
	default:
		c.account, err = policy.Authenticate(ctx, c.connect.user, c.connect.password)
	}
	c.connect.password = ""
	switch {
	case err == nil:
		return codeSuccess
	case errors.Is(err, gateway.ErrDenied):
		return codeBadUser
	}
	c.log.Warn("authentication failed", "client", c.id, "error", err)
	return codeUnavailable
}

func codeOf(err error) byte {
	if errors.Is(err, gateway.ErrFull) {
		return codeQuota
	}
	return codeUnavailable
}

// established lets the session's messages go: CONNACK is on its way.
func (c *conn) established() {
	c.log.Debug("MQTT client connected", "client", c.id, "remote", c.nc.RemoteAddr(), "user", c.account.Name(), "version", c.connect.version, "session_present", c.present)
	c.b.o.Observer.Connected(c.id)
	c.session.Load().hold(false)
}
