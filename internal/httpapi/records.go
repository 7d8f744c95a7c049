package httpapi

import (
	"net/http"
	"strconv"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// Limits of a page of bill records.
const (
	defaultPage = 100
	maxPage     = 10_000
)

// recordView is a bill record in the API.
type recordView struct {
	SN          reporter.MeteringSN `json:"sn"`
	State       reporter.State      `json:"state"`
	InstanceID  string              `json:"instance_id"`
	Subject     string              `json:"subject"`
	Meter       string              `json:"meter"`
	WindowStart time.Time           `json:"window_start"`
	WindowEnd   time.Time           `json:"window_end"`
	Usage       meter.Quantity      `json:"usage"`
	CarriedIn   meter.Quantity      `json:"carried_in"`
	Scale       meter.Quantity      `json:"scale"`
	Billed      meter.Quantity      `json:"billed"`
	CarriedOut  meter.Quantity      `json:"carried_out"`
	ProductID   string              `json:"product_id,omitempty"`
	Package     string              `json:"package,omitempty"`
	Seller      string              `json:"seller"`
	Revision    uint32              `json:"revision"`
	RecordTime  time.Time           `json:"record_time"`
	Attempts    uint32              `json:"attempts"`
	ChangedAt   time.Time           `json:"changed_at"`
	Code        string              `json:"code,omitempty"`
	Message     string              `json:"message,omitempty"`
	Mode        reporter.Mode       `json:"mode"`
	BookedHour  time.Time           `json:"booked_hour"`
	Replaces    reporter.MeteringSN `json:"replaces,omitempty"`
	Actor       string              `json:"actor,omitempty"`
}

func viewRecord(r *reporter.BillRecord) recordView {
	return recordView{
		SN: r.SN, State: r.Last.State, InstanceID: r.InstanceID, Subject: r.Subject, Meter: r.Meter,
		WindowStart: r.Window.Start.UTC(), WindowEnd: r.Window.End.UTC(),
		Usage: r.Usage, CarriedIn: r.CarriedIn, Scale: r.Scale, Billed: r.Billed, CarriedOut: r.CarriedOut,
		ProductID: r.ProductID, Package: r.Package, Seller: r.Seller, Revision: r.Revision, RecordTime: r.RecordTime.UTC(),
		Attempts: r.Last.Attempt, ChangedAt: r.Last.At.UTC(), Code: r.Last.Code, Message: r.Last.Message,
		Mode: r.Mode, BookedHour: r.Booked.Start.UTC(), Replaces: r.Replaces, Actor: r.Last.Actor,
	}
}

// transitionView is one line of a record's life.
type transitionView struct {
	Seq         uint32         `json:"seq"`
	State       reporter.State `json:"state"`
	At          time.Time      `json:"at"`
	Attempt     uint32         `json:"attempt"`
	Endpoint    string         `json:"endpoint,omitempty"`
	Code        string         `json:"code,omitempty"`
	Message     string         `json:"message,omitempty"`
	RequestHash string         `json:"request_hash,omitempty"`
	LatencyMS   int64          `json:"latency_ms,omitempty"`
	Detail      string         `json:"detail,omitempty"`
	Actor       string         `json:"actor,omitempty"`
}

func viewTransitions(list []reporter.Transition) []transitionView {
	views := make([]transitionView, 0, len(list))
	for _, t := range list {
		views = append(views, transitionView{
			Seq: t.Seq, State: t.State, At: t.At.UTC(), Attempt: t.Attempt, Endpoint: t.Endpoint, Code: t.Code, Message: t.Message,
			RequestHash: t.RequestHash, LatencyMS: t.Latency.Milliseconds(), Detail: t.Detail, Actor: t.Actor,
		})
	}
	return views
}

// recordColumns are the columns of the CSV. They are stable: add at the end only.
var recordColumns = []string{
	"sn", "state", "instance_id", "subject", "meter", "window_start", "window_end", "usage", "carried_in", "scale", "billed",
	"carried_out", "product_id", "package", "seller", "revision", "record_time", "attempts", "changed_at", "code", "message",
	"mode", "booked_hour", "replaces", "actor",
}

func (v recordView) csv() []string {
	return []string{
		string(v.SN), v.State.String(), csvText(v.InstanceID), csvText(v.Subject), v.Meter, csvTime(v.WindowStart), csvTime(v.WindowEnd),
		v.Usage.String(), v.CarriedIn.String(), v.Scale.String(), v.Billed.String(), v.CarriedOut.String(), csvText(v.ProductID),
		csvText(v.Package), v.Seller, strconv.FormatUint(uint64(v.Revision), 10), csvTime(v.RecordTime), strconv.FormatUint(uint64(v.Attempts), 10),
		csvTime(v.ChangedAt), csvText(v.Code), csvText(v.Message), v.Mode.String(), csvTime(v.BookedHour), string(v.Replaces), csvText(v.Actor),
	}
}

// listRecords answers with a page of bill records. The next page is named by next_cursor and by the Link header.
func (a *API) listRecords(w *response, r *http.Request) error {
	p := readParams(r.URL)
	f := reporter.RecordFilter{
		InstanceID: p.one("instance"), Subject: p.one("subject"), Meter: p.one("meter"), After: p.one("cursor"),
		Limit: p.limit(defaultPage, maxPage),
	}
	f.From, f.To = p.period()
	for _, name := range p.many("state", true) {
		state, err := reporter.ParseState(name)
		if err != nil {
			p.fault("state: " + err.Error())
			continue
		}
		f.States = append(f.States, state)
	}
	if f.After != "" {
		if _, _, err := reporter.ParseCursor(f.After); err != nil {
			p.fault("cursor: " + err.Error())
		}
	}
	if err := p.err(); err != nil {
		return err
	}
	media, err := negotiate(r.Header, mediaJSON, mediaCSV)
	if err != nil {
		return err
	}
	records, err := a.o.Records.Records(r.Context(), f)
	if err != nil {
		return storeError(err)
	}
	next := ""
	if len(records) == f.Limit {
		next = reporter.Cursor(records[len(records)-1])
		link(w, r, "cursor", next)
	}
	if media == mediaCSV {
		return a.writeRecordsCSV(w, records)
	}
	page := struct {
		Records    []recordView `json:"records"`
		NextCursor string       `json:"next_cursor,omitempty"`
	}{make([]recordView, 0, len(records)), next}
	for i := range records {
		page.Records = append(page.Records, viewRecord(&records[i]))
	}
	return writeJSON(w, page)
}

func (a *API) writeRecordsCSV(w *response, records []reporter.BillRecord) error {
	out := a.newOutput(w, mediaCSV)
	defer out.release()
	out.filename = "bill-records.csv"
	out.csvRow(recordColumns...)
	for i := range records {
		out.csvRow(viewRecord(&records[i]).csv()...)
		if err := out.flushIfLarge(); err != nil {
			return err
		}
	}
	return out.finish()
}

// getRecord answers with one record and its whole life.
func (a *API) getRecord(w *response, r *http.Request) error {
	if err := readParams(r.URL).err(); err != nil {
		return err
	}
	sn := reporter.MeteringSN(r.PathValue("sn"))
	records, err := a.o.Records.Records(r.Context(), reporter.RecordFilter{SN: sn, Limit: 1})
	if err != nil {
		return storeError(err)
	}
	if len(records) == 0 {
		return notFound("there is no bill record %s", quoteShort(string(sn)))
	}
	transitions, err := a.o.Records.Transitions(r.Context(), sn)
	if err != nil {
		return storeError(err)
	}
	answer := struct {
		recordView
		Transitions []transitionView `json:"transitions"`
	}{viewRecord(&records[0]), viewTransitions(transitions)}
	return writeJSON(w, answer)
}
