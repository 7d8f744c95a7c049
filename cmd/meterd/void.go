package main

import (
	"bufio"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const voidPath = "api/v1/events:void"

// voidFlags are the flags of meterd void.
type voidFlags struct {
	actFlags

	subject, source, eventType string
	ids                        []string
	idsFile, from, to          string
}

// voidRequest is the body of a void.
type voidRequest struct {
	actRequest

	Subject string     `json:"subject"`
	Source  string     `json:"source,omitempty"`
	IDs     []string   `json:"ids,omitempty"`
	Type    string     `json:"type,omitempty"`
	From    *time.Time `json:"from,omitempty"`
	To      *time.Time `json:"to,omitempty"`
}

func newVoidCommand() *cobra.Command {
	var f voidFlags
	cmd := &cobra.Command{
		Use:   "void",
		Short: "Make stored events of a running daemon count no more",
		Long: `Make stored events of one subject count no more: single ones by --source and --id, or those of a time by --from and
--to. They stay stored. What an hour that is billed already loses becomes a credit, netted against later usage of the same
instance; it never makes a negative record.` + actHelp + clientHelp,
		Example: `  meterd void --subject vm-1 --source my-service --id 5c10fade --reason "sent twice under two ids"
  meterd void --subject vm-1 --type prompt --from 2026-01-02T15:00:00Z --to 2026-01-02T16:00:00Z --reason "load test" --dry-run`,
		Args: cobra.NoArgs,
	}
	f.register(cmd, outputText, outputJSON)
	fl := cmd.Flags()
	fl.StringVar(&f.subject, "subject", "", "whose events (required)")
	fl.StringVar(&f.source, "source", "", "source of the events that --id names")
	fl.StringArrayVar(&f.ids, "id", nil, "id of an event (repeatable)")
	fl.StringVar(&f.idsFile, "ids-file", "", "file with one id a line")
	fl.StringVar(&f.eventType, "type", "", "only events of this type")
	fl.StringVar(&f.from, "from", "", "only events at this time or later (RFC 3339)")
	fl.StringVar(&f.to, "to", "", "only events before this time (RFC 3339)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return runVoid(cmd, f) }
	return cmd
}

// body turns the flags into a request.
func (f *voidFlags) body() (voidRequest, error) {
	r := voidRequest{actRequest: f.request(), Subject: f.subject, Source: f.source, IDs: f.ids, Type: f.eventType}
	var errs []error
	if f.idsFile != "" {
		ids, err := readLines(f.idsFile)
		if err != nil {
			errs = append(errs, fmt.Errorf("--ids-file: %w", err))
		}
		r.IDs = append(r.IDs, ids...)
	}
	errs = append(errs, addPeriod(url.Values{}, f.from, f.to))
	for _, bound := range []struct {
		text string
		into **time.Time
	}{{f.from, &r.From}, {f.to, &r.To}} {
		if at, err := time.Parse(time.RFC3339Nano, bound.text); err == nil {
			*bound.into = &at
		}
	}
	switch {
	case f.subject == "":
		errs = append(errs, errors.New("--subject: is required; a void is about one subject"))
	case len(r.IDs) == 0 && f.idsFile == "" && f.from == "" && f.to == "":
		errs = append(errs, errors.New("give --id with --source, or --from and --to"))
	case len(r.IDs) > 0 && f.source == "":
		errs = append(errs, errors.New("--source: is required with --id; an event is known by both"))
	case (f.from == "") != (f.to == ""):
		errs = append(errs, errors.New("--from, --to: give both or none"))
	}
	return r, errors.Join(errs...)
}

// readLines reads a file with one text a line; blank lines are skipped.
func readLines(name string) ([]string, error) {
	file, err := os.Open(name) //nolint:gosec // the user chose the file
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var lines []string
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		if line := strings.TrimSpace(scanner.Text()); line != "" {
			lines = append(lines, line)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("%s holds no id", name)
	}
	return lines, nil
}

func runVoid(cmd *cobra.Command, f voidFlags) error {
	body, err := f.body()
	client, beginErr := f.begin(cmd, err)
	if beginErr != nil {
		return beginErr
	}
	var preview effectAnswer
	if err := client.postJSON(cmd.Context(), voidPath, body, &preview); err != nil {
		return err
	}
	asJSON := f.output == outputJSON
	shown := cmd.OutOrStdout()
	if asJSON {
		shown = cmd.ErrOrStderr()
	}
	if err := writeEffect(shown, "would be voided", preview.Effect); err != nil {
		return err
	}
	ok, err := f.confirm(cmd, "Void them?")
	if err != nil {
		return err
	}
	answer := preview
	if ok {
		query := url.Values{"commit": {preview.Token}}
		if err := client.postQuery(cmd.Context(), voidPath, query, body, &answer); err != nil {
			return effectChanged(cmd, err)
		}
	}
	if asJSON {
		return writeJSONValue(cmd.OutOrStdout(), answer)
	}
	if ok {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "voided %s\n", plural(answer.Events-answer.Already, "event", "events"))
	}
	return err
}

// effectChanged shows the effect as it is now, where a commit came too late.
func effectChanged(cmd *cobra.Command, err error) error {
	var p *problemError
	if errors.As(err, &p) && p.Effect != nil {
		return errors.Join(err, writeEffect(cmd.ErrOrStderr(), "it would be now", *p.Effect))
	}
	return err
}
