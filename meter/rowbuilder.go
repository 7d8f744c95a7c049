package meter

import (
	"slices"
	"sort"
	"time"
)

// maxTraces bounds the trace contexts that one batch is linked to.
const maxTraces = 64

// rowBuilder turns payloads into the rows of one insert. Rows are views into the payloads.
type rowBuilder struct {
	built        bool
	rows         EventRows
	traceparents []string
	bad          []badPayload

	extractor *Extractor
	closed    func(hour time.Time) bool
	digest    digester
	payload   Payload
	hour      int64 // of the last call of closed
	hourLate  bool

	late, noValue, refused int
	problem                *Problem // the first value that could not be read
}

type badPayload struct {
	payload []byte
	err     error
}

// begin empties the builder for a batch of so many events.
func (w *rowBuilder) begin(c *Catalog, closed func(time.Time) bool, events int) {
	if w.extractor == nil {
		w.extractor = c.NewExtractor()
	}
	w.rows.reset(events)
	w.traceparents, w.bad = w.traceparents[:0], w.bad[:0]
	w.closed, w.hour, w.hourLate = closed, -1, false
	w.late, w.noValue, w.refused, w.problem = 0, 0, 0, nil
}

// add appends the events of one payload. What was decoded before an error is kept.
func (w *rowBuilder) add(payload []byte) error {
	err := DecodePayload(payload, &w.payload)
	if t := w.payload.Traceparent; t != "" && len(w.traceparents) < maxTraces && !slices.Contains(w.traceparents, t) {
		w.traceparents = append(w.traceparents, t)
	}
	for i := range w.payload.Events {
		w.event(&w.payload.Events[i], w.payload.Received+int64(i))
	}
	return err
}

func (w *rowBuilder) event(ev *Event, received int64) {
	row := w.rows.Len()
	r := &w.rows
	r.Subject = append(r.Subject, ev.Subject)
	r.Source = append(r.Source, ev.Source)
	r.ID = append(r.ID, ev.ID)
	r.Type = append(r.Type, ev.Type)
	r.Key = append(r.Key, w.digest.key(ev))
	r.Content = append(r.Content, w.digest.content(ev))
	r.Time = append(r.Time, ev.Time)
	r.Received = append(r.Received, received)
	r.Stamped = append(r.Stamped, ev.Stamped)
	r.Data = append(r.Data, ev.Data)
	r.Extensions = append(r.Extensions, ev.Extensions)
	if w.isLate(ev.Time) {
		w.late++
	}
	missing, p := w.extractor.Values(r, row, ev)
	w.noValue += missing
	if w.problem == nil {
		w.problem = p
	}
}

// isLate reports whether the event's hour is closed already.
func (w *rowBuilder) isLate(at int64) bool {
	if w.closed == nil {
		return false
	}
	if hour := at / int64(time.Hour); hour != w.hour {
		w.hour = hour
		w.hourLate = w.closed(time.Unix(0, hour*int64(time.Hour)).UTC())
	}
	return w.hourLate
}

// loadOutcome counts what happened to a batch.
type loadOutcome struct{ events, refused, late, noValue, payloads int }

func (w *rowBuilder) outcome() loadOutcome {
	return loadOutcome{
		events: w.rows.Len() - w.refused, refused: w.refused, late: w.late, noValue: w.noValue, payloads: len(w.bad),
	}
}

// count adds what happened to a batch that is confirmed.
func (o *loadOutcome) count(p *LoaderProgress) {
	p.Batches++
	p.Events += uint64(o.events)     //nolint:gosec // counts are never negative
	p.Refused += uint64(o.refused)   //nolint:gosec // as above
	p.Late += uint64(o.late)         //nolint:gosec // as above
	p.NoValue += uint64(o.noValue)   //nolint:gosec // as above
	p.Payloads += uint64(o.payloads) //nolint:gosec // as above
}

// reset empties the rows, keeps their memory, and makes room for n.
func (r *EventRows) reset(n int) {
	for _, column := range []*[][]byte{&r.Subject, &r.Source, &r.ID, &r.Type, &r.Data, &r.Extensions} {
		*column = slices.Grow((*column)[:0], n)
	}
	r.Key, r.Content = slices.Grow(r.Key[:0], n), slices.Grow(r.Content[:0], n)
	r.Time, r.Received, r.Stamped = slices.Grow(r.Time[:0], n), slices.Grow(r.Received[:0], n), slices.Grow(r.Stamped[:0], n)
	r.Values = slices.Grow(r.Values[:0], n)
}

// slice returns rows from to to as a batch of its own, which shares the columns.
func (r *EventRows) slice(from, to int) EventRows {
	out := EventRows{
		Subject: r.Subject[from:to], Source: r.Source[from:to], ID: r.ID[from:to], Type: r.Type[from:to],
		Key: r.Key[from:to], Content: r.Content[from:to], Time: r.Time[from:to], Received: r.Received[from:to],
		Stamped: r.Stamped[from:to], Data: r.Data[from:to], Extensions: r.Extensions[from:to],
	}
	first := sort.Search(len(r.Values), func(i int) bool { return r.Values[i].Row >= from })
	end := sort.Search(len(r.Values), func(i int) bool { return r.Values[i].Row >= to })
	out.Values = slices.Clone(r.Values[first:end])
	for i := range out.Values {
		out.Values[i].Row -= from
	}
	return out
}

// event returns row i as an event.
func (r *EventRows) event(i int) Event {
	return Event{
		ID: r.ID[i], Source: r.Source[i], Type: r.Type[i], Subject: r.Subject[i], Time: r.Time[i], Stamped: r.Stamped[i],
		Data: r.Data[i], Extensions: r.Extensions[i],
	}
}
