package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/reporter"
)

func newInstancesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "instances",
		Short: "Tell a running daemon when instances were opened, frozen or released",
		Long: `Tell a running daemon when instances were opened, frozen, unfrozen or released, and look at what it knows. Nothing may be
billed before an instance was opened, after it was released, or while it was frozen; an instance of which nothing is known
counts as always open.`,
		Args: noSubcommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		newLifeActCommand("opened", reporter.LifeOpened, "Say when an instance was opened", "No record of it begins earlier."),
		newLifeActCommand("freeze", reporter.LifeFrozen, "Say that an instance was frozen",
			"What it used up to then is billed at once; what it uses while frozen is held for a person."),
		newLifeActCommand("unfreeze", reporter.LifeUnfrozen, "Say that an instance is no longer frozen", "Its usage is billed again from then on."),
		newLifeActCommand("release", reporter.LifeReleased, "Say that an instance was released, and make its final record",
			"What it used up to then is billed at once by its final record. It can't be taken back: the marketplace takes nothing afterwards."),
		newLifeCommand(),
	)
	return cmd
}

// lifePath is where an instance's life is.
func lifePath(id string) string { return "api/v1/instances/" + url.PathEscape(id) + "/life" }

// lifeChange is a change in an instance's life in the API's answers.
type lifeChange struct {
	Kind       string    `json:"kind"`
	At         time.Time `json:"at"`
	RecordedAt time.Time `json:"recorded_at"`
	Actor      string    `json:"actor"`
	Reason     string    `json:"reason"`
}

func newLifeActCommand(use string, kind reporter.LifeChangeKind, short, long string) *cobra.Command {
	var f actFlags
	var at string
	cmd := &cobra.Command{
		Use:     use + " INSTANCE",
		Short:   short,
		Long:    short + ". " + long + actHelp + clientHelp,
		Example: "  meterd instances " + use + ` 7f141bf1 --at 2026-01-02T15:20:00Z --reason "order CS123"`,
		Args:    exactArgs("INSTANCE"),
	}
	f.register(cmd, outputText, outputJSON)
	cmd.Flags().StringVar(&at, "at", "", "when it happened, by the marketplace (RFC 3339; default: now)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return runLifeAct(cmd, f, kind, args[0], at) }
	return cmd
}

func runLifeAct(cmd *cobra.Command, f actFlags, kind reporter.LifeChangeKind, id, at string) error {
	var faults []error
	if id == "" {
		faults = append(faults, errors.New("INSTANCE: is empty"))
	}
	request := struct {
		actRequest

		Kind string     `json:"kind"`
		At   *time.Time `json:"at,omitempty"`
	}{actRequest: f.request(), Kind: kind.String()}
	when := "now"
	if at != "" {
		t, err := time.Parse(time.RFC3339Nano, at)
		if err != nil {
			faults = append(faults, fmt.Errorf("--at: must be an RFC 3339 time such as 2026-01-02T15:00:00Z (got %q)", at))
		}
		request.At, when = &t, showTime(t)
	}
	client, err := f.begin(cmd, faults...)
	if err != nil {
		return err
	}
	shown := cmd.OutOrStdout()
	if f.output == outputJSON {
		shown = cmd.ErrOrStderr()
	}
	known, _, err := client.life(cmd, id)
	if err != nil {
		return err
	}
	if err := writeInstance(shown, id, known); err != nil {
		return err
	}
	fmt.Fprintf(shown, "would be noted: %s at %s\n", kind, when)
	ok, err := f.confirm(cmd, "Note it?")
	if err != nil || !ok {
		return err
	}
	var raw json.RawMessage
	if err := client.postJSON(cmd.Context(), lifePath(id), request, &raw); err != nil {
		return err
	}
	if f.output == outputJSON {
		return writeJSONValue(cmd.OutOrStdout(), raw)
	}
	var answer struct {
		At      time.Time `json:"at"`
		Booking *booking  `json:"booking"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return fmt.Errorf("it was done, but the answer can't be read: %w", err)
	}
	fmt.Fprintf(shown, "noted: %s at %s\n", kind, showTime(answer.At))
	if answer.Booking != nil {
		fmt.Fprintln(shown, answer.Booking.summary())
	}
	return nil
}

func newLifeCommand() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:   "life INSTANCE",
		Short: "Show what is known of an instance's life",
		Long:  "Show what is known of an instance's life, oldest first: what happened when, who said so and why." + clientHelp,
		Args:  exactArgs("INSTANCE"),
	}
	f.register(cmd, listTimeout, "table", outputJSON)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if args[0] == "" {
			return &usageError{errors.New("INSTANCE: is empty")}
		}
		client, err := f.client(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		changes, raw, err := client.life(cmd, args[0])
		if err != nil {
			return err
		}
		if f.output == outputJSON {
			return writeJSONValue(cmd.OutOrStdout(), raw)
		}
		return writeInstance(cmd.OutOrStdout(), args[0], changes)
	}
	return cmd
}

func (c *apiClient) life(cmd *cobra.Command, id string) ([]lifeChange, json.RawMessage, error) {
	var raw json.RawMessage
	if err := c.getJSON(cmd.Context(), lifePath(id), nil, &raw); err != nil {
		return nil, nil, err
	}
	var answer struct {
		Changes []lifeChange `json:"changes"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, nil, fmt.Errorf("the answer can't be read: %w", err)
	}
	return answer.Changes, raw, nil
}

func writeInstance(w io.Writer, id string, changes []lifeChange) error {
	if len(changes) == 0 {
		_, err := fmt.Fprintf(w, "nothing is known of instance %s; it counts as always open\n", printable(id))
		return err
	}
	fmt.Fprintf(w, "instance %s\n", printable(id))
	t := newTable(w, "AT", "WHAT", "RECORDED", "BY", "WHY")
	for _, c := range changes {
		t.row(showTime(c.At), c.Kind, showTime(c.RecordedAt), c.Actor, c.Reason)
	}
	return t.flush()
}
