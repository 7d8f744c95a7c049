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

	"github.com/meterd/meterd/meter"
)

// explanation is the API's answer about everything that led to a record.
type explanation struct {
	Record  billRecord  `json:"record"`
	Formula string      `json:"formula"`
	Booking booking     `json:"booking"`
	Before  *billRecord `json:"before"`
	Usage   []struct {
		HourStart time.Time `json:"hour_start"`
		HourEnd   time.Time `json:"hour_end"`
		Then      counted   `json:"then"`
		Latest    counted   `json:"latest"`
	} `json:"usage"`
	Adjustments []adjustment `json:"adjustments"`
	Carried     []struct {
		HourStart  time.Time `json:"hour_start"`
		HourEnd    time.Time `json:"hour_end"`
		Version    uint64    `json:"version"`
		Quantity   string    `json:"quantity"`
		Adjustment string    `json:"adjustment"`
		Reason     string    `json:"reason"`
	} `json:"carried"`
	Unexplained meter.Quantity `json:"unexplained"`
	Replaces    *billRecord    `json:"replaces"`
	ReplacedBy  *billRecord    `json:"replaced_by"`
	Transitions []billMovement `json:"transitions"`
}

// counted is an hour's usage as one booking counted it.
type counted struct {
	Quantity string `json:"quantity"`
	Events   uint64 `json:"events"`
	Version  uint64 `json:"version"`
}

func newExplainCommand() *cobra.Command {
	var f clientFlags
	var events bool
	cmd := &cobra.Command{
		Use:   "explain SN",
		Short: "Say where every amount in a bill record comes from, and where it went",
		Long: `Say where every amount in a bill record of a running daemon comes from, and where it went: the usage of each hour with the
version that counted it, what was carried in and out, late usage and credits, and every attempt with its code, the time that
the answer took, and the SHA-256 of the request. With --events also each event behind it.` + clientHelp,
		Args: exactArgs("SN"),
	}
	f.register(cmd, listTimeout, outputText, outputJSON)
	cmd.Flags().BoolVar(&events, "events", false, "list the events behind each hour, those that don't count included")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if args[0] == "" {
			return &usageError{errors.New("SN: the number of the record is empty")}
		}
		client, err := f.client(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		return runExplain(cmd, client, args[0], events, f.output == outputJSON)
	}
	return cmd
}

func runExplain(cmd *cobra.Command, client *apiClient, sn string, events, asJSON bool) error {
	path := recordsPath + "/" + url.PathEscape(sn) + "/explain"
	var raw json.RawMessage
	if err := client.getJSON(cmd.Context(), path, nil, &raw); err != nil {
		return err
	}
	var e explanation
	if err := json.Unmarshal(raw, &e); err != nil {
		return fmt.Errorf("the answer can't be read: %w", err)
	}
	out := cmd.OutOrStdout()
	if asJSON {
		return explainJSON(cmd, client, path, e, raw, events)
	}
	if err := writeExplanation(out, e); err != nil || !events {
		return err
	}
	for _, u := range e.Usage {
		fmt.Fprintf(out, "\nevents of %s\n", showWindow(u.HourStart, u.HourEnd))
		t := newTable(out, "TIME", "RECEIVED", "VALUE", "COUNTS", "COPIES", "SOURCE", "ID", "WHY")
		err := client.eachEvents(cmd, path, u.HourStart, func(list []json.RawMessage) error { return eventRows(t, list) })
		if err != nil {
			return errors.Join(t.flush(), err)
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	return nil
}

// explainJSON writes the answer, with the events of each hour if they are wanted.
func explainJSON(cmd *cobra.Command, client *apiClient, path string, e explanation, raw json.RawMessage, events bool) error {
	if !events {
		return writeJSONValue(cmd.OutOrStdout(), raw)
	}
	type hourEvents struct {
		HourStart time.Time         `json:"hour_start"`
		Events    []json.RawMessage `json:"events"`
	}
	hours := []hourEvents{}
	for _, u := range e.Usage {
		h := hourEvents{u.HourStart, []json.RawMessage{}}
		if err := client.eachEvents(cmd, path, u.HourStart, func(list []json.RawMessage) error { h.Events = append(h.Events, list...); return nil }); err != nil {
			return err
		}
		hours = append(hours, h)
	}
	return writeJSONValue(cmd.OutOrStdout(), struct {
		Explanation json.RawMessage `json:"explanation"`
		Events      []hourEvents    `json:"events"`
	}{raw, hours})
}

// eachEvents reads the events behind an hour page by page.
func (c *apiClient) eachEvents(cmd *cobra.Command, path string, hour time.Time, yield func([]json.RawMessage) error) error {
	query := url.Values{"hour": {hour.UTC().Format(time.RFC3339)}, "limit": {"1000"}}
	for {
		var page struct {
			Events []json.RawMessage `json:"events"`
			Next   string            `json:"next"`
		}
		if err := c.getJSON(cmd.Context(), path+"/events", query, &page); err != nil {
			return err
		}
		if err := yield(page.Events); err != nil {
			return err
		}
		if page.Next == "" {
			return nil
		}
		if page.Next == query.Get("after") {
			return fmt.Errorf("the daemon's pages don't go on: after %s comes the same again", printable(page.Next))
		}
		query.Set("after", page.Next)
	}
}

// eventRows adds events to a table.
func eventRows(t *table, list []json.RawMessage) error {
	for _, text := range list {
		var e meter.UsageEvent
		if err := json.Unmarshal(text, &e); err != nil {
			return fmt.Errorf("the answer can't be read: %w", err)
		}
		value, counts, why := "none", "yes", e.Why
		if e.HasValue {
			value = e.Quantity.String()
			if e.Text != "" {
				value = e.Text
			}
		}
		if !e.Counts {
			counts = "no"
		}
		if e.Actor != "" {
			why += " by " + e.Actor + ": " + e.Reason
		}
		if e.Stamped {
			why += " (came without a time)"
		}
		t.row(showTime(e.Time), showTime(e.Received), value, counts, strconv.FormatUint(e.Copies, 10), e.Source, e.ID, why)
	}
	return nil
}

// writeExplanation writes it for people.
func writeExplanation(w io.Writer, e explanation) error {
	r := e.Record
	fmt.Fprintf(w, "bill record %s\n", printable(r.SN))
	t := newTable(w)
	for _, field := range []struct{ name, value string }{
		{"instance", r.InstanceID},
		{"subject", r.Subject},
		{"meter", r.Meter},
		{"hour", showWindow(r.WindowStart, r.WindowEnd)},
		{"state", r.State},
		{"booked by", e.Booking.summary() + " at " + showTime(e.Booking.At)},
		{"arithmetic", e.Formula},
	} {
		t.row("  "+field.name, field.value)
	}
	if e.Replaces != nil {
		t.row("  replaces", e.Replaces.SN+" ("+e.Replaces.Code+" "+e.Replaces.Message+")")
	}
	if e.ReplacedBy != nil {
		t.row("  replaced by", e.ReplacedBy.SN+" ("+e.ReplacedBy.State+")")
	}
	if err := t.flush(); err != nil {
		return err
	}
	if err := writeExplainedUsage(w, e); err != nil {
		return err
	}
	if err := writeCarried(w, e); err != nil {
		return err
	}
	if len(e.Adjustments) > 0 {
		fmt.Fprintln(w, "\nadjustments since the record before")
		t := newTable(w, "BOOKING", "HOUR", "QUANTITY", "INTO", "RECORD", "BY", "ID", "WHY")
		for _, a := range e.Adjustments {
			t.row(strconv.FormatUint(a.Booking, 10), showWindow(a.HourStart, a.HourEnd), a.Quantity, a.Into, a.Record, a.Actor, a.ID, a.Reason)
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	fmt.Fprintln(w, "\nlife")
	return writeLife(w, e.Transitions)
}

func writeExplainedUsage(w io.Writer, e explanation) error {
	fmt.Fprintln(w, "\nusage")
	t := newTable(w, "HOUR", "QUANTITY", "EVENTS", "VERSION", "NOW")
	for _, u := range e.Usage {
		now := "the same"
		if u.Latest.Version != u.Then.Version {
			now = fmt.Sprintf("%s, %s (version %d)", u.Latest.Quantity, plural(u.Latest.Events, "event", "events"), u.Latest.Version)
		}
		t.row(showWindow(u.HourStart, u.HourEnd), u.Then.Quantity, strconv.FormatUint(u.Then.Events, 10), strconv.FormatUint(u.Then.Version, 10), now)
	}
	return t.flush()
}

// writeCarried says what the carried amount consists of.
func writeCarried(w io.Writer, e explanation) error {
	fmt.Fprintf(w, "\ncarried in: %s\n", printable(e.Record.CarriedIn))
	t := newTable(w)
	if e.Before != nil {
		t.row("  "+e.Before.CarriedOut, "carried out of the record before, "+e.Before.SN+", "+showWindow(e.Before.WindowStart, e.Before.WindowEnd))
	}
	for _, c := range e.Carried {
		why := "usage of the hour, booked without a record"
		if c.Adjustment != "" {
			why = "adjustment " + c.Adjustment + ": " + c.Reason
		}
		t.row("  "+c.Quantity, showWindow(c.HourStart, c.HourEnd)+", "+why)
	}
	if !e.Unexplained.IsZero() {
		t.row("  "+e.Unexplained.String(), "UNEXPLAINED: something is wrong, run meterd verify")
	}
	return t.flush()
}
