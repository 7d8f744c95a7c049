package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

// clockAnswer is the clock in the API's answers.
type clockAnswer struct {
	Now      time.Time  `json:"now"`
	Ahead    float64    `json:"ahead_seconds"`
	Refusing bool       `json:"refusing"`
	Since    *time.Time `json:"since"`
	Trust    string     `json:"trust"`
	Steps    int        `json:"steps"`
}

const clockPath = "api/v1/clock"

func newClockCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "clock",
		Short: "Look at how far a running daemon trusts its machine's clock, and confirm it",
		Long: `Look at how far a running daemon trusts its machine's clock, and confirm it. While the clock is ahead of what can be
trusted, no hour is closed: usage that still comes would be cut off.`,
		Args: noSubcommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newClockStatusCommand(), newClockTrustCommand())
	return cmd
}

func newClockStatusCommand() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show whether hours are closed by the daemon's clock",
		Long:  "Show what time it is by the daemon's clock, and whether hours are closed by it." + clientHelp,
		Args:  cobra.NoArgs,
	}
	f.register(cmd, listTimeout, outputText, outputJSON)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := f.client(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		c, raw, err := readClock(func(raw *json.RawMessage) error { return client.getJSON(cmd.Context(), clockPath, nil, raw) })
		if err != nil {
			return err
		}
		if f.output == outputJSON {
			return writeJSONValue(cmd.OutOrStdout(), raw)
		}
		return writeClock(cmd.OutOrStdout(), c)
	}
	return cmd
}

func newClockTrustCommand() *cobra.Command {
	var f actFlags
	cmd := &cobra.Command{
		Use:   "trust",
		Short: "Confirm that the daemon's clock is right, so that hours are closed by it",
		Long: `Confirm that the daemon's clock is right, so that hours are closed by it again: for when the marketplace's clock can't be
right, or can't be seen. Compare it with another clock first: an hour that is closed too early makes late usage of what still
comes. It holds until the clock jumps again.` + actHelp + clientHelp,
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
		c, _, err := readClock(func(raw *json.RawMessage) error { return client.getJSON(cmd.Context(), clockPath, nil, raw) })
		if err != nil {
			return err
		}
		if err := writeClock(shown, c); err != nil {
			return err
		}
		ok, err := f.confirm(cmd, "Is it right?")
		if err != nil || !ok {
			return err
		}
		_, raw, err := readClock(func(raw *json.RawMessage) error {
			return client.postJSON(cmd.Context(), clockPath+":trust", f.request(), raw)
		})
		if err != nil {
			return err
		}
		if f.output == outputJSON {
			return writeJSONValue(cmd.OutOrStdout(), raw)
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "confirmed; hours are closed by it")
		return err
	}
	return cmd
}

func readClock(read func(*json.RawMessage) error) (c clockAnswer, raw json.RawMessage, err error) {
	if err := read(&raw); err != nil {
		return c, nil, err
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return c, nil, fmt.Errorf("the answer can't be read: %w", err)
	}
	return c, raw, nil
}

// clockTrusts say on whose word the trusted time stands.
var clockTrusts = map[string]string{
	"start": "as it was when the daemon started; nothing contradicts it", "marketplace": "the marketplace's clock",
	"person": "a person's word", "patience": "nobody could say otherwise for long enough",
}

func writeClock(w io.Writer, c clockAnswer) error {
	t := newTable(w)
	t.row("clock", showTime(c.Now))
	trust := clockTrusts[c.Trust]
	if trust == "" {
		trust = c.Trust
	}
	t.row("trusted", trust)
	ahead := time.Duration(c.Ahead * float64(time.Second)).Round(time.Second)
	t.row("ahead", ahead.String())
	if c.Refusing {
		since := ""
		if c.Since != nil {
			since = " since " + showTime(*c.Since)
		}
		t.row("closing", "refused"+since+", because the clock is ahead of what can be trusted")
	}
	t.row("jumps", fmt.Sprintf("%d since the start", c.Steps))
	return t.flush()
}
