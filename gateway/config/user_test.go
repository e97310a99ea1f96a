package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-iot/weir/gateway/auth"
)

// testHash is a well-formed hash; no password is known for it.
const testHash = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$7FC1bTbqn1sRbPjPYvWpIA"

// tree writes files, by path below a new directory, and returns the config's path.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "weir.yaml")
}

func usersText(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(filepath.Dir(file), "conf.d", "users.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestAddUserMakesAnOpenConfigValid(t *testing.T) {
	file := tree(t, map[string]string{"weir.yaml": "listeners: {mqtt: {address: 0.0.0.0:1883}}\n"})
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), "weir user add") {
		t.Fatalf("a listener open to the network without users: got %v", err)
	}
	if err := AddUser(file, "alice", testHash, AdminRole); err != nil {
		t.Fatal(err)
	}
	if err := AddUser(file, "boiler.1", testHash, ""); err != nil {
		t.Fatal(err)
	}
	want := usersHeader + `roles:
  admin: {publish: ["#"], subscribe: ["#"]}
users:
  alice: {password_hash: "` + testHash + `", role: "admin"}
  "boiler.1": {password_hash: "` + testHash + `"}
`
	if got := usersText(t, file); got != want {
		t.Errorf("users.yaml is\n%s\nwant\n%s", got, want)
	}
	info, err := os.Stat(filepath.Join(filepath.Dir(file), "conf.d", "users.yaml"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("users.yaml has mode %v, want 0600 (%v)", info.Mode(), err)
	}
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if c.Auth.Open() || c.Users["alice"].Role != AdminRole || len(c.Users) != 2 {
		t.Errorf("users are %v", c.Users)
	}
	users, err := Users(file)
	if err != nil || len(users) != 2 || users["alice"] != (auth.User{PasswordHash: testHash, Role: AdminRole}) {
		t.Errorf("Users: %v, %v", users, err)
	}
}

func TestEditUsersKeepsTheRest(t *testing.T) {
	other := strings.Replace(testHash, "m=8", "m=16", 1)
	before := `# ours
users:   # people
    ann:   # first
        password_hash: ` + testHash + `   # old
        role: look

    # the boiler
    boiler: {password_hash: "` + testHash + `"}

# what they may
roles:
    look: {subscribe: ["#"]}
`
	tests := []struct {
		name string
		edit func(file string) error
		want string
	}{
		{"add", func(f string) error { return AddUser(f, "zoe", testHash, "look") },
			strings.Replace(before, "\n\n# what", "\n    zoe: {password_hash: \""+testHash+"\", role: \"look\"}\n\n# what", 1)},
		{"change", func(f string) error { return AddUser(f, "boiler", other, "look") },
			strings.Replace(before, `    boiler: {password_hash: "`+testHash+`"}`, `    boiler: {password_hash: "`+other+`", role: "look"}`, 1)},
		{"change one of many lines", func(f string) error { return AddUser(f, "ann", other, "") },
			before[:strings.Index(before, "    ann:")] + "    ann: {password_hash: \"" + other + "\"}\n" + before[strings.Index(before, "\n    # the boiler"):]},
		{"remove first", func(f string) error { return RemoveUser(f, "ann") },
			before[:strings.Index(before, "    ann:")] + before[strings.Index(before, "\n    # the boiler"):]},
		{"remove last", func(f string) error { return RemoveUser(f, "boiler") },
			strings.Replace(before, "    boiler: {password_hash: \""+testHash+"\"}\n", "", 1)},
		{"remove all, add again", func(f string) error {
			return errors.Join(RemoveUser(f, "boiler"), RemoveUser(f, "ann"), AddUser(f, "null", testHash, ""))
		}, "# ours\nusers:   # people\n  \"null\": {password_hash: \"" + testHash + "\"}\n\n    # the boiler\n\n# what they may\nroles:\n    look: {subscribe: [\"#\"]}\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			file := tree(t, map[string]string{"weir.yaml": "", "conf.d/users.yaml": before})
			if err := test.edit(file); err != nil {
				t.Fatal(err)
			}
			if got := usersText(t, file); got != test.want {
				t.Errorf("users.yaml is\n%s\nwant\n%s", got, test.want)
			}
			if _, err := Load(file); err != nil {
				t.Error(err)
			}
			left, err := filepath.Glob(filepath.Join(filepath.Dir(file), "conf.d", ".*"))
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestEditUsersRefuses(t *testing.T) {
	weir := "users:\n  ann: {password_hash: \"" + testHash + "\"}\nroles: {look: {subscribe: [\"#\"]}}\n"
	add := func(name, hash, role string) func(string) error {
		return func(f string) error { return AddUser(f, name, hash, role) }
	}
	tests := []struct {
		name, users string
		edit        func(file string) error
		want        string
	}{
		{"defined elsewhere", "", add("ann", testHash, ""), `weir.yaml:2:3: user "ann" is defined here; change it here, or take it out first`},
		{"removed elsewhere", "", func(f string) error { return RemoveUser(f, "ann") }, `weir.yaml:2:3: user "ann" is defined here; take it out here`},
		{"nobody", "", func(f string) error { return RemoveUser(f, "bob") }, `there is no user "bob"`},
		{"bad name", "", add("a/b", testHash, ""), `"a/b" cannot be a user name`},
		{"bad hash", "", add("bob", "secret", ""), "password hash is not"},
		{"bad role", "", add("bob", testHash, "lok"), `there is no role "lok", did you mean "look"?`},
		{"flow style", "users: {eve: {password_hash: x}}\n", add("bob", testHash, ""), "edit it by hand"},
		{"flow style, removal", "users: {eve: {password_hash: x}, bob: {}}\n", func(f string) error { return RemoveUser(f, "eve") }, "edit it by hand"},
		{"broken file", "users: [", add("bob", testHash, ""), "users.yaml:1:8: the closing ] is missing"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			file := tree(t, map[string]string{"weir.yaml": weir, "conf.d/users.yaml": test.users})
			err := test.edit(file)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
			if got := usersText(t, file); got != test.users {
				t.Errorf("users.yaml was changed to\n%s", got)
			}
		})
	}
	if err := AddUser(filepath.Join(t.TempDir(), "weir.yaml"), "ann", testHash, ""); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("no config file: got %v", err)
	}
}
