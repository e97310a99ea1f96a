package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// fragment is a file of conf.d being edited by a command: its text, and what it must say after.
type fragment struct {
	name string
	all  *node // every file, as they were
	text string
	want map[string]any
	err  error
}

// openFragment opens the file called name in the conf.d beside file, the config file. One that is not there begins
// with header.
func openFragment(file, name, header string) (*fragment, error) {
	all, _, err := read(file, nil)
	if err != nil {
		return nil, err
	}
	u := &fragment{name: filepath.Join(filepath.Dir(file), "conf.d", name), all: all, text: header}
	data, err := os.ReadFile(u.name)
	switch {
	case err == nil:
		u.text = string(data)
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	n, err := u.parse()
	if err != nil {
		return nil, err
	}
	u.want = n.any().(map[string]any)
	return u, nil
}

func (u *fragment) parse() (*node, error) {
	n, errs := parse(&source{name: u.name, secrets: &secrets{}}, []byte(u.text))
	return n, errs.orNil()
}

// defined is where id of a section stands, in whatever file; nil if it does not.
func (u *fragment) defined(section, id string) *entry {
	if s := u.all.get(section); s != nil {
		return s.value.get(id)
	}
	return nil
}

// put writes "id: text" into section, in place of what is there under id.
func (u *fragment) put(section, id, text string, value map[string]any) {
	u.edit(section, id, plainKey(id)+": "+text)
	under, _ := u.want[section].(map[string]any)
	if under == nil {
		under = map[string]any{}
	}
	under[id] = value
	u.want[section] = under
}

func (u *fragment) remove(section, id string) {
	u.edit(section, id, "")
	under := u.want[section].(map[string]any)
	if delete(under, id); len(under) == 0 {
		u.want[section] = nil
	}
}

// edit replaces the lines of an entry, or adds them behind the section's last one. It
// works on lines so that comments and layout stay. Files laid out otherwise come out
// wrong here, and save finds that.
func (u *fragment) edit(section, id, line string) {
	n, err := u.parse()
	if err != nil {
		u.err = err
		return
	}
	lines := strings.SplitAfter(strings.TrimSuffix(u.text, "\n")+"\n", "\n")
	from, to, indent := len(lines)-1, len(lines)-1, 2 // lines[from:to] are replaced
	switch s := n.get(section); {
	case s == nil:
		line = section + ":\n  " + line
		indent = 0
	case len(s.value.entries) == 0:
		from, to = s.line, s.line
	default:
		entries := s.value.entries
		indent = entries[0].column - 1
		i := slices.IndexFunc(entries, func(e *entry) bool { return e.name == id })
		if i >= 0 {
			from, to = entries[i].line-1, n.endLine(lines, entries[i])
		} else {
			from = n.endLine(lines, entries[len(entries)-1])
			to = from
		}
	}
	var insert []string
	if line != "" {
		insert = []string{strings.Repeat(" ", indent) + line + "\n"}
	}
	u.text = strings.Join(slices.Replace(lines, from, to, insert...), "")
}

// endLine is the number of the last line of e, an entry of one of n's sections: up to
// what comes next, without the comments and blank lines before that.
func (n *node) endLine(lines []string, e *entry) int {
	end := len(lines)
	for _, section := range n.entries {
		for _, other := range append([]*entry{section}, section.value.entries...) {
			if other.line > e.line {
				end = min(end, other.line-1)
			}
		}
	}
	for end > e.line {
		text := strings.TrimSpace(lines[end-1])
		if text != "" && text[0] != '#' {
			break
		}
		end--
	}
	return end
}

var plainWord = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]*$`)

// plainKey is id as a key that YAML takes for text.
func plainKey(id string) string {
	if !plainWord.MatchString(id) || slices.Contains([]string{"null", "true", "false"}, strings.ToLower(id)) {
		return `"` + id + `"`
	}
	return id
}

// check tells whether the text says what it is to say.
func (u *fragment) check() error {
	if u.err != nil {
		return u.err
	}
	n, err := u.parse()
	if err != nil || !reflect.DeepEqual(n.any(), any(u.want)) {
		return fmt.Errorf("%s is not laid out with a line for each of %s; edit it by hand",
			u.name, strings.Join(slices.Sorted(maps.Keys(u.want)), " and "))
	}
	return nil
}

// save replaces the file if the text says what it is to say.
func (u *fragment) save() error {
	if err := u.check(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(u.name), 0o755); err != nil {
		return err
	}
	return writeFile(u.name, []byte(u.text))
}

// writeFile replaces a file by one that is on stable storage and only its owner can read.
func writeFile(name string, data []byte) (err error) {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+"-*") // 0600; a name that Load passes over
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), name); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
