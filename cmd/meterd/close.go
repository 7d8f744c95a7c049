package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// closeTimeout is a little more than the daemon gives itself.
const closeTimeout = 16 * time.Minute

// What --until takes beside times.
const (
	untilNow      = "now"
	untilLastHour = "last-hour"
)

// closeAnswer is the API's answer to a close.
type closeAnswer struct {
	Windows   int                  `json:"windows"`
	First     *meter.Window        `json:"first"`
	Last      *meter.Window        `json:"last"`
	Events    uint64               `json:"events"`
	Usages    uint64               `json:"usages"`
	Records   uint64               `json:"records"`
	Recounts  int                  `json:"recounts"`
	States    map[string]uint64    `json:"states"`
	Delivered reporter.PassSummary `json:"delivered"`
}

// closeStatus is what of the daemon's status explains a close.
type closeStatus struct {
	Now    time.Time `json:"now"`
	Status struct {
		Reporting struct {
			LastClosed struct{ Window meter.Window } `json:"last_closed"`
			CloseErr   string                        `json:"close_err"`
			Delivery   *struct {
				Breaker       string                     `json:"breaker"`
				Misconfigured *reporter.Misconfiguration `json:"misconfigured"`
			} `json:"delivery"`
		} `json:"reporting"`
	} `json:"status"`
}

func newCloseCommand() *cobra.Command {
	var f clientFlags
	var until string
	cmd := &cobra.Command{
		Use:   "close",
		Short: "Let a running daemon close and report what is due, now",
		Long: `Let a running daemon close every hour that is due and deliver its bill records, and print what happened. The
daemon does the same by itself on its schedule; this is for not waiting, and for seeing. Hours close in order, each once:
a second call finds nothing to do.

An hour is due at a time once it has ended and closing.grace has passed since. --until is that time:
  now        the daemon's present time
  last-hour  the end of the last full hour: the same result at any minute of an hour
  TIME       in RFC 3339, not in the future

Events that come after their hour was closed are late; so don't close by hand what senders still fill.` + strings.Replace(clientHelp,
			"1 failure at run time,", "1 failure at run time, or records that were due could\nnot be delivered or were refused,", 1),
		Example: "  meterd close\n  meterd close --until 2026-01-02T15:00:00Z -o json",
		Args:    cobra.NoArgs,
	}
	f.register(cmd, closeTimeout, outputText, outputJSON)
	cmd.Flags().StringVar(&until, "until", untilNow, "close what was due at this time: now, last-hour or RFC 3339")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		at, err := parseUntil(until)
		if err != nil {
			return &usageError{err}
		}
		client, err := f.client(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		return runClose(cmd, client, until, at, f.output == outputJSON)
	}
	return cmd
}

// parseUntil reads a time; the zero time stands for one that depends on the daemon's clock.
func parseUntil(text string) (time.Time, error) {
	if text == untilNow || text == untilLastHour {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("--until: must be now, last-hour or an RFC 3339 time such as 2026-01-02T15:00:00Z (got %q)", text)
	}
	return at.UTC(), nil
}

func runClose(cmd *cobra.Command, client *apiClient, until string, at time.Time, asJSON bool) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	status, err := client.closeStatus(ctx)
	if err != nil {
		return err
	}
	switch until {
	case untilNow:
		at = status.Now // by the daemon's clock, which decides what lies in the future
	case untilLastHour:
		at = status.Now.Truncate(time.Hour)
	}
	var raw json.RawMessage
	request := struct {
		Until time.Time `json:"until"`
	}{at}
	if err := client.postJSON(ctx, "api/v1/admin/close", request, &raw); err != nil {
		return err
	}
	var answer closeAnswer
	if err := json.Unmarshal(raw, &answer); err != nil {
		return fmt.Errorf("the answer can't be read: %w", err)
	}
	if status, err = client.closeStatus(ctx); err != nil {
		return fmt.Errorf("closed, but the daemon doesn't tell its status any more: %w", err)
	}
	if asJSON {
		err = writeJSONValue(out, raw)
	} else {
		err = writeClose(out, answer, status, at)
	}
	return errors.Join(err, answer.failure(status))
}

func (c *apiClient) closeStatus(ctx context.Context) (closeStatus, error) {
	var s closeStatus
	err := c.getJSON(ctx, "api/v1/admin/status", nil, &s)
	return s, err
}

// writeClose writes the summary for people.
func writeClose(w io.Writer, a closeAnswer, s closeStatus, until time.Time) error {
	var b strings.Builder
	if a.Windows == 0 || a.First == nil || a.Last == nil {
		b.WriteString("closed     nothing was due: " + whyNothingDue(s, until) + "\n")
	} else {
		fmt.Fprintf(&b, "closed     %s, %s\n", plural(a.Windows, "hour", "hours"), showWindow(a.First.Start, a.Last.End))
		fmt.Fprintf(&b, "           %s, %s of hourly usage, %s", plural(a.Events, "event", "events"),
			plural(a.Usages, "row", "rows"), plural(a.Records, "bill record", "bill records"))
		if states := countStates(a.States); states != "" {
			b.WriteString(" (" + states + ")")
		}
		b.WriteByte('\n')
	}
	if a.Recounts > 0 {
		fmt.Fprintf(&b, "recounted  %s that events or voids came for after they were closed\n", plural(a.Recounts, "hour", "hours"))
	}
	writeDelivery(&b, a, s)
	_, err := io.WriteString(w, b.String())
	return err
}

// whyNothingDue says when the next hour will be due.
func whyNothingDue(s closeStatus, until time.Time) string {
	last := s.Status.Reporting.LastClosed.Window
	if last.IsZero() {
		return "no hour was closed yet, and the store has no event of an hour that ended before " + showTime(until) + " and its grace period"
	}
	next := last.Next()
	return fmt.Sprintf("everything until %s is closed; the next hour can be closed once %s plus closing.grace has passed (--until was %s)",
		showTime(last.End), showTime(next.End), showTime(until))
}

func writeDelivery(b *strings.Builder, a closeAnswer, s closeStatus) {
	d := a.Delivered
	if s.Status.Reporting.Delivery == nil {
		b.WriteString("delivered  nothing: reporting is off (reporting.enabled = false), records stay pending\n")
		return
	}
	fmt.Fprintf(b, "delivered  %d accepted, %d rejected, %d expired, %d held, in %s to the marketplace\n",
		d.Accepted, d.Rejected, d.Expired, d.Held, plural(d.Calls, "call", "calls"))
	fmt.Fprintf(b, "left due   %s", plural(d.DueLeft, "record", "records"))
	if d.Unsettled > 0 {
		fmt.Fprintf(b, " in %s, the oldest of %s", plural(d.Unsettled, "hour", "hours"), showWindow(d.OldestDue.Start, d.OldestDue.End))
	}
	b.WriteByte('\n')
	if d.Stopped != reporter.StopNone {
		fmt.Fprintf(b, "stopped    %s\n", stopMeaning(d.Stopped))
	}
	if m := s.Status.Reporting.Delivery.Misconfigured; m != nil {
		fmt.Fprintf(b, "alarm      the marketplace refuses us since %s: %s %s\n", showTime(m.Since), printable(m.Code), printable(m.Message))
	}
	if !d.RetryAt.IsZero() {
		fmt.Fprintf(b, "next try   %s\n", showTime(d.RetryAt))
	}
}

func stopMeaning(r reporter.StopReason) string {
	switch r {
	case reporter.StopBreaker:
		return "the breaker is open: the marketplace doesn't answer, or not as it should"
	case reporter.StopThrottled:
		return "the marketplace asked to wait"
	case reporter.StopMisconfigured:
		return "the marketplace refuses our key, signature, clock or authority; meterd doctor helps to find out which"
	case reporter.StopShutdown:
		return "the daemon is stopping"
	case reporter.StopNone:
	}
	return printable(string(r))
}

// failure is why the exit code is 1: something that a person should see. With reporting off, records stay due on purpose.
func (a closeAnswer) failure(s closeStatus) error {
	var parts []string
	add := func(n uint64, what string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, what))
		}
	}
	if s.Status.Reporting.Delivery != nil {
		add(a.Delivered.DueLeft, "left due")
	}
	add(uint64(max(a.Delivered.Rejected, 0)), "rejected")
	add(uint64(max(a.Delivered.Expired, 0)), "expired")
	// Records that closing itself held are among States; delivery counts those that it held.
	add(uint64(max(a.Delivered.Held, 0))+a.States[reporter.StateHeld.String()], "held")
	add(a.States[reporter.StateUnbillable.String()], "unbillable")
	if s.Status.Reporting.CloseErr != "" {
		parts = append(parts, "closing failed: "+printable(s.Status.Reporting.CloseErr))
	}
	if len(parts) == 0 {
		return nil
	}
	return errors.New("not everything went through: " + strings.Join(parts, ", "))
}
