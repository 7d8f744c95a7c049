package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// verifyTimeout is a little more than the daemon gives itself.
const verifyTimeout = 61 * time.Minute

// exitUnchecked: nothing is known, because the verification didn't come to its end.
const exitUnchecked = 2

func newVerifyCommand() *cobra.Command {
	var f listFlags
	var recount bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Let a running daemon re-derive its books from rows, and compare",
		Long: `Let a running daemon re-derive its books from rows, and compare what must be equal: per instance and meter, usage booked is
the sum of bill records, what is carried, held, written off and unbillable; the rows don't contradict each other; events
acknowledged are stored, in the spool, or in the dead letters. With --recount the stored events of each closed hour, of all
or of --from to --to, are counted again and compared with what was booked; that reads every event.

Nothing is changed. With -o csv every account is listed, and every hour that differs or waits for its recount.` + strings.Replace(clientHelp,
			"Exit codes: 0 success, 1 failure at run time, 2 wrong usage.",
			"Exit codes: 0 everything agrees, 1 something differs, 2 it could not be checked (or wrong usage).", 1),
		Example: "  meterd verify\n  meterd verify --recount --from 2026-01-01T00:00:00Z --to 2026-02-01T00:00:00Z -o csv > january.csv",
		Args:    cobra.NoArgs,
	}
	f.register(cmd, verifyTimeout, "table", outputJSON, outputCSV)
	fl := cmd.Flags()
	fl.BoolVar(&recount, "recount", false, "count the stored events of closed hours again")
	fl.StringVar(&f.from, "from", "", "with --recount: only hours that begin at this time or later (RFC 3339)")
	fl.StringVar(&f.to, "to", "", "with --recount: only hours that begin before this time (RFC 3339)")
	fl.IntVar(&f.limit, "limit", 100, "list at most so many differences (1 to 10000)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		query := url.Values{"limit": {strconv.Itoa(f.limit)}}
		err := addPeriod(query, f.from, f.to)
		if !recount && (f.from != "" || f.to != "") {
			err = errors.Join(err, errors.New("--from, --to: are the hours to count again; they need --recount"))
		}
		if f.limit < 1 || f.limit > 10_000 {
			err = errors.Join(err, fmt.Errorf("--limit: must be from 1 to 10000 (got %d)", f.limit))
		}
		if err != nil {
			return &usageError{err}
		}
		if recount {
			query.Set("recount", "true")
		}
		client, err := f.client(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		differences, err := runVerify(cmd, client, query, f.output)
		if err != nil {
			return &codeError{exitUnchecked, fmt.Errorf("it could not be checked: %w", err)}
		}
		if differences > 0 {
			return &codeError{exitFailure, fmt.Errorf("%s found", plural(differences, "difference", "differences"))}
		}
		return nil
	}
	return cmd
}

const verifyPath = "api/v1/verify"

// runVerify writes what was found and returns the number of differences.
func runVerify(cmd *cobra.Command, client *apiClient, query url.Values, output string) (differences uint64, err error) {
	if output == outputCSV {
		return verifyCSV(cmd, client, query)
	}
	var raw json.RawMessage
	if err := client.getJSON(cmd.Context(), verifyPath, query, &raw); err != nil {
		return 0, err
	}
	var r reporter.Report
	if err := json.Unmarshal(raw, &r); err != nil {
		return 0, fmt.Errorf("the answer can't be read: %w", err)
	}
	if r.OK == (r.DifferenceCount > 0) {
		return 0, errors.New("the answer contradicts itself; is that a meterd daemon?")
	}
	if output == outputJSON {
		err = writeJSONValue(cmd.OutOrStdout(), raw)
	} else {
		err = writeVerification(cmd.OutOrStdout(), r)
	}
	return r.DifferenceCount, err
}

// verifyCSV passes the daemon's CSV on as it comes. Without the trailer it is not known to be whole.
func verifyCSV(cmd *cobra.Command, client *apiClient, query url.Values) (differences uint64, err error) {
	err = client.exchange(cmd.Context(), http.MethodGet, verifyPath, query, "text/csv", nil, func(resp *http.Response) error {
		if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/csv") {
			return errors.New("the answer is not CSV; is that a meterd daemon?")
		}
		if _, err := io.Copy(cmd.OutOrStdout(), resp.Body); err != nil {
			return err
		}
		differences, err = strconv.ParseUint(resp.Trailer.Get(httpapi.TrailerDifferences), 10, 64)
		if err != nil {
			return errors.New("the answer has no outcome; a proxy between may have dropped the trailer: -o json works without")
		}
		return nil
	})
	return differences, err
}

// writeVerification writes a report for people.
func writeVerification(w io.Writer, r reporter.Report) error {
	fmt.Fprintf(w, "verified   %s up to booking %d, in %s\n", plural(r.Accounts, "account", "accounts"), r.Booking,
		r.FinishedAt.Sub(r.StartedAt).Round(time.Millisecond))
	if c := r.Recount; c != nil {
		fmt.Fprintf(w, "recounted  %s, %s", plural(c.Hours, "hour", "hours"), showWindow(c.From, c.To))
		if c.WaitingCount > 0 {
			fmt.Fprintf(w, "; %s for the next recount", plural(c.WaitingCount, "waits", "wait"))
		}
		fmt.Fprintln(w)
	}
	if i := r.Intake; i != nil {
		fmt.Fprintf(w, "intake     %s not in the store yet, %d in dead letters although acknowledged\n", plural(i.InSpool, "event", "events"), i.DeadLetters)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(w, "note       %s\n", printable(note))
	}
	if len(r.Totals) > 0 {
		fmt.Fprintln(w)
		t := newTable(w, "METER", "ACCOUNTS", "BOOKED", "RECORDS", "CARRIED", "CREDIT", "HELD", "WRITTEN OFF", "UNBILLABLE", "DIFFERENCE")
		for _, m := range r.Totals {
			t.row(m.Meter, strconv.FormatUint(m.Accounts, 10), m.Booked.String(), recordSums(m), m.Carried.String(), m.Credit.String(), m.Held.String(),
				m.WrittenOff.String(), m.Unbillable.String(), m.Difference.String())
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	if len(r.Differences) > 0 {
		fmt.Fprintln(w)
		if err := writeDifferences(w, r); err != nil {
			return err
		}
	}
	verdict := "ok: everything agrees"
	if !r.OK {
		verdict = plural(r.DifferenceCount, "difference", "differences")
	}
	_, err := fmt.Fprintf(w, "\n%s\n", verdict)
	return err
}

// recordSums is "accepted 12, pending 3".
func recordSums(m reporter.MeterTotal) string {
	if !m.Billed {
		return "not billed"
	}
	var parts []string
	for _, s := range reporter.States() {
		if q, ok := m.Records[s]; ok && !q.IsZero() {
			parts = append(parts, s.String()+" "+q.String())
		}
	}
	return strings.Join(parts, ", ")
}

func writeDifferences(w io.Writer, r reporter.Report) error {
	t := newTable(w, "CHECK", "SUBJECT", "METER", "HOUR", "EXPECTED", "FOUND", "BY")
	for _, d := range r.Differences {
		hour := ""
		if d.Hour != nil {
			hour = showWindow(d.Hour.Start, d.Hour.End)
		}
		t.row(string(d.Check), d.Subject, d.Meter, hour, optionalQuantity(d.Expected), optionalQuantity(d.Found), optionalQuantity(d.By))
	}
	if err := t.flush(); err != nil {
		return err
	}
	for _, d := range r.Differences {
		fmt.Fprintf(w, "\n%s\n  what to do: %s\n", printable(d.What), printable(d.Do))
	}
	if more := r.DifferenceCount - uint64(len(r.Differences)); more > 0 {
		fmt.Fprintf(w, "\n… and %d more; --limit shows more, -o csv all\n", more)
	}
	return nil
}

func optionalQuantity(q *meter.Quantity) string {
	if q == nil {
		return ""
	}
	return q.String()
}
