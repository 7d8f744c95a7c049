package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes of the command, listed in its help and asserted by tests.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// usageError marks an error of the caller (flags, arguments, configuration): exit code 2.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// codeError is an error with an exit code of its own.
type codeError struct {
	code int
	err  error
}

func (e *codeError) Error() string { return e.err.Error() }
func (e *codeError) Unwrap() error { return e.err }

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "Error: %v\n", err)
	if coded, ok := errors.AsType[*codeError](err); ok {
		return coded.code
	}
	var usage *usageError
	if errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command") {
		return exitUsage
	}
	return exitFailure
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "meterd",
		Short: "Meter usage events and report them to a cloud marketplace",
		Long: `meterd stores usage events durably, aggregates them per hour with exact decimals and
pushes signed usage records to the marketplace that bills your customers.

Exit codes: 0 success, 1 failure at run time, 2 wrong usage or configuration.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(newCheckConfigCommand(), newEngineCommand(), newVersionCommand())
	root.AddCommand(newServeCommand(), newSandboxCommand(), newSendCommand(), newDemoCommand())
	root.AddCommand(newBillsCommand(), newCloseCommand(), newDeadLettersCommand(), newMetersCommand(), newQueryCommand(), newDoctorCommand())
	root.AddCommand(newBackfillCommand(), newVoidCommand(), newHeldCommand(), newInstancesCommand(), newBreakerCommand(), newClockCommand())
	root.AddCommand(newBookingsCommand(), newAdjustmentsCommand(), newAuditCommand(), newExplainCommand(), newVerifyCommand())
	return root
}
