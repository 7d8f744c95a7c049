package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/meterd/meterd/meter"
)

// ErrBadQuery marks a query that can't be answered as asked; the message says what to change.
var ErrBadQuery = meter.ErrBadQuery

// subjectName is the name of the subject in GroupBy and Filter.
const subjectName = "subject"

// QueryMeter computes a meter's usage over [q.From, q.To) from the events that count and calls yield for each row,
// ordered by window, subject, group. The first and last window are cut at From and To. Windows without events have no
// row. The error wraps [ErrBadQuery] if the query names unknown dimensions or sizes, [ErrNotBackfilled] if events from
// before the meter's declaration have no values yet.
func (s *Store) QueryMeter(ctx context.Context, q meter.Query, yield func(meter.QueryRow) error) error {
	if err := s.queryMeter(ctx, q, yield); err != nil {
		return fmt.Errorf("query meter %s: %w", q.Meter.Slug, err)
	}
	return nil
}

func (s *Store) queryMeter(ctx context.Context, q meter.Query, yield func(meter.QueryRow) error) error {
	p, err := planQuery(q)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadQuery, err)
	}
	sc := windowScope(meter.Window{Start: q.From, End: q.To})
	sc.subjects = p.subjects
	if p.nobody {
		return nil
	}
	cov, e, err := s.examine(ctx, sc, []meter.Meter{q.Meter})
	if err != nil {
		return err
	}
	if len(cov.pending) > 0 {
		return cov.notBackfilled([]meter.Meter{q.Meter})
	}
	if cov.events == 0 {
		return nil
	}
	return s.each(ctx, p.query(e, cov), func(rows driver.Rows) error {
		row, err := p.scan(rows)
		if err != nil {
			return err
		}
		return yield(row)
	})
}

// queryPlan is a checked query.
type queryPlan struct {
	meter.Query
	zone       *time.Location
	window     string   // SQL of the window's number, from the column time
	dimensions []string // names to group by, without the subject
	bySubject  bool
	subjects   []string
	nobody     bool    // the filters exclude everybody
	filters    clauses // on dimensions
}

func planQuery(q meter.Query) (*queryPlan, error) {
	p := &queryPlan{Query: q, zone: q.Zone}
	if p.zone == nil {
		p.zone = time.UTC
	}
	var errs []error
	switch {
	case !q.From.Before(q.To):
		errs = append(errs, fmt.Errorf("from %s must be before to %s", q.From.Format(time.RFC3339), q.To.Format(time.RFC3339)))
	case q.From.Unix() < 0 || q.To.Unix() > 1<<32-1:
		errs = append(errs, errTime)
	default:
		var err error
		if p.window, err = windowSQL(q.WindowSize, p.zone, q.From, q.To); err != nil {
			errs = append(errs, err)
		}
	}
	for _, name := range q.GroupBy {
		switch {
		case name == subjectName:
			p.bySubject = true
		case dimensionIndex(q.Meter, name) < 0:
			errs = append(errs, unknownDimension(q.Meter, name))
		case !slices.Contains(p.dimensions, name):
			p.dimensions = append(p.dimensions, name)
		}
	}
	slices.Sort(p.dimensions)
	p.subjects = slices.Clone(q.Subjects)
	errs = append(errs, p.addFilters()...)
	return p, errors.Join(errs...)
}

func (p *queryPlan) addFilters() (errs []error) {
	names := make([]string, 0, len(p.Filter))
	for name := range p.Filter {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		wanted := p.Filter[name]
		if name == subjectName {
			if len(p.subjects) > 0 {
				wanted = slices.DeleteFunc(slices.Clone(wanted), func(subject string) bool { return !slices.Contains(p.Subjects, subject) })
			}
			p.subjects = wanted
			p.nobody = p.nobody || len(wanted) == 0
			continue
		}
		i := dimensionIndex(p.Meter, name)
		if i < 0 {
			errs = append(errs, unknownDimension(p.Meter, name))
			continue
		}
		if len(wanted) == 0 {
			p.nobody = true
			continue
		}
		p.filters.add(fmt.Sprintf("dims[%d] IN (%s)", i+1, quoteList(wanted)))
	}
	return errs
}

func dimensionIndex(m meter.Meter, name string) int {
	return slices.IndexFunc(m.GroupBy, func(d meter.Dimension) bool { return d.Name == name })
}

func unknownDimension(m meter.Meter, name string) error {
	names := []string{subjectName}
	for _, d := range m.GroupBy {
		names = append(names, d.Name)
	}
	return fmt.Errorf("meter %s has no dimension %q; it has: %s", m.Slug, name, strings.Join(names, ", "))
}

// windowSQL is the number of the window that an event's time lies in. Days and months of a zone are computed from the
// offsets that Go knows: servers have time zone tables of very different age.
func windowSQL(size meter.WindowSize, zone *time.Location, from, to time.Time) (string, error) {
	switch size {
	case "":
		return "toInt64(0)", nil
	case meter.WindowMinute:
		return "intDiv(time, 60000000000)", nil
	case meter.WindowHour:
		return "intDiv(time, 3600000000000)", nil
	case meter.WindowDay:
		return localDay(zone, from, to), nil
	case meter.WindowMonth:
		// toYYYYMM of a Date depends on no zone.
		return "toInt64(toYYYYMM(toDate(toUInt16(" + localDay(zone, from, to) + "))))", nil
	}
	return "", fmt.Errorf("window size %q is unknown; use MINUTE, HOUR, DAY, MONTH or none", size)
}

// localDay is the number of the local day since 1970-01-01.
func localDay(zone *time.Location, from, to time.Time) string {
	var branches []string
	for at := from.In(zone); ; {
		_, offset := at.Zone()
		_, end := at.ZoneBounds()
		day := fmt.Sprintf("intDiv(intDiv(time, 1000000000) + (%d), 86400)", offset)
		if end.IsZero() || !end.Before(to) {
			branches = append(branches, day)
			break
		}
		branches = append(branches, fmt.Sprintf("time < %d", end.UnixNano()), day)
		at = end.In(zone)
	}
	if len(branches) == 1 {
		return branches[0]
	}
	return "multiIf(" + strings.Join(branches, ", ") + ")"
}

// windowOf is the window of a number, cut at From and To.
func (p *queryPlan) windowOf(n int64) meter.Window {
	var w meter.Window
	switch p.WindowSize {
	case meter.WindowMinute:
		w.Start = time.Unix(n*60, 0)
		w.End = w.Start.Add(time.Minute)
	case meter.WindowHour:
		w.Start = time.Unix(n*3600, 0)
		w.End = w.Start.Add(time.Hour)
	case meter.WindowDay:
		year, month, day := time.Unix(n*86400, 0).UTC().Date()
		w.Start = time.Date(year, month, day, 0, 0, 0, 0, p.zone)
		w.End = time.Date(year, month, day+1, 0, 0, 0, 0, p.zone)
	case meter.WindowMonth:
		w.Start = time.Date(int(n/100), time.Month(n%100), 1, 0, 0, 0, 0, p.zone)
		w.End = time.Date(int(n/100), time.Month(n%100)+1, 1, 0, 0, 0, 0, p.zone)
	default:
		w = meter.Window{Start: p.From, End: p.To}
	}
	if w.Start.Before(p.From) {
		w.Start = p.From
	}
	if w.End.After(p.To) {
		w.End = p.To
	}
	return meter.Window{Start: w.Start.UTC(), End: w.End.UTC()}
}

func (p *queryPlan) query(e exceptions, cov coverage) string {
	fingerprint := sqlUint(p.Meter.Fingerprint())
	at := "indexOf(meters, " + fingerprint + ")"
	tail := "time, version, content"
	source := "SELECT subject, quantities[" + at + "] AS quantity, texts[" + at + "] AS text, dimensions[" + at + "] AS dims, " + tail +
		" FROM usage_events FINAL WHERE " + e.where().String() + " AND has(meters, " + fingerprint + ")"
	if len(cov.runs) > 0 {
		source += " UNION ALL " + cov.backfilled("subject, quantity, text, dimensions AS dims, "+tail, e.where())
	}
	where := append(clauses{fmt.Sprintf("time >= %d", p.From.UnixNano()), fmt.Sprintf("time < %d", p.To.UnixNano())}, p.filters...)
	groups := []string{p.window + " AS window_number"}
	keys := []string{"window_number"}
	if p.bySubject {
		groups, keys = append(groups, "subject"), append(keys, "subject")
	}
	for i, name := range p.dimensions {
		key := fmt.Sprintf("dimension_%d", i)
		groups = append(groups, fmt.Sprintf("dims[%d] AS %s", dimensionIndex(p.Meter, name)+1, key))
		keys = append(keys, key)
	}
	a := newAggregation([]meter.Meter{p.Meter}, nil)
	list := strings.Join(keys, ", ")
	return "SELECT " + strings.Join(append(groups, a.columns()...), ", ") + " FROM (" + source + ") WHERE " + where.String() +
		" GROUP BY " + list + " ORDER BY " + list
}

func (p *queryPlan) scan(rows driver.Rows) (meter.QueryRow, error) {
	var row meter.QueryRow
	var number int64
	var g aggregates
	into := []any{&number}
	if p.bySubject {
		into = append(into, &row.Subject)
	}
	values := make([]string, len(p.dimensions))
	for i := range values {
		into = append(into, &values[i])
	}
	if err := rows.Scan(append(into, g.into()...)...); err != nil {
		return row, err
	}
	row.Window, row.Events = p.windowOf(number), g.count
	if len(values) > 0 {
		row.Group = make(map[string]string, len(values))
		for i, name := range p.dimensions {
			row.Group[name] = values[i]
		}
	}
	var err error
	row.Value, err = g.of(p.Meter.Aggregation)
	return row, err
}
