package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/reporter"
)

const (
	recordsPath = "api/v1/bill-records"
	// recordsPage is how many records one request asks for.
	recordsPage = 1000
	listTimeout = time.Minute
)

// billRecord is a bill record in the API's answers. Quantities stay the texts they are: nothing here calculates.
type billRecord struct {
	SN          string         `json:"sn"`
	State       string         `json:"state"`
	InstanceID  string         `json:"instance_id"`
	Subject     string         `json:"subject"`
	Meter       string         `json:"meter"`
	WindowStart time.Time      `json:"window_start"`
	WindowEnd   time.Time      `json:"window_end"`
	Usage       string         `json:"usage"`
	CarriedIn   string         `json:"carried_in"`
	Scale       string         `json:"scale"`
	Billed      string         `json:"billed"`
	CarriedOut  string         `json:"carried_out"`
	ProductID   string         `json:"product_id"`
	Package     string         `json:"package"`
	Seller      string         `json:"seller"`
	Revision    uint32         `json:"revision"`
	RecordTime  time.Time      `json:"record_time"`
	Attempts    uint32         `json:"attempts"`
	ChangedAt   time.Time      `json:"changed_at"`
	Code        string         `json:"code"`
	Message     string         `json:"message"`
	Mode        string         `json:"mode"`
	BookedHour  time.Time      `json:"booked_hour"`
	Replaces    string         `json:"replaces"`
	Actor       string         `json:"actor"`
	Transitions []billMovement `json:"transitions"`
}

// billMovement is one transition of a record.
type billMovement struct {
	Seq         uint32    `json:"seq"`
	State       string    `json:"state"`
	At          time.Time `json:"at"`
	Attempt     uint32    `json:"attempt"`
	Endpoint    string    `json:"endpoint"`
	Code        string    `json:"code"`
	Message     string    `json:"message"`
	RequestHash string    `json:"request_hash"`
	LatencyMS   int64     `json:"latency_ms"`
	Detail      string    `json:"detail"`
	Actor       string    `json:"actor"`
}

func newBillsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bills",
		Short: "Look at the bill records of a running daemon, and decide about them",
		Long: `Look at the bill records of a running daemon: what was, is or will be reported to the marketplace for each
instance and hour. What delivery can't settle by itself waits for a person: retry, write-off, unbillable and resend.`,
		Args: noSubcommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBillsListCommand(), newBillsShowCommand())
	cmd.AddCommand(newBillsRetryCommand(), newBillsWriteOffCommand(), newBillsUnbillableCommand(), newBillsResendCommand())
	return cmd
}

// noSubcommand refuses arguments of a command that only groups others.
func noSubcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return &usageError{fmt.Errorf("unknown command %q for %q; see %s --help", args[0], cmd.CommandPath(), cmd.CommandPath())}
}

// exactArgs is cobra.ExactArgs with a text that names what is missing.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return &usageError{fmt.Errorf("give exactly: %s (got %d arguments)", strings.Join(names, " "), len(args))}
		}
		return nil
	}
}

// billsListFlags are the flags of meterd bills list.
type billsListFlags struct {
	clientFlags

	instance, subject, meter string
	states                   []string
	from, to, cursor         string
	limit                    int
}

func newBillsListCommand() *cobra.Command {
	var f billsListFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List bill records, oldest window first",
		Long: `List bill records, oldest window first. The filters are joined by "and"; times select the beginning of the
record's hour, from (inclusive) to (exclusive).

States: ` + strings.Join(stateNames(), ", ") + `.` + clientHelp,
		Example: `  meterd bills list --state held --state rejected
  meterd bills list --instance 7f141bf1 --from 2026-01-01T00:00:00Z --to 2026-02-01T00:00:00Z -o csv --limit 0`,
		Args: cobra.NoArgs,
	}
	f.register(cmd, listTimeout, "table", outputJSON, outputCSV)
	fl := cmd.Flags()
	fl.StringVar(&f.instance, "instance", "", "only records of this instance of the marketplace")
	fl.StringVar(&f.subject, "subject", "", "only records of this subject")
	fl.StringVar(&f.meter, "meter", "", "only records of this meter")
	fl.StringSliceVar(&f.states, "state", nil, "only records in this state (repeatable)")
	fl.StringVar(&f.from, "from", "", "only hours that begin at this time or later (RFC 3339)")
	fl.StringVar(&f.to, "to", "", "only hours that begin before this time (RFC 3339)")
	fl.IntVar(&f.limit, "limit", 100, "list at most so many records (0: all)")
	fl.StringVar(&f.cursor, "cursor", "", "go on behind this place, printed by an earlier listing")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		query, err := f.query()
		if err != nil {
			return &usageError{err}
		}
		client, err := f.client(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		return listBills(cmd, client, query, f)
	}
	return cmd
}

func stateNames() []string {
	names := make([]string, 0, len(reporter.States()))
	for _, s := range reporter.States() {
		names = append(names, s.String())
	}
	return names
}

// query turns the filters into the API's parameters.
func (f *billsListFlags) query() (url.Values, error) {
	q := url.Values{}
	for name, value := range map[string]string{"instance": f.instance, "subject": f.subject, "meter": f.meter, "cursor": f.cursor} {
		if value != "" {
			q.Set(name, value)
		}
	}
	var errs []error
	for _, name := range f.states {
		if _, err := reporter.ParseState(name); err != nil {
			errs = append(errs, fmt.Errorf("--state: %q is none of %s", name, strings.Join(stateNames(), ", ")))
		}
		q.Add("state", name)
	}
	errs = append(errs, addPeriod(q, f.from, f.to))
	if f.cursor != "" {
		if _, _, err := reporter.ParseCursor(f.cursor); err != nil {
			errs = append(errs, errors.New("--cursor: must be as an earlier listing printed it"))
		}
	}
	if f.limit < 0 {
		errs = append(errs, fmt.Errorf("--limit: must not be negative (got %d)", f.limit))
	}
	return q, errors.Join(errs...)
}

// addPeriod checks --from and --to and adds them.
func addPeriod(q url.Values, from, to string) error {
	var errs []error
	times := map[string]time.Time{}
	for name, text := range map[string]string{"from": from, "to": to} {
		if text == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: must be an RFC 3339 time such as 2026-01-02T15:00:00Z (got %q)", name, text))
			continue
		}
		times[name] = at
		q.Set(name, at.UTC().Format(time.RFC3339Nano))
	}
	if len(times) == 2 && !times["from"].Before(times["to"]) {
		errs = append(errs, errors.New("--from: must be before --to"))
	}
	return errors.Join(errs...)
}

// listBills reads page after page up to the limit and writes each as it comes.
func listBills(cmd *cobra.Command, client *apiClient, query url.Values, f billsListFlags) error {
	var out recordWriter
	switch f.output {
	case outputJSON:
		out = &jsonRecords{w: cmd.OutOrStdout()}
	case outputCSV:
		out = &csvRecords{w: cmd.OutOrStdout()}
	default:
		out = &tableRecords{w: cmd.OutOrStdout(), states: map[string]int{}}
	}
	left := f.limit
	for {
		page := recordsPage
		if f.limit > 0 {
			page = min(page, left)
		}
		query.Set("limit", strconv.Itoa(page))
		n, next, err := out.page(cmd.Context(), client, query)
		if err != nil {
			return err
		}
		left -= n
		if next == "" || f.limit > 0 && left <= 0 {
			if err := out.end(next); err != nil {
				return err
			}
			if table, people := out.(*tableRecords); people && table.due() {
				if err := writeDeliveryStory(cmd, client); err != nil {
					return err
				}
			}
			if next != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "There may be more: --cursor %s\n", printable(next))
			}
			return nil
		}
		if next == query.Get("cursor") {
			return errors.New("the daemon's pages don't go on: the next cursor is the same again")
		}
		query.Set("cursor", next)
	}
}

// recordWriter writes pages of bill records in one form.
type recordWriter interface {
	// page reads and writes one page and returns its number of records and the cursor of the next page, "" if there is none.
	page(ctx context.Context, client *apiClient, query url.Values) (n int, next string, err error)
	// end writes what comes after the last page; next is the cursor of what was not listed.
	end(next string) error
}

// tableRecords writes records for people.
type tableRecords struct {
	w      io.Writer
	total  int
	states map[string]int
}

func (t *tableRecords) page(ctx context.Context, client *apiClient, query url.Values) (int, string, error) {
	var answer struct {
		Records    []billRecord `json:"records"`
		NextCursor string       `json:"next_cursor"`
	}
	if err := client.getJSON(ctx, recordsPath, query, &answer); err != nil {
		return 0, "", err
	}
	if len(answer.Records) == 0 {
		return 0, "", nil
	}
	rows := newTable(t.w, "HOUR", "INSTANCE", "METER", "BILLED", "STATE", "TRIES", "CODE", "SN")
	for _, r := range answer.Records {
		rows.row(showWindow(r.WindowStart, r.WindowEnd), r.InstanceID, r.Meter, r.Billed, r.State,
			strconv.FormatUint(uint64(r.Attempts), 10), r.Code, r.SN)
		t.states[r.State]++
	}
	t.total += len(answer.Records)
	return len(answer.Records), answer.NextCursor, rows.flush()
}

// due reports whether a record was listed that is still to be sent.
func (t *tableRecords) due() bool {
	return t.states["pending"]+t.states["sending"]+t.states["unknown"] > 0
}

// shownStory bounds the lines of the breaker's story below a listing; meterd breaker status has all.
const shownStory = 8

// writeDeliveryStory says why records may not have been sent yet: what happened to the breaker. A daemon that doesn't tell leaves the
// listing as it is.
func writeDeliveryStory(cmd *cobra.Command, client *apiClient) error {
	b, _, err := readBreaker(func(raw *json.RawMessage) error { return client.getJSON(cmd.Context(), breakerPath, nil, raw) })
	if err != nil || b.State == "" || b.State == "closed" && b.Misconfigured == nil && b.ThrottledUntil == nil && len(b.Story) == 0 {
		return nil //nolint:nilerr // the records are what was asked for
	}
	b.Story = b.Story[max(0, len(b.Story)-shownStory):]
	fmt.Fprintln(cmd.OutOrStdout())
	return writeBreaker(cmd.OutOrStdout(), b)
}

// end counts the records by state.
func (t *tableRecords) end(string) error {
	if t.total == 0 {
		_, err := fmt.Fprintln(t.w, "no bill records match")
		return err
	}
	_, err := fmt.Fprintf(t.w, "%s: %s\n", plural(t.total, "record", "records"), countStates(t.states))
	return err
}

// countStates is "10 accepted, 1 held", in the order of the states' life.
func countStates[N int | uint64](states map[string]N) string {
	names := stateNames()
	for name := range states {
		if !slices.Contains(names, name) {
			names = append(names, name) // of a newer daemon
		}
	}
	var parts []string
	for _, name := range names {
		if n := states[name]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, printable(name)))
		}
	}
	return strings.Join(parts, ", ")
}

// jsonRecords writes one object {"records":[…],"next_cursor":"…"}, with every field as the daemon sent it.
type jsonRecords struct {
	w     io.Writer
	began bool
}

func (j *jsonRecords) page(ctx context.Context, client *apiClient, query url.Values) (int, string, error) {
	var answer struct {
		Records    []json.RawMessage `json:"records"`
		NextCursor string            `json:"next_cursor"`
	}
	if err := client.getJSON(ctx, recordsPath, query, &answer); err != nil {
		return 0, "", err
	}
	var b bytes.Buffer
	for _, r := range answer.Records {
		b.WriteString(j.separator())
		b.Write(r)
	}
	_, err := j.w.Write(b.Bytes())
	return len(answer.Records), answer.NextCursor, err
}

func (j *jsonRecords) separator() string {
	if j.began {
		return ",\n"
	}
	j.began = true
	return `{"records":[` + "\n"
}

func (j *jsonRecords) end(next string) error {
	text := "\n]"
	if !j.began {
		text = j.separator() + "]"
	}
	if next != "" {
		cursor, err := json.Marshal(next)
		if err != nil {
			return fmt.Errorf("encode cursor: %w", err)
		}
		text += `,"next_cursor":` + string(cursor)
	}
	_, err := io.WriteString(j.w, text+"}\n")
	return err
}

// csvRecords writes the daemon's own CSV, with one line of column names.
type csvRecords struct {
	w     io.Writer
	began bool
}

func (c *csvRecords) page(ctx context.Context, client *apiClient, query url.Values) (n int, next string, err error) {
	err = client.do(ctx, http.MethodGet, recordsPath, query, "text/csv", nil, func(header http.Header, body io.Reader) error {
		text, err := readAnswer(body)
		if err != nil {
			return err
		}
		heading, rows, ok := bytes.Cut(text, []byte("\n"))
		if !ok || !bytes.HasPrefix(heading, []byte("sn,")) {
			return errors.New("the answer is not the CSV of a meterd daemon")
		}
		if c.began {
			text = rows
		}
		c.began = true
		next = nextCursor(header)
		n = countCSVRows(rows)
		_, err = c.w.Write(text)
		return err
	})
	return n, next, err
}

func (c *csvRecords) end(string) error { return nil }

// countCSVRows counts the lines that don't lie within quotes.
func countCSVRows(text []byte) (n int) {
	quoted := false
	for _, b := range text {
		switch {
		case b == '"':
			quoted = !quoted
		case b == '\n' && !quoted:
			n++
		}
	}
	return n
}

// nextCursor is the cursor of the Link header with rel="next", "" if there is none.
func nextCursor(h http.Header) string {
	for _, link := range h.Values("Link") {
		target, params, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(link), "<"), ">")
		if !ok || !strings.Contains(params, `rel="next"`) {
			continue
		}
		if u, err := url.Parse(target); err == nil {
			return u.Query().Get("cursor")
		}
	}
	return ""
}
