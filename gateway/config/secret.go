package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxSecret bounds the file behind a reference, in bytes.
const maxSecret = 64 << 10

// secrets fills in references and keeps what they stand for out of every message.
type secrets struct {
	dir   string // paths are relative to it
	known []struct{ value, reference string }
}

// expand fills in the references of every value below n.
func (s *secrets) expand(n *node) (errs Errors) {
	switch n.kind {
	case scalar:
		text, err := s.fill(n.raw)
		if err != nil {
			return Errors{n.errorf("%v", err)}
		}
		n.text = text
	case list:
		for _, item := range n.items {
			errs = append(errs, s.expand(item)...)
		}
	case dict:
		for _, e := range n.entries {
			errs = append(errs, s.expand(e.value)...)
		}
	}
	return errs
}

// fill replaces every ${file:PATH} and ${env:NAME} in raw. Other text with ${ in it,
// as in a regular expression, is left as it is unless it has the form of a reference.
func (s *secrets) fill(raw string) (string, error) {
	var b strings.Builder
	for rest := raw; ; {
		before, after, found := strings.Cut(rest, "${")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		kind, arg, ok := strings.Cut(after, ":")
		if !ok || kind == "" || strings.Trim(kind, "abcdefghijklmnopqrstuvwxyz") != "" {
			b.WriteString("${")
			rest = after
			continue
		}
		arg, tail, closed := strings.Cut(arg, "}")
		if !closed {
			return "", fmt.Errorf("reference ${%s: has no closing }", kind)
		}
		var value string
		var err error
		switch kind {
		case "file":
			value, err = s.file(arg)
		case "env":
			if value, ok = os.LookupEnv(arg); !ok {
				err = fmt.Errorf("environment variable %s is not set", arg)
			}
		default:
			err = fmt.Errorf("reference ${%s:…} is not known%s", kind, Suggest(kind, []string{"file", "env"}))
		}
		if err != nil {
			return "", err
		}
		s.known = append(s.known, struct{ value, reference string }{value, "${" + kind + ":" + arg + "}"})
		b.WriteString(value)
		rest = tail
	}
}

// file returns the content of a file without the line end that editors put there.
func (s *secrets) file(path string) (string, error) {
	if path == "" {
		return "", errors.New("reference ${file:} names no file")
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.dir, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	switch {
	case err != nil:
		return "", err
	case len(data) > maxSecret:
		return "", fmt.Errorf("file %s is larger than %d bytes", path, maxSecret)
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r"), nil
}

// redact puts references back in a message. Shorter values would be found in half of
// all words, and hide nothing.
func (s *secrets) redact(message string) string {
	for _, k := range s.known {
		if len(k.value) < 3 {
			continue
		}
		message = strings.ReplaceAll(message, k.value, k.reference)
		if quoted := strconv.Quote(k.value); quoted != `"`+k.value+`"` {
			message = strings.ReplaceAll(message, quoted[1:len(quoted)-1], k.reference)
		}
	}
	return message
}
