package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/weir-iot/weir/gateway/auth"
	"github.com/weir-iot/weir/gateway/config"
)

func userCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "user",
		Short: "Add, list and remove users",
		Long: `Add, list and remove the users of a config file. They are written to conf.d/users.yaml beside
it; a running gateway takes them up when it is restarted.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid.`,
		Example: `  weir user add alice --role admin
  weir user list`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(userAddCommand(o), userListCommand(o), userRemoveCommand(o))
	return cmd
}

func userAddCommand(o *options) *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a user, or change the password and role of one",
		Long: `Add a user, or change the password and role of one. The password is asked for, or read as one
line from standard input if that is not a terminal. Only its argon2id hash is stored.

The role admin may publish and subscribe to everything, and is made if it is not there. Other
roles stand in the config file.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid.`,
		Example: `  weir user add alice --role admin
  echo "$PASSWORD" | weir user add boiler --role sensor`,
		Args: args(1, 1, "a user name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			password, err := readPassword(cmd)
			if err != nil {
				return err
			}
			hash, err := auth.Hash(password)
			if err != nil {
				return err
			}
			file, err := o.usersConfig()
			if err != nil {
				return err
			}
			if err := config.AddUser(file, args[0], hash, role); err != nil {
				return err
			}
			with := "without a role, so with no rights yet"
			if role != "" {
				with = "with role " + role
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "user %s is there, %s; restart the gateway to use it\n", args[0], with)
			return err
		},
	}
	cmd.Flags().StringVar(&role, "role", "", "the `ROLE` that says what the user may do")
	return cmd
}

func userListCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the users and their roles",
		Long:    "List the users and their roles.\n\nExit codes: 0 ok, 1 failed, 2 usage, 3 config invalid.",
		Example: "  weir user list",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, named := o.configFile()
			if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) && !named {
				file = ""
			}
			users, err := config.Users(file)
			if err != nil {
				return &exitError{exitConfig, err}
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "USER\tROLE")
			for _, name := range slices.Sorted(maps.Keys(users)) {
				fmt.Fprintf(w, "%s\t%s\n", name, users[name].Role)
			}
			return w.Flush()
		},
	}
}

func userRemoveCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "remove NAME",
		Short:   "Remove a user",
		Long:    "Remove a user that weir user add wrote.\n\nExit codes: 0 ok, 1 failed, 2 usage, 3 config invalid.",
		Example: "  weir user remove alice",
		Args:    args(1, 1, "a user name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := o.usersConfig()
			if err != nil {
				return err
			}
			if err := config.RemoveUser(file, args[0]); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "user %s is gone; restart the gateway to lock it out\n", args[0])
			return err
		},
	}
}

// usersConfig is the config file that users are kept beside. It has to exist, since it
// is what makes the gateway read the file they are written to.
func (o *options) usersConfig() (string, error) {
	file, _ := o.configFile()
	if _, err := os.Stat(file); err != nil {
		return "", exitf(exitConfig, "users are kept beside the config file, and %w: make it first (it may be empty), or name another with --config", err)
	}
	return file, nil
}

// readPassword asks twice at a terminal, and else takes one line.
func readPassword(cmd *cobra.Command) (string, error) {
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read the password: %w", err)
		}
		return strings.TrimRight(line, "\r\n"), nil
	}
	ask := func(prompt string) (string, error) {
		fmt.Fprint(cmd.ErrOrStderr(), prompt)
		p, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(cmd.ErrOrStderr())
		return string(p), err
	}
	first, err := ask("Password: ")
	if err != nil {
		return "", err
	}
	again, err := ask("Once more: ")
	if err == nil && first != again {
		err = errors.New("the two passwords differ")
	}
	return first, err
}
