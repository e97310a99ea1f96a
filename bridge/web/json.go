package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// strictJSON decodes body, one JSON value with no fields that v does not know.
func strictJSON(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is more than one JSON value")
	}
	return nil
}
