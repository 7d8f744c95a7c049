package httpapi

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/meterd/meterd/meter"
)

// queryMeter answers a query in the shape of OpenMeter's API. Values are texts: no float touches a quantity.
func (a *API) queryMeter(w *response, r *http.Request) error {
	m, err := a.meterOf(r)
	if err != nil {
		return err
	}
	q, err := a.parseQuery(m, r)
	if err != nil {
		return err
	}
	media, err := negotiate(r.Header, mediaJSON, mediaCSV)
	if err != nil {
		return err
	}
	out := a.newOutput(w, media)
	defer out.release()
	var writeRow func(meter.QueryRow) error
	if media == mediaCSV {
		out.filename = m.Slug + ".csv"
		writeRow = queryCSV(out, q.GroupBy)
	} else {
		writeRow = queryJSON(out, q)
	}
	if err := a.o.Usage.QueryMeter(r.Context(), q, writeRow); err != nil {
		return out.fail(storeError(err))
	}
	if media == mediaJSON {
		out.buf = append(out.buf, "]}\n"...)
	}
	return out.finish()
}

// parseQuery reads OpenMeter's parameters. A subject filters and, as there, groups by subject.
func (a *API) parseQuery(m meter.Meter, r *http.Request) (meter.Query, error) {
	p := readParams(r.URL)
	p.used["clientId"] = true // OpenMeter's clients send it to follow a query's progress
	q := meter.Query{Meter: m, Subjects: p.many("subject", false)}
	q.From, q.To = p.period()
	if q.To.IsZero() {
		// The end of the running minute, so that what was just sent is in.
		q.To = a.o.Now().UTC().Truncate(time.Minute).Add(time.Minute)
	}
	if q.From.IsZero() {
		q.From = time.Unix(0, 0).UTC()
	}
	if !q.From.Before(q.To) && len(p.faults) == 0 {
		p.fault("from: must be before to, which is " + q.To.Format(time.RFC3339) + " by default")
	}
	q.WindowSize = windowSize(p)
	q.Zone = zone(p)
	q.GroupBy = groupBy(p, m)
	if len(q.Subjects) > 0 && !slices.Contains(q.GroupBy, "subject") {
		q.GroupBy = append([]string{"subject"}, q.GroupBy...)
	}
	readFilters(p, m, &q)
	return q, p.err()
}

func windowSize(p *params) meter.WindowSize {
	text := p.one("windowSize")
	switch size := meter.WindowSize(strings.ToUpper(text)); size {
	case "", meter.WindowMinute, meter.WindowHour, meter.WindowDay, meter.WindowMonth:
		return size
	}
	p.fault("windowSize: must be MINUTE, HOUR, DAY or MONTH (got " + quoteShort(text) + ")")
	return ""
}

func zone(p *params) *time.Location {
	name := p.one("windowTimeZone")
	if name == "" {
		return time.UTC
	}
	location, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		p.fault("windowTimeZone: must be a name of the IANA time zone database such as Asia/Shanghai (got " + quoteShort(name) + ")")
		return time.UTC
	}
	return location
}

func groupBy(p *params, m meter.Meter) []string {
	var list []string
	for _, name := range p.many("groupBy", true) {
		if name != "subject" && !hasDimension(m, name) {
			p.fault("groupBy: the meter has no dimension " + quoteShort(name) + "; it has " + dimensionNames(m))
			continue
		}
		if !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

// readFilters reads filterGroupBy[name]=value, which may be repeated for several values.
func readFilters(p *params, m meter.Meter, q *meter.Query) {
	for key := range p.values {
		name, ok := strings.CutPrefix(key, "filterGroupBy[")
		if !ok || !strings.HasSuffix(name, "]") {
			continue
		}
		name = strings.TrimSuffix(name, "]")
		values := p.many(key, false)
		switch {
		case name == "subject":
			p.fault("filterGroupBy[subject]: use subject=… instead")
		case !hasDimension(m, name):
			p.fault("filterGroupBy: the meter has no dimension " + quoteShort(name) + "; it has " + dimensionNames(m))
		default:
			if q.Filter == nil {
				q.Filter = map[string][]string{}
			}
			q.Filter[name] = values
		}
	}
	slices.Sort(p.faults)
}

func hasDimension(m meter.Meter, name string) bool {
	return slices.ContainsFunc(m.GroupBy, func(d meter.Dimension) bool { return d.Name == name })
}

func dimensionNames(m meter.Meter) string {
	names := []string{"subject"}
	for _, d := range m.GroupBy {
		names = append(names, d.Name)
	}
	return strings.Join(names, ", ")
}

// queryJSON writes {from,to,windowSize,data:[{value,windowStart,windowEnd,subject,groupBy}]} row by row.
func queryJSON(out *output, q meter.Query) func(meter.QueryRow) error {
	b := appendTime(append(out.buf, `{"from":`...), q.From)
	b = appendTime(append(b, `,"to":`...), q.To)
	if q.WindowSize != "" {
		b = appendString(append(b, `,"windowSize":`...), string(q.WindowSize))
	}
	out.buf = append(b, `,"data":[`...)
	bySubject := slices.Contains(q.GroupBy, "subject")
	first := true
	return func(row meter.QueryRow) error {
		b := out.buf
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendString(append(b, `{"value":`...), row.Value.String())
		b = appendTime(append(b, `,"windowStart":`...), row.Window.Start)
		b = appendTime(append(b, `,"windowEnd":`...), row.Window.End)
		b = append(b, `,"subject":`...)
		if bySubject {
			b = appendString(b, row.Subject)
		} else {
			b = append(b, "null"...)
		}
		b = append(b, `,"groupBy":{`...)
		written := false
		for _, name := range q.GroupBy {
			if name == "subject" {
				continue
			}
			if written {
				b = append(b, ',')
			}
			written = true
			b = appendString(append(appendString(b, name), ':'), row.Group[name])
		}
		out.buf = append(b, "}}"...)
		return out.flushIfLarge()
	}
}

// queryCSV writes window_start, window_end, subject, the dimensions in the order asked for, and value.
func queryCSV(out *output, groupBy []string) func(meter.QueryRow) error {
	names := slices.DeleteFunc(slices.Clone(groupBy), func(name string) bool { return name == "subject" })
	header := append([]string{"window_start", "window_end", "subject"}, names...)
	out.csvRow(append(header, "value")...)
	fields := make([]string, 0, len(header)+1)
	return func(row meter.QueryRow) error {
		fields = append(fields[:0], csvTime(row.Window.Start), csvTime(row.Window.End), csvText(row.Subject))
		for _, name := range names {
			fields = append(fields, csvText(row.Group[name]))
		}
		out.csvRow(append(fields, row.Value.String())...)
		return out.flushIfLarge()
	}
}
