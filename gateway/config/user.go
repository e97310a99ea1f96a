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

	"github.com/weir-iot/weir/gateway/auth"
)

// AdminRole is the role that AddUser makes when it is asked for and not there yet.
const AdminRole = "admin"

const usersHeader = "# Written by `weir user`; what you add here yourself is kept.\n"

// Users returns the users of the config file and its conf.d. Unlike Load it needs no
// valid config: it is asked when there are no users yet, which may be what is wrong.
func Users(file string) (map[string]auth.User, error) {
	root, _, err := readExpanded(file)
	if err != nil {
		return nil, err
	}
	var users map[string]auth.User
	if e := root.get("users"); e != nil {
		return users, decode(e.value, &users).orNil()
	}
	return users, nil
}

// AddUser writes a user to conf.d/users.yaml beside the config file, or changes the
// one that is there. Everything else in users.yaml stays as it is. The file is
// replaced as a whole or not at all, and is readable by its owner only. A user who is
// defined elsewhere is an *Error that says where; role has to exist, but AdminRole,
// which may publish and subscribe to everything, is added if it does not.
func AddUser(file, name, hash, role string) error {
	if !validID(name) {
		return fmt.Errorf("%q cannot be a user name: %s", name, idRule)
	}
	u, err := openUsers(file)
	if err != nil {
		return err
	}
	if e := u.defined(name); e != nil && e.src.name != u.name {
		return e.errorf("user %q is defined here; change it here, or take it out first", name)
	}
	if _, err := auth.New(map[string]auth.User{name: {PasswordHash: hash}}, nil); err != nil {
		return err
	}
	roles := u.roles()
	switch {
	case role == "" || slices.Contains(roles, role):
	case role == AdminRole:
		u.put("roles", role, `{publish: ["#"], subscribe: ["#"]}`,
			map[string]any{"publish": []any{"#"}, "subscribe": []any{"#"}})
	default:
		return fmt.Errorf("there is no role %q%s", role, Suggest(role, append(roles, AdminRole)))
	}
	line, value := fmt.Sprintf("password_hash: %q", hash), map[string]any{"password_hash": hash}
	if role != "" {
		line += fmt.Sprintf(", role: %q", role)
		value["role"] = role
	}
	u.put("users", name, "{"+line+"}", value)
	return u.save()
}

// RemoveUser takes a user out of conf.d/users.yaml. One who is defined elsewhere is an
// *Error that says where.
func RemoveUser(file, name string) error {
	u, err := openUsers(file)
	if err != nil {
		return err
	}
	switch e := u.defined(name); {
	case e == nil:
		return fmt.Errorf("there is no user %q", name)
	case e.src.name != u.name:
		return e.errorf("user %q is defined here; take it out here", name)
	}
	u.remove("users", name)
	return u.save()
}

// usersFile is conf.d/users.yaml being edited: its text, and what it must say after.
type usersFile struct {
	name string
	all  *node // every file, as they were
	text string
	want map[string]any
	err  error
}

func openUsers(file string) (*usersFile, error) {
	all, _, err := read(file)
	if err != nil {
		return nil, err
	}
	u := &usersFile{name: filepath.Join(filepath.Dir(file), "conf.d", "users.yaml"), all: all, text: usersHeader}
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

func (u *usersFile) parse() (*node, error) {
	n, errs := parse(&source{name: u.name, secrets: &secrets{}}, []byte(u.text))
	return n, errs.orNil()
}

func (u *usersFile) defined(name string) *entry {
	if users := u.all.get("users"); users != nil {
		return users.value.get(name)
	}
	return nil
}

func (u *usersFile) roles() (names []string) {
	if roles := u.all.get("roles"); roles != nil {
		for _, e := range roles.value.entries {
			names = append(names, e.name)
		}
	}
	return names
}

// put writes "id: text" into section, in place of what is there under id.
func (u *usersFile) put(section, id, text string, value map[string]any) {
	u.edit(section, id, plainKey(id)+": "+text)
	under, _ := u.want[section].(map[string]any)
	if under == nil {
		under = map[string]any{}
	}
	under[id] = value
	u.want[section] = under
}

func (u *usersFile) remove(section, id string) {
	u.edit(section, id, "")
	under := u.want[section].(map[string]any)
	if delete(under, id); len(under) == 0 {
		u.want[section] = nil
	}
}

// edit replaces the lines of an entry, or adds them behind the section's last one. It
// works on lines so that comments and layout stay. Files laid out otherwise come out
// wrong here, and save finds that.
func (u *usersFile) edit(section, id, line string) {
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

// save replaces the file if the text says what it is to say.
func (u *usersFile) save() error {
	if u.err != nil {
		return u.err
	}
	n, err := u.parse()
	if err != nil || !reflect.DeepEqual(n.any(), any(u.want)) {
		return fmt.Errorf("%s is not laid out with a line for each of %s; edit it by hand",
			u.name, strings.Join(slices.Sorted(maps.Keys(u.want)), " and "))
	}
	dir := filepath.Dir(u.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
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
