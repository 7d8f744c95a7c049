package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// readJSON reads a small JSON object strictly. An empty body is an empty object.
func (a *API) readJSON(w *response, r *http.Request, into any) error {
	f, err := eventsForm(r.Header)
	if err != nil || f != formJSON && f != formAsk {
		return unsupported("send application/json")
	}
	b, err := a.readBody(w, r)
	if err != nil {
		return err
	}
	defer b.release()
	if len(b.trimSpace()) == 0 {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(b.data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return invalidRequest("the body can't be read: %s", jsonReason(err))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return invalidRequest("the body holds more than one JSON value")
	}
	return nil
}

// closeView is what a close did.
type closeView struct {
	Windows int           `json:"windows"`
	First   *meter.Window `json:"first,omitempty"`
	Last    *meter.Window `json:"last,omitempty"`
	Events  uint64        `json:"events"`
	Usages  uint64        `json:"usages"`
	Records uint64        `json:"records"`
	// Recounts is how many closed hours were counted again; Usages, Records, Adjustments and States include theirs.
	Recounts    int               `json:"recounts"`
	Adjustments uint64            `json:"adjustments"`
	States      map[string]uint64 `json:"states"`
	// Delivered is what became of the records that were due, those of earlier windows included.
	Delivered deliveryView `json:"delivered"`
}

// deliveryView is one delivery pass in the API.
type deliveryView struct {
	Windows   int                 `json:"windows"`
	Settled   int                 `json:"settled"`
	Calls     int                 `json:"calls"`
	Accepted  int                 `json:"accepted"`
	Rejected  int                 `json:"rejected"`
	Expired   int                 `json:"expired"`
	Held      int                 `json:"held"`
	DueLeft   uint64              `json:"due_left"`
	Unsettled int                 `json:"unsettled"`
	OldestDue *meter.Window       `json:"oldest_due,omitempty"`
	Stopped   reporter.StopReason `json:"stopped,omitempty"`
	RetryAt   *time.Time          `json:"retry_at,omitempty"`
	Shadowed  int                 `json:"shadowed,omitempty"`
	// Shadow is the same for the records in mode shadow; absent when there were none.
	Shadow *deliveryView `json:"shadow,omitempty"`
}

func viewClose(summary reporter.Summary) closeView {
	s := summary.Closed
	v := closeView{
		Windows: s.Windows, Events: s.Events, Usages: s.Usages, Records: s.Records, Recounts: s.Recounts, Adjustments: s.Adjustments,
		States: map[string]uint64{}, Delivered: viewDelivery(summary.Delivered),
	}
	if s.Windows > 0 {
		v.First, v.Last = &s.First, &s.Last
	}
	for state, n := range s.States {
		v.States[state.String()] = n
	}
	return v
}

func viewDelivery(d reporter.PassSummary) deliveryView {
	v := deliveryView{
		Windows: d.Windows, Settled: d.Settled, Calls: d.Calls, Accepted: d.Accepted, Rejected: d.Rejected, Expired: d.Expired, Held: d.Held,
		Shadowed: d.Shadowed, DueLeft: d.DueLeft, Unsettled: d.Unsettled, Stopped: d.Stopped, RetryAt: optionalTime(d.RetryAt),
	}
	if !d.OldestDue.IsZero() {
		v.OldestDue = &d.OldestDue
	}
	if d.Shadow != nil {
		shadow := viewDelivery(*d.Shadow)
		v.Shadow = &shadow
	}
	return v
}

// postClose closes the windows that are due at a time and delivers their records.
func (a *API) postClose(w *response, r *http.Request) error {
	var request struct {
		Until time.Time `json:"until"`
	}
	if err := a.readJSON(w, r, &request); err != nil {
		return err
	}
	if request.Until.IsZero() {
		return invalidRequest("until: is required, as an RFC 3339 time; windows whose end and grace period are before it are closed")
	}
	// What was acknowledged is to be counted if its hour was closed before. Closing an hour waits for more than this itself.
	if err := a.flush(r.Context()); err != nil {
		a.o.Logger.Warn("closing without the events that are not in the store yet", "request_id", w.requestID, "err", err)
	}
	summary, err := a.o.Close(r.Context(), request.Until.UTC())
	if errors.Is(err, reporter.ErrFuture) || errors.Is(err, reporter.ErrNotHolder) || errors.Is(err, reporter.ErrClockAhead) {
		return err
	}
	if err != nil {
		return &problem{
			Status: http.StatusServiceUnavailable, Code: "unavailable", RetryAfter: 5, cause: err, store: true,
			Detail: "closing or delivering didn't come to its end; the log has the reason, and doing it again is safe",
		}
	}
	return writeJSON(w, viewClose(summary))
}

// getStatus shows what the daemon says about itself.
func (a *API) getStatus(w *response, r *http.Request) error {
	if err := readParams(r.URL).err(); err != nil {
		return err
	}
	answer := struct {
		Now    time.Time `json:"now"`
		Status any       `json:"status,omitempty"`
	}{Now: a.o.Now().UTC()}
	if a.o.Status != nil {
		answer.Status = a.o.Status(r.Context())
	}
	return writeJSON(w, answer)
}
