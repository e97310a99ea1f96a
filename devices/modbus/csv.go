package modbus

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// row is one register of a CSV file.
type row struct {
	line     int
	name     string
	register Register
}

// columns are what a CSV file may have: name, and the keys of Register.
var columns = map[string]func(r *row, cell string) error{
	"name":         func(r *row, s string) error { r.name = s; return nil },
	"coil":         func(r *row, s string) error { return parse(&r.register.Coil, s) },
	"discrete":     func(r *row, s string) error { return parse(&r.register.Discrete, s) },
	"input":        func(r *row, s string) error { return parse(&r.register.Input, s) },
	"holding":      func(r *row, s string) error { return parse(&r.register.Holding, s) },
	"register":     func(r *row, s string) error { return parse(&r.register.Register, s) },
	"bits":         func(r *row, s string) error { return parse(&r.register.Bits, s) },
	"type":         func(r *row, s string) error { r.register.Type = s; return nil },
	"word_order":   func(r *row, s string) error { r.register.WordOrder = s; return nil },
	"byte_order":   func(r *row, s string) error { r.register.ByteOrder = s; return nil },
	"unit":         func(r *row, s string) error { r.register.Unit = s; return nil },
	"length":       func(r *row, s string) (err error) { r.register.Length, err = strconv.Atoi(s); return err },
	"offset":       func(r *row, s string) (err error) { r.register.Offset, err = parseFloat(s); return err },
	"scale":        func(r *row, s string) error { return optional(&r.register.Scale, s) },
	"deadband":     func(r *row, s string) error { return optional(&r.register.Deadband, s) },
	"min":          func(r *row, s string) error { return optional(&r.register.Min, s) },
	"max":          func(r *row, s string) error { return optional(&r.register.Max, s) },
	"interval":     func(r *row, s string) error { return duration(&r.register.Interval, s) },
	"max_interval": func(r *row, s string) error { return duration(&r.register.MaxInterval, s) },
	"invalid":      func(r *row, s string) error { r.register.Invalid = strings.Fields(s); return nil },
	"write": func(r *row, s string) error {
		r.register.Write = s == "true"
		if s != "true" && s != "false" {
			return errors.New("is neither true nor false")
		}
		return nil
	},
	"enum": func(r *row, s string) error {
		r.register.Enum = map[string]string{}
		for pair := range strings.SplitSeq(s, "|") {
			raw, name, ok := strings.Cut(pair, "=")
			if !ok {
				return errors.New("is written 0=off|1=on")
			}
			r.register.Enum[strings.TrimSpace(raw)] = strings.TrimSpace(name)
		}
		return nil
	},
}

func parse[T any, P interface {
	*T
	UnmarshalText([]byte) error
}](into *P, s string) error {
	*into = new(T)
	return (*into).UnmarshalText([]byte(s))
}

func parseFloat(s string) (float64, error) {
	d, err := parseDecimal(s)
	if err != nil {
		return 0, err
	}
	return d.float(), nil
}

func optional(into **float64, s string) error {
	f, err := parseFloat(s)
	*into = &f
	return err
}

func duration(into *time.Duration, s string) (err error) {
	*into, err = time.ParseDuration(s)
	return err
}

// maxCSV bounds a file, in bytes.
const maxCSV = 1 << 20

// readCSV reads a file whose first line names its columns. They are separated by commas or, as
// spreadsheets do it where the comma is for decimals, semicolons; then a number may have a
// decimal comma too. Lines that begin with # are notes; an empty cell is a key that is left out.
func readCSV(name string) ([]row, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCSV+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxCSV:
		return nil, fmt.Errorf("%s has more than %d bytes", name, maxCSV)
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // spreadsheets write it
	head, _, _ := bytes.Cut(data, []byte("\n"))
	in := csv.NewReader(bytes.NewReader(data))
	in.Comment = '#'
	in.TrimLeadingSpace = true
	semicolons := bytes.ContainsRune(head, ';')
	if semicolons {
		in.Comma = ';'
	}
	fail := func(line int, format string, args ...any) error {
		return fmt.Errorf("%s:%d: %w", name, line, fmt.Errorf(format, args...))
	}
	var header []string
	var rows []row
	for {
		cells, err := in.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		line, _ := in.FieldPos(0)
		if header == nil {
			header = cells
			for i, column := range header {
				header[i] = strings.ToLower(strings.TrimSpace(column))
				if columns[header[i]] == nil {
					return nil, fail(line, "there is no column %q; there is %s", column, strings.Join(slices.Sorted(maps.Keys(columns)), ", "))
				}
				if slices.Contains(header[:i], header[i]) {
					return nil, fail(line, "column %q stands twice", column)
				}
			}
			continue
		}
		r := row{line: line}
		for i, cell := range cells {
			cell = strings.TrimSpace(cell)
			if cell == "" {
				continue
			}
			if semicolons && slices.Contains([]string{"scale", "offset", "deadband", "min", "max"}, header[i]) {
				cell = strings.ReplaceAll(cell, ",", ".")
			}
			if err := columns[header[i]](&r, cell); err != nil {
				return nil, fail(line, "%s: %w", header[i], err)
			}
		}
		rows = append(rows, r)
	}
	if header == nil {
		return nil, fmt.Errorf("%s is empty; its first line names its columns, such as name,holding,type,unit", name)
	}
	return rows, nil
}
