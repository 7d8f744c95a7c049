package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/reporter"
)

// stateMeanings say what a state means for the person who reads it.
var stateMeanings = map[reporter.State]string{
	reporter.StatePending:    "to be sent",
	reporter.StateSending:    "a call that carries it is under way, or was when the daemon stopped",
	reporter.StateAccepted:   "received by the marketplace, which may still find fault with it later",
	reporter.StateConfirmed:  "found in the marketplace's own books",
	reporter.StateFailed:     "refused later by the marketplace's validation; a person must act",
	reporter.StateUnknown:    "sent, and no answer came; it is sent again with the same number and bytes",
	reporter.StateRejected:   "refused by the marketplace for good; a person must act",
	reporter.StateExpired:    "too old for the marketplace; this revenue is lost",
	reporter.StateHeld:       "waits for a person, see the message",
	reporter.StateWrittenOff: "given up on purpose, see the message",
	reporter.StateUnbillable: "fits nowhere within the marketplace's rules, see the message",
	reporter.StateCarried:    "nothing to send; the amount went into the next hour",
	reporter.StateShadowed:   "mode shadow: never sent to the marketplace",
	reporter.StateDryRun:     "mode dry-run: never sent",
	reporter.StateReplaced:   "failed, and reported again as another record",
}

func newBillsShowCommand() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:   "show SN",
		Short: "Show one bill record and its whole life",
		Long: `Show every field of one bill record and its whole life: each state with its time, attempt, endpoint, the
marketplace's code, how long the answer took, and the SHA-256 of the request's body.` + clientHelp,
		Args: exactArgs("SN"),
	}
	f.register(cmd, listTimeout, outputText, outputJSON)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if args[0] == "" {
			return &usageError{errors.New("SN: the number of the record is empty")}
		}
		client, err := f.client(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		var raw json.RawMessage
		if err := client.getJSON(cmd.Context(), recordsPath+"/"+url.PathEscape(args[0]), nil, &raw); err != nil {
			return err
		}
		if f.output == outputJSON {
			return writeJSONValue(cmd.OutOrStdout(), raw)
		}
		var r billRecord
		if err := json.Unmarshal(raw, &r); err != nil {
			return fmt.Errorf("the answer can't be read: %w", err)
		}
		return writeBill(cmd.OutOrStdout(), r)
	}
	return cmd
}

// writeBill writes a record for people.
func writeBill(w io.Writer, r billRecord) error {
	state := r.State
	if s, err := reporter.ParseState(r.State); err == nil {
		state += " (" + stateMeanings[s] + ")"
	}
	if _, err := fmt.Fprintf(w, "bill record %s\n", printable(r.SN)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	fields := newTable(w)
	for _, field := range []struct{ name, value string }{
		{"state", state},
		{"since", showTime(r.ChangedAt)},
		{"code", r.Code},
		{"message", r.Message},
		{"instance", r.InstanceID},
		{"subject", r.Subject},
		{"meter", r.Meter},
		{"hour", showWindow(r.WindowStart, r.WindowEnd)},
		{"usage", r.Usage},
		{"carried in", r.CarriedIn},
		{"scale", r.Scale},
		{"billed", r.Billed},
		{"carried out", r.CarriedOut},
		{"product", r.ProductID},
		{"package", r.Package},
		{"seller", r.Seller},
		{"revision", strconv.FormatUint(uint64(r.Revision), 10)},
		{"record time", showTime(r.RecordTime)},
		{"attempts", strconv.FormatUint(uint64(r.Attempts), 10)},
		{"mode", r.Mode},
		{"booked under", showTime(r.BookedHour)},
		{"replaces", r.Replaces},
	} {
		fields.row("  "+field.name, field.value)
	}
	if err := fields.flush(); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(w, "\nlife"); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return writeLife(w, r.Transitions)
}

// writeLife writes the transitions of a record.
func writeLife(w io.Writer, transitions []billMovement) error {
	life := newTable(w, "#", "AT", "STATE", "ATTEMPT", "ENDPOINT", "CODE", "LATENCY", "REQUEST SHA-256", "BY", "MESSAGE")
	for _, m := range transitions {
		latency := ""
		if m.LatencyMS > 0 {
			latency = (time.Duration(m.LatencyMS) * time.Millisecond).String()
		}
		life.row(strconv.FormatUint(uint64(m.Seq), 10), showTime(m.At), m.State, strconv.FormatUint(uint64(m.Attempt), 10),
			m.Endpoint, m.Code, latency, m.RequestHash, m.Actor, m.Message)
	}
	return life.flush()
}
