package main

import (
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
)

const metersPath = "api/v1/meters"

// meterInfo is a meter in the API's answers.
type meterInfo struct {
	Slug          string            `json:"slug"`
	Description   string            `json:"description"`
	EventType     string            `json:"eventType"`
	Aggregation   string            `json:"aggregation"`
	ValueProperty string            `json:"valueProperty"`
	GroupBy       map[string]string `json:"groupBy"`
	Unit          string            `json:"unit"`
	Billed        bool              `json:"billed"`
}

func newMetersCommand() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:   "meters",
		Short: "List the meters of a running daemon",
		Long:  "List the meters of a running daemon." + clientHelp,
		Args:  cobra.NoArgs,
	}
	f.register(cmd, listTimeout, "table", outputJSON)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := f.client(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		var raw json.RawMessage
		if err := client.getJSON(cmd.Context(), metersPath, nil, &raw); err != nil {
			return err
		}
		if f.output == outputJSON {
			return writeJSONValue(cmd.OutOrStdout(), raw)
		}
		var meters []meterInfo
		if err := json.Unmarshal(raw, &meters); err != nil {
			return fmt.Errorf("the answer can't be read: %w", err)
		}
		t := newTable(cmd.OutOrStdout(), "METER", "EVENTS", "AGGREGATION", "VALUE", "UNIT", "DIMENSIONS", "BILLED")
		for _, m := range meters {
			t.row(m.Slug, m.EventType, strings.ToLower(m.Aggregation), m.ValueProperty, m.Unit,
				strings.Join(sortedNames(m.GroupBy), ", "), strconv.FormatBool(m.Billed))
		}
		return t.flush()
	}
	return cmd
}

func sortedNames(m map[string]string) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// queryFlags are the flags of meterd query.
type queryFlags struct {
	clientFlags

	from, to, window, zone string
	groupBy, subjects      []string
	filters                []string
}

func newQueryCommand() *cobra.Command {
	var f queryFlags
	cmd := &cobra.Command{
		Use:   "query METER",
		Short: "Ask a running daemon for usage",
		Long: `Ask a running daemon for the usage that a meter counted, of closed and open hours alike. Without --window it is one
number for the whole time.` + clientHelp,
		Example: `  meterd query tokens --from 2026-01-01T00:00:00Z --to 2026-02-01T00:00:00Z --group-by subject -o csv
  meterd query tokens --window day --zone Asia/Shanghai --subject tenant-42`,
		Args: exactArgs("METER"),
	}
	f.register(cmd, listTimeout, "table", outputJSON, outputCSV)
	fl := cmd.Flags()
	fl.StringVar(&f.from, "from", "", "only usage at this time or later (RFC 3339)")
	fl.StringVar(&f.to, "to", "", "only usage before this time (RFC 3339)")
	fl.StringVar(&f.window, "window", "", "one number for each minute, hour, day or month")
	fl.StringVar(&f.zone, "zone", "", "time zone of days and months, such as Asia/Shanghai (default UTC)")
	fl.StringSliceVar(&f.groupBy, "group-by", nil, "one number for each subject or value of a dimension (repeatable)")
	fl.StringArrayVar(&f.subjects, "subject", nil, "only usage of this subject (repeatable)")
	fl.StringArrayVar(&f.filters, "filter", nil, "DIMENSION=VALUE: only usage with this value (repeatable)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		query, err := f.query()
		if err != nil {
			return &usageError{err}
		}
		client, err := f.client(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		return runQuery(cmd, client, metersPath+"/"+url.PathEscape(args[0])+"/query", query, f)
	}
	return cmd
}

// query turns the flags into the API's parameters.
func (f *queryFlags) query() (url.Values, error) {
	q := url.Values{}
	errs := []error{addPeriod(q, f.from, f.to)}
	if f.window != "" {
		if !slices.Contains([]string{"minute", "hour", "day", "month"}, strings.ToLower(f.window)) {
			errs = append(errs, fmt.Errorf("--window: must be minute, hour, day or month (got %q)", f.window))
		}
		q.Set("windowSize", strings.ToUpper(f.window))
	}
	if f.zone != "" {
		q.Set("windowTimeZone", f.zone)
	}
	for _, name := range f.groupBy {
		q.Add("groupBy", name)
	}
	for _, subject := range f.subjects {
		q.Add("subject", subject)
	}
	for _, filter := range f.filters {
		name, value, ok := strings.Cut(filter, "=")
		if !ok || name == "" {
			errs = append(errs, fmt.Errorf("--filter: must be DIMENSION=VALUE (got %q)", filter))
		}
		q.Add("filterGroupBy["+name+"]", value)
	}
	return q, errors.Join(errs...)
}

func runQuery(cmd *cobra.Command, client *apiClient, path string, query url.Values, f queryFlags) error {
	out := cmd.OutOrStdout()
	if f.output != "table" {
		accept := map[string]string{outputJSON: "application/json", outputCSV: "text/csv"}[f.output]
		return client.do(cmd.Context(), http.MethodGet, path, query, accept, nil, func(_ http.Header, body io.Reader) error {
			_, err := io.Copy(out, body)
			return err
		})
	}
	var answer struct {
		Data []struct {
			Value   string            `json:"value"`
			Start   time.Time         `json:"windowStart"`
			End     time.Time         `json:"windowEnd"`
			Subject *string           `json:"subject"`
			GroupBy map[string]string `json:"groupBy"`
		} `json:"data"`
	}
	if err := client.getJSON(cmd.Context(), path, query, &answer); err != nil {
		return err
	}
	if len(answer.Data) == 0 {
		_, err := fmt.Fprintln(out, "no usage")
		return err
	}
	columns := []string{"FROM", "TO"}
	dimensions := slices.DeleteFunc(slices.Clone(f.groupBy), func(name string) bool { return name == "subject" })
	withSubject := answer.Data[0].Subject != nil
	if withSubject {
		columns = append(columns, "SUBJECT")
	}
	for _, name := range dimensions {
		columns = append(columns, strings.ToUpper(name))
	}
	t := newTable(out, append(columns, "VALUE")...)
	for _, row := range answer.Data {
		cells := []string{showTime(row.Start), showTime(row.End)}
		if withSubject && row.Subject != nil {
			cells = append(cells, *row.Subject)
		}
		for _, name := range dimensions {
			cells = append(cells, row.GroupBy[name])
		}
		t.row(append(cells, row.Value)...)
	}
	return t.flush()
}
