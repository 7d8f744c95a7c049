package httpapi

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// bookingView is a booking in the API.
type bookingView struct {
	Number      uint64               `json:"number"`
	Version     uint64               `json:"version"`
	Kind        reporter.BookingKind `json:"kind"`
	WindowStart time.Time            `json:"window_start"`
	WindowEnd   time.Time            `json:"window_end"`
	At          time.Time            `json:"at"`
	Events      uint64               `json:"events"`
	Usages      uint64               `json:"usages"`
	Records     uint64               `json:"records"`
	Adjustments uint64               `json:"adjustments"`
	Balances    uint64               `json:"balances"`
	InstanceID  string               `json:"instance_id,omitempty"`
	Actor       string               `json:"actor,omitempty"`
	Reason      string               `json:"reason,omitempty"`
	SettledAt   *time.Time           `json:"settled_at"`
}

func viewBooking(b *reporter.Booking) bookingView {
	return bookingView{
		Number: b.Number, Version: b.Version, Kind: b.Kind, WindowStart: b.Window.Start.UTC(), WindowEnd: b.Window.End.UTC(), At: b.At.UTC(),
		Events: b.Events, Usages: b.Usages, Records: b.Records, Adjustments: b.Adjustments, Balances: b.Balances,
		InstanceID: b.InstanceID, Actor: b.Actor, Reason: b.Reason, SettledAt: optionalTime(b.SettledAt),
	}
}

// bookingAnswer is the answer to an act that made a booking.
type bookingAnswer struct {
	Booking bookingView `json:"booking"`
}

// bookingKinds are all kinds, in order.
var bookingKinds = []reporter.BookingKind{
	reporter.BookingClose, reporter.BookingRecount, reporter.BookingRelease, reporter.BookingFreeze, reporter.BookingDecision, reporter.BookingResend,
}

// defaultBookings is how far back bookings are listed when from isn't given.
const defaultBookings = 7 * 24 * time.Hour

// bookings reads from, to and the bookings whose window begins between them.
func (a *API) bookings(ctx context.Context, p *params) ([]reporter.Booking, error) {
	from, to := p.period()
	if err := p.err(); err != nil {
		return nil, err
	}
	if to.IsZero() {
		to = a.o.Now().UTC()
	}
	if from.IsZero() {
		from = to.Add(-defaultBookings)
	}
	list, err := a.o.Records.Bookings(ctx, from, to)
	if err != nil {
		return nil, storeError(err)
	}
	return list, nil
}

// listBookings answers with the bookings whose window begins in [from, to), by number.
func (a *API) listBookings(w *response, r *http.Request) error {
	p := readParams(r.URL)
	var kinds []reporter.BookingKind
	for _, name := range p.many("kind", true) {
		i := slices.IndexFunc(bookingKinds, func(k reporter.BookingKind) bool { return k.String() == name })
		if i < 0 {
			p.fault("kind: must be close, recount, release, freeze, decision or resend (got " + quoteShort(name) + ")")
			continue
		}
		kinds = append(kinds, bookingKinds[i])
	}
	list, err := a.bookings(r.Context(), p)
	if err != nil {
		return err
	}
	answer := struct {
		Bookings []bookingView `json:"bookings"`
	}{make([]bookingView, 0, len(list))}
	for i := range list {
		if len(kinds) == 0 || slices.Contains(kinds, list[i].Kind) {
			answer.Bookings = append(answer.Bookings, viewBooking(&list[i]))
		}
	}
	return writeJSON(w, answer)
}

// windowView is a closed window in the API.
type windowView struct {
	Start     time.Time  `json:"start"`
	End       time.Time  `json:"end"`
	Booking   uint64     `json:"booking"`
	Version   uint64     `json:"version"`
	ClosedAt  time.Time  `json:"closed_at"`
	Events    uint64     `json:"events"`
	Usages    uint64     `json:"usages"`
	Records   uint64     `json:"records"`
	SettledAt *time.Time `json:"settled_at"`
}

// listWindows answers with the closed hours that begin in [from, to), oldest first: the bookings of kind close.
func (a *API) listWindows(w *response, r *http.Request) error {
	list, err := a.bookings(r.Context(), readParams(r.URL))
	if err != nil {
		return err
	}
	answer := struct {
		Windows []windowView `json:"windows"`
	}{make([]windowView, 0, len(list))}
	for i := range list {
		b := &list[i]
		if b.Kind != reporter.BookingClose {
			continue
		}
		answer.Windows = append(answer.Windows, windowView{
			Start: b.Window.Start.UTC(), End: b.Window.End.UTC(), Booking: b.Number, Version: b.Version, ClosedAt: b.At.UTC(),
			Events: b.Events, Usages: b.Usages, Records: b.Records, SettledAt: optionalTime(b.SettledAt),
		})
	}
	slices.SortFunc(answer.Windows, func(a, b windowView) int { return a.Start.Compare(b.Start) })
	return writeJSON(w, answer)
}

// adjustmentView is an amount that didn't go the ordinary way, in the API.
type adjustmentView struct {
	ID         reporter.AdjustmentID `json:"id"`
	Booking    uint64                `json:"booking"`
	HourStart  time.Time             `json:"hour_start"`
	HourEnd    time.Time             `json:"hour_end"`
	Subject    string                `json:"subject"`
	Meter      string                `json:"meter"`
	InstanceID string                `json:"instance_id,omitempty"`
	Quantity   meter.Quantity        `json:"quantity"`
	Into       reporter.Destination  `json:"into"`
	Of         reporter.AdjustmentID `json:"of,omitempty"`
	Record     reporter.MeteringSN   `json:"record,omitempty"`
	Reason     string                `json:"reason,omitempty"`
	Actor      string                `json:"actor,omitempty"`
	At         time.Time             `json:"at"`
}

func viewAdjustment(d *reporter.Adjustment) adjustmentView {
	return adjustmentView{
		ID: d.ID, Booking: d.Booking, HourStart: d.Hour.Start.UTC(), HourEnd: d.Hour.End.UTC(), Subject: d.Subject, Meter: d.Meter,
		InstanceID: d.InstanceID, Quantity: d.Quantity, Into: d.Into, Of: d.Of, Record: d.Record, Reason: d.Reason, Actor: d.Actor, At: d.At.UTC(),
	}
}

// adjustmentColumns are the columns of the CSV. They are stable: add at the end only.
var adjustmentColumns = []string{
	"id", "booking", "hour_start", "hour_end", "subject", "meter", "instance_id", "quantity", "into", "of", "record", "reason", "actor", "at",
}

func (v adjustmentView) csv() []string {
	return []string{
		string(v.ID), strconv.FormatUint(v.Booking, 10), csvTime(v.HourStart), csvTime(v.HourEnd), csvText(v.Subject), v.Meter, csvText(v.InstanceID),
		v.Quantity.String(), v.Into.String(), string(v.Of), string(v.Record), csvText(v.Reason), csvText(v.Actor), csvTime(v.At),
	}
}

// destinations are all places that adjustments go to, in order.
var destinations = []reporter.Destination{
	reporter.IntoBalance, reporter.IntoHeld, reporter.IntoWrittenOff, reporter.IntoUnbillable, reporter.IntoRecord,
}

// adjustmentFilter reads the parameters of a listing of adjustments.
func adjustmentFilter(p *params) reporter.AdjustmentFilter {
	f := reporter.AdjustmentFilter{
		Subject: p.one("subject"), Meter: p.one("meter"), Limit: p.limit(1000, maxPage),
		FromBooking: p.booking("from_booking"), ToBooking: p.booking("to_booking"),
	}
	f.Hours.Start, f.Hours.End = p.period()
	if f.Hours.Start.IsZero() != f.Hours.End.IsZero() {
		p.fault("from and to: give both or none")
	}
	if name := p.one("into"); name != "" {
		i := slices.IndexFunc(destinations, func(d reporter.Destination) bool { return d.String() == name })
		if i < 0 {
			p.fault("into: must be balance, held, written_off, unbillable or record (got " + quoteShort(name) + ")")
		} else {
			f.Into = destinations[i]
		}
	}
	return f
}

// booking returns the number of a booking, 0 if the parameter is absent.
func (p *params) booking(name string) uint64 {
	text := p.one(name)
	if text == "" {
		return 0
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		p.fault(name + ": must be the number of a booking, from 1 (got " + quoteShort(text) + ")")
	}
	return n
}

// listAdjustments answers with adjustments, by booking. more says that the limit cut the list.
func (a *API) listAdjustments(w *response, r *http.Request) error {
	p := readParams(r.URL)
	f := adjustmentFilter(p)
	if err := p.err(); err != nil {
		return err
	}
	media, err := negotiate(r.Header, mediaJSON, mediaCSV)
	if err != nil {
		return err
	}
	limit := f.Limit
	f.Limit++ // one more tells whether there are more
	list, err := a.o.Records.Adjustments(r.Context(), f)
	if err != nil {
		return storeError(err)
	}
	more := len(list) > limit
	list = list[:min(len(list), limit)]
	if media == mediaCSV {
		out := a.newOutput(w, mediaCSV)
		defer out.release()
		out.filename = "adjustments.csv"
		w.Header().Set("Meterd-More", strconv.FormatBool(more))
		out.csvRow(adjustmentColumns...)
		for i := range list {
			out.csvRow(viewAdjustment(&list[i]).csv()...)
			if err := out.flushIfLarge(); err != nil {
				return err
			}
		}
		return out.finish()
	}
	answer := struct {
		Adjustments []adjustmentView `json:"adjustments"`
		More        bool             `json:"more"`
	}{make([]adjustmentView, 0, len(list)), more}
	for i := range list {
		answer.Adjustments = append(answer.Adjustments, viewAdjustment(&list[i]))
	}
	return writeJSON(w, answer)
}
