package web

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/weir-iot/weir/gateway"
	"github.com/weir-iot/weir/gateway/auth"
)

// headers sets what protects the page whatever it shows: nothing from elsewhere is
// loaded, nothing is guessed, nobody frames it.
func headers(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "+
		"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
}

type accountKey struct{}

func accountOf(r *http.Request) *auth.Account { return r.Context().Value(accountKey{}).(*auth.Account) }

// door lets in who may come in: first the origin of the page that asks, then the account.
func (s *Server) door(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		account := auth.Local()
		if servingOf(r).trust == Network {
			if err := s.checkHost(r); err != nil {
				problem(w, http.StatusForbidden, "%v", err)
				return
			}
			if s.checkOrigin(w, r) {
				return
			}
			var err error
			if account, err = s.authenticate(r); err != nil {
				if errors.Is(err, gateway.ErrDenied) {
					w.Header().Set("WWW-Authenticate", `Basic realm="weir", charset="UTF-8"`)
					problem(w, http.StatusUnauthorized, "%v", err)
					return
				}
				s.fail(w, r, err)
				return
			}
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), accountKey{}, account)))
	})
}

func (s *Server) authenticate(r *http.Request) (*auth.Account, error) {
	name, password, ok := r.BasicAuth()
	if !ok {
		return s.o.Auth.Anonymous()
	}
	ctx, cancel := context.WithTimeout(r.Context(), apiTimeout)
	defer cancel()
	return s.o.Auth.Authenticate(ctx, name, password)
}

// checkHost keeps other people's names away from a gateway that asks for no password:
// a page at evil.example whose name is made to point at 127.0.0.1 is of the same
// origin as what it reads there, but it cannot hide the name.
func (s *Server) checkHost(r *http.Request) error {
	if !s.o.Auth.Open() {
		return nil
	}
	host := hostName(r.Host)
	if net.ParseIP(strings.Trim(host, "[]")) != nil || host == "localhost" ||
		strings.HasSuffix(host, ".localhost") || s.hosts[host] {
		return nil
	}
	return fmt.Errorf("host %q is neither localhost nor an address nor the host of one of listeners.http.origins; "+
		"a gateway without users answers to no other name", r.Host)
}

// hostName is host without its port, in lower case.
func hostName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(host)
}

// checkOrigin refuses what a page from elsewhere asks for, unless its origin is
// configured; it then answers a preflight and allows the page to read. It tells
// whether the answer was written. Requests without Origin come from no page, or from a
// page of ours (Fetch standard, "append a request Origin header").
func (s *Server) checkOrigin(w http.ResponseWriter, r *http.Request) (answered bool) {
	h := w.Header()
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	u, err := url.Parse(origin)
	if err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host) {
		return false
	}
	if !s.origins[strings.ToLower(origin)] {
		problem(w, http.StatusForbidden,
			"origin %q is not this gateway's own and is not listed in listeners.http.origins", origin)
		return true
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Allow-Credentials", "true")
	if r.Method != http.MethodOptions {
		return false
	}
	h.Set("Access-Control-Allow-Methods", "GET, POST, DELETE")
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Last-Event-ID, Cache-Control")
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
	return true
}

// parseOrigins checks and indexes the configured origins.
func parseOrigins(list []string) (origins, hosts map[string]bool, err error) {
	origins, hosts = map[string]bool{}, map[string]bool{}
	for _, o := range list {
		u, err := url.Parse(o)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil ||
			(u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
			return nil, nil, fmt.Errorf("origin %q is not of the form https://host or https://host:port", o)
		}
		origins[strings.ToLower(u.Scheme+"://"+u.Host)] = true
		hosts[hostName(u.Host)] = true
	}
	return origins, hosts, nil
}
