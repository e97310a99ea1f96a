// Command weir is the gateway and everything one does with it: one static binary.
//
// wire.go is the composition root: which parts there are, how they meet, and in which
// order they stop. Each other file is one command.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

// Exit codes, the same for every command.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitConfig      = 3
	exitUnreachable = 4
)

// exitError carries the code a failure ends with.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func exitf(code int, format string, args ...any) error {
	return &exitError{code, fmt.Errorf(format, args...)}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once, should a stop hang.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main for tests: it returns the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(errOut, "weir:", err)
	var exit *exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	return exitFailed
}

// options are the flags every command shares.
type options struct {
	config string
}

func rootCommand() *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use:   "weir",
		Short: "An IoT gateway that loses nothing and can prove it",
		Long: `Weir takes in what devices send, over MQTT and serial lines, stores it before it says
"accepted", shows it live in a browser, and forwards it over an uplink that may be down
for days.

Exit codes: 0 ok, 1 failed, 2 usage, 3 config invalid, 4 gateway not reachable.`,
		Example: `  weir run                          the broker on :1883, the page on http://localhost:8080
  weir tail 'plant1/#'              what arrives, as it arrives
  weir user add alice --role admin  needed before Weir listens beyond this machine`,
		SilenceUsage:  true,
		SilenceErrors: true,

		SuggestionsMinimumDistance: 2,
		Args:                       noArgs,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().StringVarP(&o.config, "config", "c", "", "config file (default "+defaultConfig()+"; it may be absent)")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return exitf(exitUsage, "%w (see %s --help)", err, cmd.CommandPath())
	})
	root.AddCommand(
		runCommand(o), checkCommand(o),
		tailCommand(o), pubCommand(o), devicesCommand(o), queueCommand(o), ledgerCommand(o), replayCommand(o), drillCommand(o), traceCommand(o), verifyCommand(o),
		userCommand(o), canCommand(o), doctorCommand(o),
		versionCommand(), boxCommand(), radioCommand(),
	)
	return root
}

// args checks the number of arguments and says in words what is missing.
func args(min, max int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < min || max >= 0 && len(args) > max {
			return exitf(exitUsage, "%s takes %s (see %s --help)", cmd.CommandPath(), what, cmd.CommandPath())
		}
		return nil
	}
}

func noArgs(cmd *cobra.Command, given []string) error {
	if len(given) == 0 {
		return nil
	}
	if cmd.HasSubCommands() {
		err := fmt.Errorf("unknown command %q", given[0])
		if near := cmd.SuggestionsFor(given[0]); len(near) > 0 {
			err = fmt.Errorf("%w, did you mean %q?", err, near[0])
		}
		return exitf(exitUsage, "%w (see %s --help)", err, cmd.CommandPath())
	}
	return args(0, 0, "no arguments")(cmd, given)
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version, and what it was built for",
		Long:    "Print the version, the Go version and the platform it was built for.\n\nExit codes: 0 ok.",
		Example: "  weir version",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "weir %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
