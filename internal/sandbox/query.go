package sandbox

import (
	"encoding/csv"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// Paging of the record list.
const (
	defaultPage = 100
	maxPage     = 10_000
)

// filter selects records.
type filter struct {
	state    State
	instance string
	from, to time.Time // begin_time in [from, to)
	after    int64     // Seq above this
	limit    int
}

// parseFilter reads a query string; every unknown or malformed parameter is an error.
func parseFilter(q url.Values, known ...string) (filter, error) {
	f := filter{limit: defaultPage}
	for name, values := range q {
		if !slices.Contains(known, name) {
			return f, fmt.Errorf("unknown parameter %s; known are %v", quoteClip(name), known)
		}
		if len(values) != 1 {
			return f, fmt.Errorf("parameter %s is given %d times", name, len(values))
		}
		if values[0] == "" {
			continue // An empty form field.
		}
		if err := f.set(name, values[0]); err != nil {
			return f, fmt.Errorf("parameter %s: %w", name, err)
		}
	}
	return f, nil
}

func (f *filter) set(name, value string) (err error) {
	switch name {
	case "state":
		f.state = State(value)
		if !slices.Contains([]State{StateReceived, StateValid, StateAbnormal, StateCollected}, f.state) {
			return fmt.Errorf("must be received, valid, abnormal or collected (got %s)", quoteClip(value))
		}
	case "instance":
		f.instance = value
	case "from":
		f.from, err = parseFilterTime(value)
	case "to":
		f.to, err = parseFilterTime(value)
	case "after":
		f.after, err = strconv.ParseInt(value, 10, 64)
		if err != nil || f.after < 0 {
			return fmt.Errorf("must be a record number (got %s)", quoteClip(value))
		}
	case "limit":
		f.limit, err = strconv.Atoi(value)
		if err != nil || f.limit < 1 || f.limit > maxPage {
			return fmt.Errorf("must be 1 to %d (got %s)", maxPage, quoteClip(value))
		}
	}
	return err
}

// parseFilterTime reads a time as RFC 3339 or in the wire's form.
func parseFilterTime(text string) (time.Time, error) {
	if at, ok := parseTime(text); ok {
		return at, nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return at, fmt.Errorf("must be a time like 2022-08-09T08:00:00Z or 20220809T080000Z (got %s)", quoteClip(text))
	}
	return at, nil
}

// matches reports whether a record is selected, paging aside.
func (f *filter) matches(r *Record) bool {
	if (f.state != "" && r.State != f.state) || (f.instance != "" && r.InstanceID != f.instance) {
		return false
	}
	if f.from.IsZero() && f.to.IsZero() {
		return true
	}
	begin, ok := parseTime(r.BeginTime)
	return ok && (f.from.IsZero() || !begin.Before(f.from)) && (f.to.IsZero() || begin.Before(f.to))
}

// query copies the selected records of one page, the number of all that match, and the record number after which the
// next page starts, 0 if this is the last. limit 0 means no paging.
func (s *Sandbox) query(f filter) (page []Record, total int, next int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	page = []Record{}
	more := false
	for _, r := range s.records {
		if !f.matches(r) {
			continue
		}
		total++
		switch {
		case r.Seq <= f.after:
		case f.limit > 0 && len(page) == f.limit:
			more = true
		default:
			page = append(page, *r)
		}
	}
	if more {
		next = page[len(page)-1].Seq
	}
	return page, total, next
}

// latest copies the last selected records, the latest first.
func (s *Sandbox) latest(f filter) (page []Record, total int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range slices.Backward(s.records) {
		if !f.matches(r) {
			continue
		}
		total++
		if len(page) < f.limit {
			page = append(page, *r)
		}
	}
	return page, total
}

// csvHeader is stable: columns are only ever added at the end.
func csvHeader() []string {
	return []string{
		"metering_sn", "instance_id", "product_id", "begin_time", "end_time", "record_time", "usage_value",
		"relate_pkg_instance", "received_at", "state", "code", "collected_at", "api", "signature_form",
	}
}

// writeCSV writes records with the stable header. Texts are exactly as they were sent.
func writeCSV(w io.Writer, records []Record) error {
	out := csv.NewWriter(w)
	if err := out.Write(csvHeader()); err != nil {
		return fmt.Errorf("write CSV: %w", err)
	}
	for i := range records {
		r := &records[i]
		err := out.Write([]string{
			r.MeteringSN, r.InstanceID, r.ProductID, r.BeginTime, r.EndTime, r.RecordTime, r.UsageValue,
			r.RelatePkgInstance, timeText(r.ReceivedAt), string(r.State), r.Code, timeText(r.CollectedAt),
			string(r.API), string(r.SignatureForm),
		})
		if err != nil {
			return fmt.Errorf("write CSV: %w", err)
		}
	}
	out.Flush()
	if err := out.Error(); err != nil {
		return fmt.Errorf("write CSV: %w", err)
	}
	return nil
}

// timeText prints a time in UTC, empty for none.
func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
