package simulation_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"time"

	"github.com/meterd/meterd/internal/sandbox"
	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

var (
	errRefused = errors.New("connection refused")
	errReset   = errors.New("connection reset by peer")
)

// wire takes the place of the network between one process's client and the sandbox.
type wire struct {
	p    *process
	mode reporter.Mode
}

// market returns the sandbox of the wire: the marketplace itself or the shadow.
func (n wire) market() *sandbox.Sandbox {
	if n.mode == reporter.ModeShadow {
		return n.p.w.shadow
	}
	return n.p.w.market
}

// RoundTrip makes one call. The order is that of the real thing: the call may never arrive, arrive and go unanswered, or be
// answered after the caller has ended.
func (n wire) RoundTrip(req *http.Request) (*http.Response, error) {
	p, w := n.p, n.p.w
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	sent := w.inspect(p.name, n.mode, body)
	mood := "well"
	if !w.calm {
		mood = weighted(w.scheduler, w.plan.moods)
	}
	if w.now.Before(w.marketDown) {
		mood = "refused"
	}
	w.counts["call "+mood]++
	if mood == "refused" {
		w.note(p.name, "call of %d: no connection", len(sent))
		return nil, errRefused
	}
	if trace := httptrace.ContextClientTrace(req.Context()); trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{})
	}
	if mood == "ends before" {
		w.note(p.name, "ends before a call of %d", len(sent))
		p.t.die()
	}
	p.t.park(w.now.Add(w.between(0, 2*time.Second))) // on its way
	if err := n.inject(mood); err != nil {
		return nil, err
	}
	resp, err := n.serve(req, body)
	n.market().RemoveFaults("call")
	w.note(p.name, "call of %d %s: %s, %v", len(sent), n.mode, mood, summary(resp, err))
	if mood == "ends after" {
		p.t.die()
	}
	p.t.park(w.now.Add(w.between(0, 2*time.Second))) // on its way back
	return resp, err
}

// inject makes the sandbox itself misbehave in the next call.
func (n wire) inject(mood string) error {
	f := sandbox.Fault{ID: "call", Count: 1}
	switch mood {
	case "dropped":
		f.Kind = sandbox.FaultDropRequest
	case "answer lost":
		f.Kind = sandbox.FaultDropAnswer
	case "throttled":
		f.Kind = sandbox.FaultThrottle
	case "throttled after":
		f.Kind, f.After = sandbox.FaultThrottle, true
	case "5xx":
		f.Kind, f.Status = sandbox.FaultHTTPStatus, http.StatusBadGateway
	case "5xx after":
		f.Kind, f.Status, f.After = sandbox.FaultHTTPStatus, http.StatusServiceUnavailable, true
	case "internal":
		f.Kind, f.Code = sandbox.FaultErrorCode, sandbox.CodeInternal
	case "garbage":
		f.Kind = sandbox.FaultGarbage
	case "truncated":
		f.Kind = sandbox.FaultTruncate
	default:
		return nil
	}
	_, err := n.market().Inject(f)
	return err
}

// serve calls the sandbox's handler.
func (n wire) serve(req *http.Request, body []byte) (resp *http.Response, err error) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if aborted, ok := v.(error); !ok || !errors.Is(aborted, http.ErrAbortHandler) {
			panic(v)
		}
		resp, err = nil, errReset
	}()
	in := httptest.NewRequestWithContext(req.Context(), req.Method, req.URL.Path, bytes.NewReader(body))
	for name, values := range req.Header { // as a server would, whatever the letters
		in.Header[http.CanonicalHeaderKey(name)] = values
	}
	out := httptest.NewRecorder()
	n.market().ServeHTTP(out, in)
	return out.Result(), nil
}

func summary(resp *http.Response, err error) string {
	if err != nil {
		return err.Error()
	}
	return resp.Status + " " + resp.Header.Get("X-Sandbox-Detail")
}

// wireRecord is what the marketplace is told about one record.
type wireRecord struct {
	SN       string `json:"metering_sn"`
	Instance string `json:"instance_id"`
	Begin    string `json:"begin_time"`
	End      string `json:"end_time"`
	Record   string `json:"record_time"`
	Value    string `json:"usage_value"`
	Package  string `json:"relate_pkg_instance"`
}

const wireTime = "20060102T150405Z"

// inspect checks what is about to be sent against the marketplace's rules (KooGallery usage push, sections 1.6, 1.7 and
// 4.2) and against what was sent before.
func (w *world) inspect(who string, mode reporter.Mode, body []byte) []wireRecord {
	var b struct {
		Records []wireRecord `json:"usage_records"`
	}
	if err := json.Unmarshal(body, &b); err != nil || len(b.Records) == 0 {
		w.fault("%s sends what is no batch: %v", who, err)
		return nil
	}
	for _, r := range b.Records {
		if problem := w.problemOf(mode, r); problem != "" {
			w.fault("%s sends record %s of %s: %s", who, r.SN, r.Instance, problem)
		}
	}
	return b.Records
}

func (w *world) problemOf(mode reporter.Mode, r wireRecord) string {
	text := fmt.Sprint(mode, r)
	if old, again := w.sent[r.SN]; again && old != text {
		return "it was sent as " + old + " before, now as " + text
	}
	w.sent[r.SN] = text
	var value meter.Quantity
	begin, err := time.Parse(wireTime, r.Begin)
	end, err2 := time.Parse(wireTime, r.End)
	booked, known := w.oracle.records[reporter.MeteringSN(r.SN)]
	switch {
	case errors.Join(err, err2, value.UnmarshalText([]byte(r.Value))) != nil:
		return "times or value are unreadable"
	case strings.ContainsAny(r.Value, "eE+-") || value.Sign() <= 0 || decimals(r.Value) > 4:
		return "its value is " + r.Value
	case !begin.Before(end) || end.After(w.now.Add(time.Second)):
		return "its window is " + r.Begin + " to " + r.End
	case !known:
		return "it is not in the books"
	case booked.Mode != mode:
		return "its mode is " + booked.Mode.String()
	case booked.replaced:
		return "another one replaced it"
	case !booked.Billed.Equal(value) || !booked.Window.Start.Equal(begin) || !booked.Window.End.Equal(end) || booked.InstanceID != r.Instance:
		return "the books say something else"
	}
	return w.outsideLife(booked, begin, end)
}

// outsideLife says when a record lies outside of what the books knew of the instance's life when it was booked.
func (w *world) outsideLife(booked bookedBill, begin, end time.Time) string {
	for booked.Replaces != "" { // a resend repeats the window of the record that was booked first
		booked = w.oracle.records[booked.Replaces]
	}
	for _, change := range w.lives[booked.InstanceID] {
		if change.RecordedAt.After(booked.booking.At) {
			continue
		}
		switch {
		case change.Kind == reporter.LifeOpened && begin.Before(change.At):
			return fmt.Sprintf("it begins %s, before the instance was opened at %s", begin, change.At)
		case change.Kind == reporter.LifeReleased && end.After(change.At):
			return fmt.Sprintf("it ends %s, after the instance was released at %s", end, change.At)
		case change.Kind == reporter.LifeFrozen && begin.Before(change.At) && end.After(change.At):
			return fmt.Sprintf("it covers %s, when the instance was frozen", change.At)
		}
	}
	return ""
}
