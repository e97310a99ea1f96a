package mqtt

import "time"

// ShortenToken makes tokens last less than the config allows, so that a test sees one end.
func (s *Sink) ShortenToken(d time.Duration) { s.c.TokenLifetime = d }
