package httpapi

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/meterd/meterd/reporter"
)

// verifyTimeout bounds a verification: counting a year of hours again takes its time.
const verifyTimeout = time.Hour

// TrailerDifferences is the trailer of a verification as CSV: the number of differences. It is absent when the verification
// did not come to its end.
const TrailerDifferences = "Meterd-Differences"

var errNoVerify = notAvailable("this daemon's books can't be verified")

// getVerify re-derives the books. JSON is the report; CSV has every account, and every hour that differs or waits.
// Differences are no error of the request.
func (a *API) getVerify(w *response, r *http.Request) error {
	if a.o.Doors.Verify == nil {
		return errNoVerify
	}
	p := readParams(r.URL)
	o := reporter.VerifyOptions{Limit: p.limit(defaultPage, maxPage), Recount: p.boolean("recount")}
	o.From, o.To = p.period()
	if !o.Recount && (!o.From.IsZero() || !o.To.IsZero()) {
		p.fault("from and to: are the hours to count again; they need recount=true")
	}
	if err := p.err(); err != nil {
		return err
	}
	media, err := negotiate(r.Header, mediaJSON, mediaCSV)
	if err != nil {
		return err
	}
	if !a.verifying.TryLock() {
		return &problem{
			Status: http.StatusServiceUnavailable, Code: "unavailable", RetryAfter: 30,
			Detail: "a verification is running already; one at a time is enough for the store",
		}
	}
	defer a.verifying.Unlock()
	if media == mediaCSV {
		return a.verifyCSV(r.Context(), w, o)
	}
	report, err := a.o.Doors.Verify(r.Context(), o)
	if err != nil {
		return verifyError(err)
	}
	return writeJSON(w, report)
}

// verifyCSV streams the lines. The outcome follows as a trailer.
func (a *API) verifyCSV(ctx context.Context, w *response, o reporter.VerifyOptions) error {
	out := a.newOutput(w, mediaCSV)
	defer out.release()
	out.filename, out.pause = "verify.csv", verifyTimeout
	w.Header().Set("Trailer", TrailerDifferences)
	lines := reporter.NewVerifyCSV(out)
	o.Lines = lines.Line
	report, err := a.o.Doors.Verify(ctx, o)
	if err == nil {
		err = lines.Flush()
	}
	if err != nil {
		if w.status == 0 {
			w.Header().Del("Trailer")
		}
		return out.fail(verifyError(err))
	}
	// A Content-Length would leave no room for the trailer.
	if err := out.flush(); err != nil {
		return err
	}
	w.Header().Set(TrailerDifferences, strconv.FormatUint(report.DifferenceCount, 10))
	return nil
}

// verifyError is the answer to a verification that did not come to its end.
func verifyError(err error) error {
	if errors.Is(err, errAborted) || errors.Is(err, context.Canceled) {
		return err
	}
	return &problem{
		Status: http.StatusServiceUnavailable, Code: "unavailable", RetryAfter: 30, cause: err, store: true,
		Detail: "the verification didn't come to its end, so nothing is known; the log has the reason",
	}
}

// boolean returns true or false; false if the parameter is absent.
func (p *params) boolean(name string) bool {
	text := p.one(name)
	switch text {
	case "", "false":
		return false
	case "true":
		return true
	}
	p.fault(name + ": must be true or false (got " + quoteShort(text) + ")")
	return false
}
