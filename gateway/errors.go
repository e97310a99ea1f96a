package gateway

import (
	"errors"
	"fmt"
)

// The kinds of error. Code that has to decide (which reason code, which HTTP
// status, retry or not) asks with errors.Is; people read the text.
var (
	// ErrInvalid: the input is wrong and will be wrong again. HTTP 400, MQTT 0x90 and the like.
	ErrInvalid = errors.New("invalid")
	// ErrDenied: the account may not do this. HTTP 401 or 403, MQTT 0x87.
	ErrDenied = errors.New("denied")
	// ErrFull: a stated limit is reached; nothing was stored. HTTP 507, MQTT 0x97.
	ErrFull = errors.New("full")
	// ErrTransient: it did not work this time; trying again may. HTTP 503, MQTT 0x83.
	ErrTransient = errors.New("transient")
)

type kindError struct {
	kind error
	err  error
}

func (e *kindError) Error() string        { return e.err.Error() }
func (e *kindError) Unwrap() error        { return e.err }
func (e *kindError) Is(target error) bool { return target == e.kind }

// Errorf is fmt.Errorf for an error of one of the kinds above. The kind is not part
// of the text.
func Errorf(kind error, format string, args ...any) error {
	return &kindError{kind, fmt.Errorf(format, args...)}
}

// KeyError is a wrong value of a configuration, known by its key, so that whoever knows the
// file can say where it stands. A key may lead further down: "format.regex".
type KeyError struct {
	Key string
	Err error
}

func (e *KeyError) Error() string { return e.Key + ": " + e.Err.Error() }
func (e *KeyError) Unwrap() error { return e.Err }

// BadKey returns a KeyError that is ErrInvalid.
func BadKey(key, format string, args ...any) error {
	return &KeyError{key, Errorf(ErrInvalid, format, args...)}
}
