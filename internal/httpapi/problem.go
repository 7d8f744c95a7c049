package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// maxErrors bounds the list of bad events in an answer. TotalErrors tells how many there were.
const maxErrors = 100

// problem is an error for the client, in the form of RFC 9457. Codes are part of the API: never rename one.
type problem struct {
	Type        string       `json:"type"`
	Title       string       `json:"title"`
	Status      int          `json:"status"`
	Detail      string       `json:"detail,omitempty"`
	RequestID   string       `json:"request_id,omitempty"`
	Errors      []eventError `json:"errors,omitempty"`
	TotalErrors int          `json:"total_errors,omitempty"`
	// Effect is that of a commit whose token doesn't fit, as it is now.
	Effect *meter.Effect `json:"effect,omitempty"`

	Code       string `json:"-"` // last part of Type
	RetryAfter int    `json:"-"` // seconds; 0: no header
	Close      bool   `json:"-"` // close the connection after the answer
	cause      error  // for the log, never for the client
	store      bool   // an error of the store
}

// eventError is why one event was refused.
type eventError struct {
	Index  int          `json:"index"`
	Line   int          `json:"line,omitempty"` // of a stream, from 1
	Field  string       `json:"field,omitempty"`
	Meter  string       `json:"meter,omitempty"`
	Reason meter.Reason `json:"reason"`
	Detail string       `json:"detail"`
}

// Error makes a problem an error.
func (p *problem) Error() string { return p.Code + ": " + p.Detail }

// Unwrap returns what is logged.
func (p *problem) Unwrap() error { return p.cause }

// titles gives each code its title, which is the same for every occurrence.
var titles = map[string]string{
	"invalid-events":         "The request holds events that can't be taken; none was stored",
	"invalid-request":        "The request can't be understood",
	"unauthorized":           "A valid API key is needed",
	"forbidden":              "The API key doesn't permit this",
	"not-found":              "There is no such thing",
	"method-not-allowed":     "The method isn't possible here",
	"not-acceptable":         "The answer isn't available in the form asked for",
	"timeout":                "The request took too long to arrive",
	"too-large":              "The request is too large",
	"unsupported-media-type": "The form of the request isn't known",
	"not-allowed":            "The books don't permit this",
	"effect-changed":         "The effect isn't the one that was previewed; nothing was done",
	"not-available":          "This daemon has no such part",
	"spool-full":             "The spool is full; nothing is acknowledged",
	"unavailable":            "The service can't do this now",
	"internal":               "An error of the service",
}

// problemType makes the type URI of a code.
func problemType(code string) string { return "urn:meterd:problem:" + code }

// complete fills in what follows from the code.
func (p *problem) complete() *problem {
	p.Type = problemType(p.Code)
	p.Title = titles[p.Code]
	return p
}

// write answers with the problem.
func (p *problem) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(p.RetryAfter))
	}
	if p.Close {
		h.Set("Connection", "close")
	}
	body := encodeJSON(p.complete())
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // the client is gone; nobody is left to tell
}

// encodeJSON encodes a value of ours, which can't fail, with a line break at the end.
func encodeJSON(v any) []byte {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return []byte(`{"type":"urn:meterd:problem:internal","title":"An error of the service","status":500}` + "\n")
	}
	return b.Bytes()
}

func invalidRequest(format string, args ...any) *problem {
	return &problem{Status: http.StatusBadRequest, Code: "invalid-request", Detail: fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) *problem {
	return &problem{Status: http.StatusNotFound, Code: "not-found", Detail: fmt.Sprintf(format, args...)}
}

// tooLarge says that a body is too large. The rest of it isn't read, so the connection can't be used again.
func tooLarge(format string, args ...any) *problem {
	return &problem{Status: http.StatusRequestEntityTooLarge, Code: "too-large", Detail: fmt.Sprintf(format, args...), Close: true}
}

func unsupported(format string, args ...any) *problem {
	return &problem{Status: http.StatusUnsupportedMediaType, Code: "unsupported-media-type", Detail: fmt.Sprintf(format, args...)}
}

// storeError marks an error of the store or the ledger.
func storeError(err error) error {
	if err == nil {
		return nil
	}
	var p *problem
	if errors.As(err, &p) || errors.Is(err, errAborted) || errors.Is(err, meter.ErrBadQuery) {
		return err
	}
	if errors.Is(err, meter.ErrRefused) {
		return &problem{Status: http.StatusInternalServerError, Code: "internal", Detail: "the store refused the query; the log has the reason", cause: err}
	}
	return &problem{
		Status: http.StatusServiceUnavailable, Code: "unavailable", RetryAfter: 5,
		Detail: "the store didn't answer; events are still taken, try again later", cause: err, store: true,
	}
}

// toProblem is the one table from errors to answers. What it doesn't know is internal: logged, never shown.
func toProblem(err error) *problem {
	var p *problem
	var netError net.Error
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, meter.ErrSpoolFull):
		return &problem{
			Status: http.StatusTooManyRequests, Code: "spool-full", RetryAfter: 5,
			Detail: "the store has been behind for so long that the spool is full; send the same events again later",
		}
	case errors.Is(err, meter.ErrClosed):
		return &problem{
			Status: http.StatusServiceUnavailable, Code: "unavailable", RetryAfter: 1, Close: true,
			Detail: "the service is shutting down; nothing is acknowledged, send the same events again",
		}
	case errors.Is(err, meter.ErrUnavailable):
		return &problem{
			Status: http.StatusServiceUnavailable, Code: "unavailable", RetryAfter: 5, cause: err,
			Detail: "the events could not be stored durably; send the same events again",
		}
	case errors.Is(err, meter.ErrBatchTooLarge):
		return &problem{Status: http.StatusRequestEntityTooLarge, Code: "too-large", Detail: "the batch is too large for the spool; send smaller batches"}
	case errors.Is(err, reporter.ErrNotFound), errors.Is(err, reporter.ErrUnknownRecord):
		return &problem{Status: http.StatusNotFound, Code: "not-found", Detail: err.Error()}
	case errors.Is(err, reporter.ErrNotHolder):
		return &problem{
			Status: http.StatusConflict, Code: "not-allowed", cause: err,
			Detail: "another daemon on the same ClickHouse holds the lease, so it is the one that closes and delivers; ask that one",
		}
	case errors.Is(err, reporter.ErrClockAhead):
		return &problem{
			Status: http.StatusServiceUnavailable, Code: "unavailable", RetryAfter: 60, cause: err,
			Detail: "this machine's clock is ahead of what can be trusted, so nothing is closed until it is right; meterd clock shows more, and takes your word if it is right",
		}
	case errors.Is(err, reporter.ErrNotAllowed):
		return &problem{Status: http.StatusConflict, Code: "not-allowed", Detail: err.Error()}
	case errors.Is(err, reporter.ErrFuture), errors.Is(err, meter.ErrBadQuery):
		return &problem{Status: http.StatusBadRequest, Code: "invalid-request", Detail: err.Error()}
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &netError) && netError.Timeout() && !errors.Is(err, context.DeadlineExceeded):
		return &problem{
			Status: http.StatusRequestTimeout, Code: "timeout", Close: true,
			Detail: "the body didn't arrive in time; nothing was stored, send the same events again",
		}
	case errors.Is(err, context.DeadlineExceeded):
		return &problem{
			Status: http.StatusServiceUnavailable, Code: "unavailable", RetryAfter: 5, cause: err,
			Detail: "the answer took too long; nothing is acknowledged, send the same request again",
		}
	case errors.Is(err, context.Canceled):
		return &problem{
			Status: http.StatusServiceUnavailable, Code: "unavailable", RetryAfter: 1, Close: true,
			Detail: "the request was cancelled; nothing is acknowledged, send the same request again",
		}
	default:
		return &problem{Status: http.StatusInternalServerError, Code: "internal", Detail: "the log has the reason under this request id", cause: err}
	}
}

// quoteShort quotes a text of the client for a message, bounded.
func quoteShort(text string) string {
	const limit = 60
	if len(text) > limit {
		text = text[:limit] + "…"
	}
	return strconv.QuoteToASCII(text)
}
