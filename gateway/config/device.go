package config

import (
	"fmt"
	"strconv"
	"strings"
)

const devicesHeader = "# Written by `weir devices adopt`; what you add here yourself is kept.\n"

// Field is a key of a section that is to be written, and its value: a string or a []string.
type Field struct {
	Key   string
	Value any
}

// AddDevice writes a device to conf.d/devices.yaml beside the config file, and returns the file's name. Everything else in
// it stays as it is. The file is replaced as a whole or not at all, is readable by its owner only, and only
// if check, of the configuration as it will be, has no error. A device that is there already is an *Error
// that says where.
func AddDevice(file, id string, section []Field, check func(*Config) error) (name string, err error) {
	if !validID(id) {
		return "", fmt.Errorf("%q cannot be the id of a device: %s", id, idRule)
	}
	u, err := openFragment(file, "devices.yaml", devicesHeader)
	if err != nil {
		return "", err
	}
	if e := u.defined("devices", id); e != nil {
		return "", e.errorf("device %q is defined here; give the new one another id", id)
	}
	line, value := make([]string, len(section)), map[string]any{}
	for i, f := range section {
		switch v := f.Value.(type) {
		case string:
			line[i], value[f.Key] = f.Key+": "+strconv.Quote(v), v
		case []string:
			texts, values := make([]string, len(v)), make([]any, len(v))
			for i, s := range v {
				texts[i], values[i] = strconv.Quote(s), s
			}
			line[i], value[f.Key] = f.Key+": ["+strings.Join(texts, ", ")+"]", values
		}
	}
	for _, l := range line { // a client chose the words; they must not have a file read
		if strings.Contains(l, "${") {
			return "", fmt.Errorf("%s: ${ would stand for a secret; write the device to the config by hand", l)
		}
	}
	u.put("devices", id, "{"+strings.Join(line, ", ")+"}", value)
	if err := u.check(); err != nil {
		return "", err
	}
	cfg, err := load(file, map[string]string{u.name: u.text})
	if err == nil {
		err = check(cfg)
	}
	if err != nil {
		return "", err
	}
	return u.name, u.save()
}
