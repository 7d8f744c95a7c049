package httpapi

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// response is the writer given to handlers: it remembers what was answered.
type response struct {
	http.ResponseWriter
	control   http.ResponseController
	requestID string
	key       string // name of the API key
	bodyRead  bool   // whether the request's body was read to its end
	status    int    // 0: nothing was written yet
	bytes     int64
}

// WriteHeader sends the status line.
func (w *response) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write sends a part of the body.
func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController find the server's writer.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// statusClientGone is logged and counted for requests whose client went away before there was an answer.
const statusClientGone = 499

// unreadTimeout is how long the rest of a body may take that nobody wants.
const unreadTimeout = 2 * time.Second

var responses = sync.Pool{New: func() any { return new(response) }}

// answerTime bounds a request from its header to the last byte of its answer: a client that doesn't read its answers must
// not hold the connection. A request with events may read, store and answer for RequestTimeout each.
func (a *API) answerTime(rt route) time.Duration {
	if rt.timeout < 0 {
		return 3 * a.o.RequestTimeout
	}
	return rt.timeout + 2*a.o.RequestTimeout
}

// wrap is the one wrapper around every handler.
func (a *API) wrap(rt route) http.Handler {
	timeout, answerTime := rt.timeout, a.answerTime(rt)
	if timeout == 0 {
		timeout = a.o.RequestTimeout
	}
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		start := machineTime()
		w := responses.Get().(*response)
		*w = response{ResponseWriter: rw, requestID: a.ids.of(r)}
		w.control = *http.NewResponseController(rw)
		rw.Header()["X-Request-Id"] = []string{w.requestID}
		_ = w.control.SetWriteDeadline(start.Add(answerTime)) // a writer without deadlines is a test's
		aborted := true
		defer func() {
			if aborted && w.status == 0 {
				w.status = statusClientGone
			}
			a.finish(w, r, rt, start)
			if r.ContentLength != 0 && !w.bodyRead {
				// The server reads a little of what is left of the body before it closes the connection. A client that
				// never sends it must not hold the connection.
				_ = w.control.SetReadDeadline(machineTime().Add(unreadTimeout))
			}
			*w = response{}
			responses.Put(w)
			if aborted {
				panic(http.ErrAbortHandler)
			}
		}()
		if timeout > 0 {
			ctx, cancel := context.WithTimeout(r.Context(), timeout)
			defer cancel()
			r = r.WithContext(ctx)
		}
		err := a.call(w, r, rt)
		if err == nil {
			aborted = false
			return
		}
		aborted = !a.answerError(w, r, err)
	})
}

// call authorises the request and calls the handler; a panic becomes an error.
func (a *API) call(w *response, r *http.Request, rt route) (err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if cause, ok := p.(error); ok && errors.Is(cause, http.ErrAbortHandler) {
			err = errAborted
			return
		}
		a.o.Logger.Error("handler panicked", "route", rt.path, "request_id", w.requestID, "panic", p, "stack", string(debug.Stack()))
		err = errPanic
	}()
	if err := a.authorize(w, r, rt.scope); err != nil {
		return err
	}
	return rt.handle(w, r)
}

var (
	errAborted = errors.New("request aborted")
	errPanic   = errors.New("handler panicked")
)

// answerError answers with a problem. It reports false when the connection must be cut instead, because a part of another
// answer is already on its way.
func (a *API) answerError(w *response, r *http.Request, err error) bool {
	if errors.Is(err, errAborted) {
		return false
	}
	p := a.storeNotOpen(toProblem(err))
	if p.cause != nil {
		level := slog.LevelWarn
		if p.Status == http.StatusInternalServerError {
			level = slog.LevelError
		}
		a.o.Logger.Log(r.Context(), level, "request failed", "path", r.URL.Path, "request_id", w.requestID, "status", p.Status, "err", p.cause)
	}
	if w.status != 0 {
		return false
	}
	p.RequestID = w.requestID
	p.write(w)
	return true
}

// storeNotOpen says so where the reason for an error of the store is that it was never reached.
func (a *API) storeNotOpen(p *problem) *problem {
	if !p.store || a.o.StoreOpen == nil || a.o.StoreOpen() {
		return p
	}
	p.Detail = "ClickHouse was not reached yet since the daemon started; nothing was changed, and events are taken meanwhile; " +
		"the telemetry endpoint's /healthz/ready says when it is there, the log why it isn't"
	return p
}

// finish logs and counts the request.
func (a *API) finish(w *response, r *http.Request, rt route, start time.Time) {
	status := w.status
	if status == 0 {
		status = http.StatusOK
	}
	took := machineTime().Sub(start)
	a.o.Observe(Observation{
		Route: rt.path, Method: methodLabel(r.Method), Status: status, Key: w.key, Bytes: w.bytes, Duration: took,
	})
	level := slog.LevelDebug
	if status >= http.StatusBadRequest {
		level = slog.LevelInfo
	}
	if !a.o.Logger.Enabled(r.Context(), level) {
		return
	}
	a.o.Logger.LogAttrs(r.Context(), level, "request",
		slog.String("method", methodLabel(r.Method)), slog.String("route", rt.path), slog.Int("status", status),
		slog.Duration("took", took), slog.Int64("bytes", w.bytes), slog.String("key", w.key),
		slog.String("request_id", w.requestID), slog.String("remote", r.RemoteAddr))
}

// methodLabel bounds what a client can put into metrics and logs.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "other"
}

// machineTime is the machine's clock: durations and deadlines of sockets know no other. The time of events comes from
// Options.Now.
func machineTime() time.Time { return time.Now() } //nolint:forbidigo // see above

// requestIDs makes ids that are unique for this process and, with the random prefix, very likely beyond.
type requestIDs struct {
	prefix string
	next   atomic.Uint64
}

func newRequestIDs() *requestIDs {
	var random [5]byte
	_, _ = rand.Read(random[:]) // never fails
	return &requestIDs{prefix: hex.EncodeToString(random[:]) + "-"}
}

// of returns the client's id if it is short and plain, so that it can follow a request through its own logs; else a new one.
func (ids *requestIDs) of(r *http.Request) string {
	if given := r.Header["X-Request-Id"]; len(given) == 1 && plainID(given[0]) {
		return given[0]
	}
	return string(strconv.AppendUint(append(make([]byte, 0, 24), ids.prefix...), ids.next.Add(1), 36))
}

func plainID(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}
