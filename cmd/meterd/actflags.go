package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// envBehalf is the environment variable of --on-behalf-of.
const envBehalf = "METERD_ON_BEHALF_OF"

// actTimeout is a little more than the daemon gives itself for an act.
const actTimeout = 6 * time.Minute

// actHelp says what every command that changes the books has in common.
const actHelp = `

The audit log keeps the name of the API key, --on-behalf-of and --reason. What would be done is shown first and needs a yes
at the terminal, or --yes; --dry-run only shows it.`

// actFlags are the flags of every command by which a person changes the books.
type actFlags struct {
	clientFlags

	reason, behalf string
	yes, dryRun    bool
}

// actRequest are the members that the body of every act has.
type actRequest struct {
	Reason     string `json:"reason"`
	OnBehalfOf string `json:"on_behalf_of,omitempty"`
}

func (f *actFlags) register(cmd *cobra.Command, outputs ...string) {
	f.clientFlags.register(cmd, actTimeout, outputs...)
	fl := cmd.Flags()
	fl.StringVar(&f.reason, "reason", "", "why; kept in the audit log (required)")
	fl.StringVar(&f.behalf, "on-behalf-of", os.Getenv(envBehalf), "who wants it, shown beside the key's name (or "+envBehalf+")")
	fl.BoolVar(&f.yes, "yes", false, "do it without asking")
	fl.BoolVar(&f.dryRun, "dry-run", false, "only show what would be done")
}

// begin checks the flags and makes the client.
func (f *actFlags) begin(cmd *cobra.Command, faults ...error) (*apiClient, error) {
	if strings.TrimSpace(f.reason) == "" {
		faults = append(faults, errors.New("--reason: is required; it is kept in the audit log"))
	}
	if f.yes && f.dryRun {
		faults = append(faults, errors.New("--yes and --dry-run: give one of them"))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, &usageError{err}
	}
	return f.client(cmd.ErrOrStderr())
}

func (f *actFlags) request() actRequest { return actRequest{Reason: f.reason, OnBehalfOf: f.behalf} }

// errNotConfirmed: the preview was shown, and nobody said yes.
var errNotConfirmed = errors.New("nothing was done: not confirmed")

// confirm asks whether to do what was shown. It returns false for --dry-run, and an error if nobody says yes.
func (f *actFlags) confirm(cmd *cobra.Command, question string) (bool, error) {
	switch {
	case f.dryRun:
		fmt.Fprintln(cmd.ErrOrStderr(), "Nothing was done (--dry-run).")
		return false, nil
	case f.yes:
		return true, nil
	case !canAsk(cmd.InOrStdin()):
		return false, &usageError{errors.New("nothing was done: the input is no terminal, so nobody can be asked; --yes does it without asking")}
	}
	return askYes(cmd.InOrStdin(), cmd.ErrOrStderr(), question)
}

// askYes takes nothing but the word yes for a yes.
func askYes(in io.Reader, out io.Writer, question string) (bool, error) {
	fmt.Fprintf(out, "%s Type yes: ", question)
	line, err := bufio.NewReader(io.LimitReader(in, 100)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read the answer: %w", err)
	}
	if strings.TrimSpace(line) != "yes" {
		return false, errNotConfirmed
	}
	return true, nil
}

// canAsk reports whether somebody may sit at the input.
func canAsk(in io.Reader) bool {
	file, ok := in.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}
