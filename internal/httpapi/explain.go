package httpapi

import (
	"net/http"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

var errNoExplain = notAvailable("this daemon's books can't explain records")

// explanationView is everything that led to a record, in the API.
type explanationView struct {
	Record      recordView       `json:"record"`
	Formula     string           `json:"formula"`
	Booking     bookingView      `json:"booking"`
	Before      *recordView      `json:"before"`
	Usage       []explainedUsage `json:"usage"`
	Adjustments []adjustmentView `json:"adjustments"`
	Carried     []carriedView    `json:"carried"`
	Unexplained meter.Quantity   `json:"unexplained"`
	Replaces    *recordView      `json:"replaces"`
	ReplacedBy  *recordView      `json:"replaced_by"`
	Transitions []transitionView `json:"transitions"`
}

// explainedUsage is the usage of one hour behind a record.
type explainedUsage struct {
	HourStart time.Time   `json:"hour_start"`
	HourEnd   time.Time   `json:"hour_end"`
	Then      countedView `json:"then"`
	Latest    countedView `json:"latest"`
}

// countedView is an hour's usage as one booking counted it.
type countedView struct {
	Quantity meter.Quantity `json:"quantity"`
	Events   uint64         `json:"events"`
	Version  uint64         `json:"version"`
}

// carriedView is an amount that went into the balance between two records, or out of it.
type carriedView struct {
	HourStart  time.Time             `json:"hour_start"`
	HourEnd    time.Time             `json:"hour_end"`
	Version    uint64                `json:"version"`
	Quantity   meter.Quantity        `json:"quantity"`
	Adjustment reporter.AdjustmentID `json:"adjustment,omitempty"`
	Reason     string                `json:"reason,omitempty"`
}

func viewOptionalRecord(r *reporter.BillRecord) *recordView {
	if r == nil {
		return nil
	}
	v := viewRecord(r)
	return &v
}

func viewExplanation(e *reporter.Explanation) explanationView {
	v := explanationView{
		Record: viewRecord(&e.Record), Formula: e.Record.Formula(), Booking: viewBooking(&e.Booking), Before: viewOptionalRecord(e.Before),
		Usage: make([]explainedUsage, 0, len(e.Usage)), Adjustments: make([]adjustmentView, 0, len(e.Adjustments)),
		Carried: make([]carriedView, 0, len(e.Carried)), Unexplained: e.Unexplained,
		Replaces: viewOptionalRecord(e.Replaces), ReplacedBy: viewOptionalRecord(e.ReplacedBy), Transitions: viewTransitions(e.Transitions),
	}
	for i := range e.Usage {
		u := &e.Usage[i]
		v.Usage = append(v.Usage, explainedUsage{
			HourStart: u.Hour.Start.UTC(), HourEnd: u.Hour.End.UTC(), Then: viewCounted(&u.Then), Latest: viewCounted(&u.Latest),
		})
	}
	for i := range e.Adjustments {
		v.Adjustments = append(v.Adjustments, viewAdjustment(&e.Adjustments[i]))
	}
	for i := range e.Carried {
		c := &e.Carried[i]
		line := carriedView{HourStart: c.Hour.Start.UTC(), HourEnd: c.Hour.End.UTC(), Version: c.Version, Quantity: c.Quantity}
		if c.Adjustment != nil {
			line.Adjustment, line.Reason = c.Adjustment.ID, c.Adjustment.Reason
		}
		v.Carried = append(v.Carried, line)
	}
	return v
}

func viewCounted(u *reporter.HourlyUsage) countedView {
	return countedView{u.Quantity, u.Events, u.Version}
}

// explainRecord answers with everything that led to a record but the events, which may be many.
func (a *API) explainRecord(w *response, r *http.Request) error {
	if a.o.Doors.Explain == nil {
		return errNoExplain
	}
	if err := readParams(r.URL).err(); err != nil {
		return err
	}
	sn, err := snOf(r)
	if err != nil {
		return err
	}
	e, err := a.o.Doors.Explain(r.Context(), sn)
	if err != nil {
		return actError(err)
	}
	return writeJSON(w, viewExplanation(&e))
}

// explainEvents answers with a page of the stored events behind one hour of a record's usage, those that don't count included.
func (a *API) explainEvents(w *response, r *http.Request) error {
	if a.o.Doors.Events == nil {
		return errNoExplain
	}
	p := readParams(r.URL)
	hour, after := p.time("hour"), p.one("after")
	limit := p.limit(defaultPage, maxPage)
	if !hour.Equal(hour.Truncate(time.Hour)) {
		p.fault("hour: must be the beginning of an hour (got " + hour.Format(time.RFC3339) + ")")
	}
	if err := p.err(); err != nil {
		return err
	}
	sn, err := snOf(r)
	if err != nil {
		return err
	}
	records, err := a.o.Records.Records(r.Context(), reporter.RecordFilter{SN: sn, Limit: 1})
	if err != nil {
		return storeError(err)
	}
	if len(records) == 0 {
		return notFound("there is no bill record %s", quoteShort(string(sn)))
	}
	record := &records[0]
	m, configured := a.o.Catalog.Meter(record.Meter)
	if !configured {
		return notFound("the meter %s is not configured any more, so its events can't be listed", quoteShort(record.Meter))
	}
	window := meter.HourOf(record.Window.Start)
	if !hour.IsZero() {
		window = meter.HourOf(hour)
	}
	list, next, err := a.o.Doors.Events.UsageEvents(r.Context(), window, record.Subject, m, after, limit)
	if err != nil {
		return actError(err)
	}
	if list == nil {
		list = []meter.UsageEvent{}
	}
	if next != "" {
		link(w, r, "after", next)
	}
	return writeJSON(w, struct {
		HourStart time.Time          `json:"hour_start"`
		HourEnd   time.Time          `json:"hour_end"`
		Subject   string             `json:"subject"`
		Meter     string             `json:"meter"`
		Events    []meter.UsageEvent `json:"events"`
		Next      string             `json:"next,omitempty"`
	}{window.Start, window.End, record.Subject, record.Meter, list, next})
}

// snOf is the record's number that the path names; what can't be one isn't asked for.
func snOf(r *http.Request) (reporter.MeteringSN, error) {
	sn := r.PathValue("sn")
	if !isHexID(sn) {
		return "", notFound("there is no bill record %s; a number has 32 lower-case hexadecimal digits", quoteShort(sn))
	}
	return reporter.MeteringSN(sn), nil
}
