package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

// breakerAnswer is the breaker in the API's answers.
type breakerAnswer struct {
	State         string     `json:"state"`
	RetryAt       *time.Time `json:"retry_at"`
	Misconfigured *struct {
		Since   time.Time `json:"since"`
		Code    string    `json:"code"`
		Message string    `json:"message"`
	} `json:"misconfigured"`
	LastPassAt *time.Time `json:"last_pass_at"`
	DueLeft    uint64     `json:"due_left"`
	Error      string     `json:"error"`
	Standby    bool       `json:"standby"`

	ThrottledUntil *time.Time `json:"throttled_until"`
	Story          []struct {
		At     time.Time `json:"at"`
		From   string    `json:"from"`
		To     string    `json:"to"`
		Reason string    `json:"reason"`
	} `json:"story"`
}

const breakerPath = "api/v1/breaker"

func newBreakerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "breaker",
		Short: "Look at the breaker in front of the marketplace, and reset it",
		Long: `Look at the breaker of a running daemon, which keeps it from calling a marketplace that doesn't answer or refuses our key,
and reset it.`,
		Args: noSubcommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBreakerStatusCommand(), newBreakerResetCommand())
	return cmd
}

func newBreakerStatusCommand() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show whether records are let through to the marketplace",
		Long:  "Show whether records are let through to the marketplace, since when not, why, and when the next try is." + clientHelp,
		Args:  cobra.NoArgs,
	}
	f.register(cmd, listTimeout, outputText, outputJSON)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := f.client(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		b, raw, err := readBreaker(func(raw *json.RawMessage) error { return client.getJSON(cmd.Context(), breakerPath, nil, raw) })
		if err != nil {
			return err
		}
		if f.output == outputJSON {
			return writeJSONValue(cmd.OutOrStdout(), raw)
		}
		return writeBreaker(cmd.OutOrStdout(), b)
	}
	return cmd
}

func newBreakerResetCommand() *cobra.Command {
	var f actFlags
	cmd := &cobra.Command{
		Use:   "reset",
		Short: "Let records through to the marketplace again at once",
		Long: `Let records through to the marketplace again at once, for example after a key was mended. The daemon tries by itself as
well, only later; what still doesn't work opens the breaker again.` + actHelp + clientHelp,
		Args: cobra.NoArgs,
	}
	f.register(cmd, outputText, outputJSON)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := f.begin(cmd)
		if err != nil {
			return err
		}
		shown := cmd.OutOrStdout()
		if f.output == outputJSON {
			shown = cmd.ErrOrStderr()
		}
		b, _, err := readBreaker(func(raw *json.RawMessage) error { return client.getJSON(cmd.Context(), breakerPath, nil, raw) })
		if err != nil {
			return err
		}
		if err := writeBreaker(shown, b); err != nil {
			return err
		}
		ok, err := f.confirm(cmd, "Reset it?")
		if err != nil || !ok {
			return err
		}
		b, raw, err := readBreaker(func(raw *json.RawMessage) error {
			return client.postJSON(cmd.Context(), breakerPath+":reset", f.request(), raw)
		})
		if err != nil {
			return err
		}
		if f.output == outputJSON {
			return writeJSONValue(cmd.OutOrStdout(), raw)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "reset; the breaker is %s\n", printable(b.State))
		return err
	}
	return cmd
}

func readBreaker(read func(*json.RawMessage) error) (b breakerAnswer, raw json.RawMessage, err error) {
	if err := read(&raw); err != nil {
		return b, nil, err
	}
	if err := json.Unmarshal(raw, &b); err != nil {
		return b, nil, fmt.Errorf("the answer can't be read: %w", err)
	}
	return b, raw, nil
}

func writeBreaker(w io.Writer, b breakerAnswer) error {
	t := newTable(w)
	t.row("breaker", b.State)
	if b.Standby {
		t.row("standby", "another daemon delivers; its breaker is the one that counts")
	}
	if b.RetryAt != nil {
		t.row("next try", showTime(*b.RetryAt))
	}
	if b.ThrottledUntil != nil {
		t.row("throttled", "the marketplace asked to wait until "+showTime(*b.ThrottledUntil))
	}
	if m := b.Misconfigured; m != nil {
		t.row("alarm", fmt.Sprintf("the marketplace refuses us since %s: %s %s", showTime(m.Since), m.Code, m.Message))
	}
	if b.LastPassAt != nil {
		t.row("last pass", showTime(*b.LastPassAt))
	}
	if b.Error != "" {
		t.row("failed", b.Error)
	}
	t.row("left due", plural(b.DueLeft, "record", "records"))
	for _, c := range b.Story {
		t.row(showTime(c.At), fmt.Sprintf("%s → %s: %s", c.From, c.To, c.Reason))
	}
	return t.flush()
}
