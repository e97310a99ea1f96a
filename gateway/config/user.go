package config

import (
	"fmt"
	"slices"

	"github.com/weir-iot/weir/gateway/auth"
)

// AdminRole is the role that AddUser makes when it is asked for and not there yet.
const AdminRole = "admin"

const usersHeader = "# Written by `weir user`; what you add here yourself is kept.\n"

// openUsers opens conf.d/users.yaml beside the config file.
func openUsers(file string) (*fragment, error) { return openFragment(file, "users.yaml", usersHeader) }

// Users returns the users of the config file and its conf.d. Unlike Load it needs no
// valid config: it is asked when there are no users yet, which may be what is wrong.
func Users(file string) (map[string]auth.User, error) {
	root, _, err := readExpanded(file, nil)
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
	if e := u.defined("users", name); e != nil && e.src.name != u.name {
		return e.errorf("user %q is defined here; change it here, or take it out first", name)
	}
	if _, err := auth.New(map[string]auth.User{name: {PasswordHash: hash}}, nil); err != nil {
		return err
	}
	var roles []string
	if all := u.all.get("roles"); all != nil {
		for _, e := range all.value.entries {
			roles = append(roles, e.name)
		}
	}
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
	switch e := u.defined("users", name); {
	case e == nil:
		return fmt.Errorf("there is no user %q", name)
	case e.src.name != u.name:
		return e.errorf("user %q is defined here; take it out here", name)
	}
	u.remove("users", name)
	return u.save()
}
