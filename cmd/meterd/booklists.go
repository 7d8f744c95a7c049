package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// listFlags are the flags of the commands that list the books by time.
type listFlags struct {
	clientFlags

	from, to string
	limit    int
}

// registerList adds the flags; what names the things that --from and --to select.
func (f *listFlags) registerList(cmd *cobra.Command, what string, outputs ...string) {
	f.register(cmd, listTimeout, outputs...)
	cmd.Flags().StringVar(&f.from, "from", "", "only "+what+" at this time or later (RFC 3339)")
	cmd.Flags().StringVar(&f.to, "to", "", "only "+what+" before this time (RFC 3339)")
}

// rawList reads a list of an answer, each item as it came and decoded.
func rawList[T any](cmd *cobra.Command, client *apiClient, path, member string, query url.Values) (items []T, more bool, raw json.RawMessage, err error) {
	if err := client.getJSON(cmd.Context(), path, query, &raw); err != nil {
		return nil, false, nil, err
	}
	var answer map[string]json.RawMessage
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, false, nil, fmt.Errorf("the answer can't be read: %w", err)
	}
	if err := json.Unmarshal(answer[member], &items); err != nil {
		return nil, false, nil, fmt.Errorf("the answer can't be read: %s: %w", member, err)
	}
	if text, given := answer["more"]; given {
		if err := json.Unmarshal(text, &more); err != nil {
			return nil, false, nil, fmt.Errorf("the answer can't be read: more: %w", err)
		}
	}
	return items, more, raw, nil
}

func newBookingsCommand() *cobra.Command {
	var f listFlags
	var kinds []string
	cmd := &cobra.Command{
		Use:   "bookings",
		Short: "List the bookings of a running daemon: everything that changed amounts",
		Long: `List the bookings of a running daemon, by number. A booking is the only thing that changes amounts: an hour's close, a
recount of a closed hour, an instance's release or freeze, a decision, a resend. Without --from, the last seven days.` + clientHelp,
		Example: "  meterd bookings --kind recount --kind decision",
		Args:    cobra.NoArgs,
	}
	f.registerList(cmd, "bookings of hours that begin", "table", outputJSON)
	cmd.Flags().StringSliceVar(&kinds, "kind", nil, "only of this kind: close, recount, release, freeze, decision, resend (repeatable)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		query := url.Values{}
		if err := addPeriod(query, f.from, f.to); err != nil {
			return &usageError{err}
		}
		for _, kind := range kinds {
			query.Add("kind", kind)
		}
		client, err := f.client(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		list, _, raw, err := rawList[booking](cmd, client, "api/v1/bookings", "bookings", query)
		if err != nil {
			return err
		}
		if f.output == outputJSON {
			return writeJSONValue(cmd.OutOrStdout(), raw)
		}
		if len(list) == 0 {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "no bookings match")
			return err
		}
		t := newTable(cmd.OutOrStdout(), "NUMBER", "KIND", "HOUR", "AT", "EVENTS", "USAGES", "RECORDS", "ADJUSTMENTS", "SETTLED", "INSTANCE", "BY", "WHY")
		for _, b := range list {
			settled := "no"
			switch {
			case b.SettledAt != nil:
				settled = showTime(*b.SettledAt)
			case b.Records == 0:
				settled = "" // nothing to send
			}
			t.row(strconv.FormatUint(b.Number, 10), b.Kind, showWindow(b.WindowStart, b.WindowEnd), showTime(b.At), strconv.FormatUint(b.Events, 10),
				strconv.FormatUint(b.Usages, 10), strconv.FormatUint(b.Records, 10), strconv.FormatUint(b.Adjustments, 10), settled,
				b.InstanceID, b.Actor, b.Reason)
		}
		return t.flush()
	}
	return cmd
}

// adjustmentsFlags are the flags of meterd adjustments.
type adjustmentsFlags struct {
	listFlags

	subject, meter, into string
}

func newAdjustmentsCommand() *cobra.Command {
	var f adjustmentsFlags
	cmd := &cobra.Command{
		Use:   "adjustments",
		Short: "List amounts that didn't go the ordinary way, of a running daemon",
		Long: `List amounts of a running daemon that did not go the ordinary way from their hour into that hour's record, by booking: late
usage, credits, held usage and what was decided about it, what was written off, what can't be billed, and why.` + clientHelp,
		Example: "  meterd adjustments --into unbillable\n  meterd adjustments --subject vm-1 -o csv",
		Args:    cobra.NoArgs,
	}
	f.registerList(cmd, "usage of hours that begin", "table", outputJSON, outputCSV)
	cmd.Flags().StringVar(&f.subject, "subject", "", "only of this subject")
	cmd.Flags().StringVar(&f.meter, "meter", "", "only of this meter")
	cmd.Flags().StringVar(&f.into, "into", "", "only what went there: balance, held, written_off, unbillable or record")
	cmd.Flags().IntVar(&f.limit, "limit", 1000, "list at most so many (1 to 10000)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return listAdjustments(cmd, f) }
	return cmd
}

func listAdjustments(cmd *cobra.Command, f adjustmentsFlags) error {
	query := url.Values{"limit": {strconv.Itoa(f.limit)}}
	if err := addPeriod(query, f.from, f.to); err != nil {
		return &usageError{err}
	}
	for name, value := range map[string]string{"subject": f.subject, "meter": f.meter, "into": f.into} {
		if value != "" {
			query.Set(name, value)
		}
	}
	client, err := f.client(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	const path = "api/v1/adjustments"
	if f.output == outputCSV {
		return client.exchange(cmd.Context(), http.MethodGet, path, query, "text/csv", nil, func(resp *http.Response) error {
			text, err := readAnswer(resp.Body)
			if err != nil {
				return err
			}
			hintMore(cmd, resp.Header.Get("Meterd-More") == "true")
			_, err = cmd.OutOrStdout().Write(text)
			return err
		})
	}
	list, more, raw, err := rawList[adjustment](cmd, client, path, "adjustments", query)
	if err != nil {
		return err
	}
	hintMore(cmd, more)
	if f.output == outputJSON {
		return writeJSONValue(cmd.OutOrStdout(), raw)
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "no adjustments match")
		return err
	}
	t := newTable(cmd.OutOrStdout(), "BOOKING", "HOUR", "SUBJECT", "METER", "QUANTITY", "INTO", "RECORD", "AT", "BY", "ID", "WHY")
	for _, a := range list {
		t.row(strconv.FormatUint(a.Booking, 10), showWindow(a.HourStart, a.HourEnd), a.Subject, a.Meter, a.Quantity, a.Into, a.Record,
			showTime(a.At), a.Actor, a.ID, a.Reason)
	}
	return t.flush()
}

// hintMore says that the limit cut a list.
func hintMore(cmd *cobra.Command, more bool) {
	if more {
		fmt.Fprintln(cmd.ErrOrStderr(), "There are more: give a larger --limit, or narrow it by --from and --to")
	}
}

// auditEntry is an act in the API's answers.
type auditEntry struct {
	At     time.Time `json:"at"`
	Actor  string    `json:"actor"`
	Action string    `json:"action"`
	Target string    `json:"target"`
	Reason string    `json:"reason"`
	Detail string    `json:"detail"`
}

func newAuditCommand() *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "List what people did to the books of a running daemon, newest first",
		Long: `List what people did to the books of a running daemon, newest first: who, what, to what, and why. Without --from, the last
90 days. An action that ends in _failed did not happen, or not wholly.` + clientHelp,
		Args: cobra.NoArgs,
	}
	f.registerList(cmd, "acts", "table", outputJSON)
	cmd.Flags().IntVar(&f.limit, "limit", 100, "list at most so many (1 to 10000)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		query := url.Values{"limit": {strconv.Itoa(f.limit)}}
		if err := addPeriod(query, f.from, f.to); err != nil {
			return &usageError{err}
		}
		client, err := f.client(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		list, more, raw, err := rawList[auditEntry](cmd, client, "api/v1/audit", "entries", query)
		if err != nil {
			return err
		}
		hintMore(cmd, more)
		if f.output == outputJSON {
			return writeJSONValue(cmd.OutOrStdout(), raw)
		}
		if len(list) == 0 {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "no acts match")
			return err
		}
		t := newTable(cmd.OutOrStdout(), "AT", "BY", "ACTION", "TARGET", "WHY", "DETAIL")
		for _, e := range list {
			t.row(showTime(e.At), e.Actor, e.Action, e.Target, e.Reason, e.Detail)
		}
		return t.flush()
	}
	return cmd
}
