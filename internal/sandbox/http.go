package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// ServeHTTP serves the marketplace paths, the page at / and the administration under /sandbox/. A fault that drops a
// connection ends the handler with http.ErrAbortHandler, as net/http provides for that.
func (s *Sandbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer s.recoverPanic(w)
	// Callers compare clocks by this header; the server's own would be the wall's time, whatever Options.Now says.
	w.Header().Set("Date", s.Now().UTC().Format(http.TimeFormat))
	switch path := r.URL.Path; {
	case path == PathNew:
		s.serveAPI(w, r, APINew)
	case path == PathOld:
		s.serveAPI(w, r, APIOld)
	case path == "/" || path == stylePath || strings.HasPrefix(path, "/sandbox/"):
		if !s.opts.AdminAnywhere && !isLoopback(r.RemoteAddr) {
			writeAdminError(w, http.StatusForbidden, "the page and /sandbox/ are open to the loopback interface only; --admin-anywhere opens them")
			return
		}
		s.admin.ServeHTTP(w, r)
	default:
		s.serveAPI(w, r, "")
	}
}

// recoverPanic answers a bug with MKT.0999 instead of taking the server's log as the only witness.
func (s *Sandbox) recoverPanic(w http.ResponseWriter) {
	v := recover()
	if v == nil {
		return
	}
	if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(http.ErrAbortHandler)
	}
	s.opts.Logger.Error("a handler panicked", "panic", v)
	writeAnswer(w, answer{code: CodeInternal, detail: "a bug in the sandbox; see its log"}, 0)
}

// isLoopback reports whether a remote address is on this machine; a unix socket's peer ("@" or empty) is.
func isLoopback(remote string) bool {
	if remote == "" || remote == "@" {
		return true
	}
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// serveAPI handles one call of a marketplace path with the faults that strike it. The api "" is a path the gateway
// does not know.
func (s *Sandbox) serveAPI(w http.ResponseWriter, r *http.Request, api API) {
	call := Call{At: s.Now(), Method: clip(r.Method, 20), Path: clip(r.URL.Path, 200)}
	defer func() { s.note(call) }()
	plan := s.faults.plan(r.URL.Path)
	call.Faults = plan.struck
	if err := wait(r.Context(), plan.before); err != nil {
		call.Detail = "the caller left"
		panic(http.ErrAbortHandler)
	}
	if plan.answer != nil && !plan.answer.late() {
		s.serveFault(w, r, plan.answer, &call)
		return
	}
	ans := s.process(w, r, api, &call)
	if err := wait(r.Context(), plan.after); err != nil {
		call.Detail = "the caller left"
		panic(http.ErrAbortHandler)
	}
	if plan.answer != nil {
		s.distort(w, r, plan.answer, ans, &call)
		return
	}
	call.Status, call.Code = writeAnswer(w, ans, 0), ans.code
}

// note remembers a call and logs it.
func (s *Sandbox) note(call Call) {
	s.calls.add(call)
	log := s.opts.Logger.Debug
	if !call.Accepted {
		log = s.opts.Logger.Info
	}
	log("call", "path", call.Path, "status", call.Status, "code", call.Code, "records", call.Records, "detail", call.Detail, "faults", len(call.Faults))
}

// process is the true handling of a call, without faults.
func (s *Sandbox) process(w http.ResponseWriter, r *http.Request, api API, call *Call) answer {
	var ans answer
	switch {
	case api == "":
		ans = ans.failed(refuse(CodeGatewayNoAPI, "there is no such path"))
	case r.Method != http.MethodPost:
		ans = ans.failed(refuse(CodeGatewayNoAPI, "the method must be POST"))
	default:
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.opts.MaxBody))
		call.Bytes = len(body)
		var tooLarge *http.MaxBytesError
		switch {
		case errors.As(err, &tooLarge):
			ans = ans.failed(refuse(CodeGatewayTooLarge, "the body has more than "+strconv.FormatInt(tooLarge.Limit, 10)+" bytes"))
		case err != nil:
			ans = ans.failed(refuse(CodeRequestError, "the body could not be read to its end"))
		default:
			ans = s.receive(r, api, body)
		}
	}
	call.Accepted, call.Records, call.Seller, call.Form = ans.code == CodeSuccess, ans.records, ans.seller, ans.form
	call.Detail = ans.detail
	return ans
}

// serveFault answers a call that is never processed.
func (s *Sandbox) serveFault(w http.ResponseWriter, r *http.Request, f *Fault, call *Call) {
	if f.Kind == FaultDropRequest {
		panic(http.ErrAbortHandler)
	}
	// Read the body all the same, so that the client gets to see the answer; beyond the limit it does not matter.
	n, _ := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, s.opts.MaxBody))
	call.Bytes = int(n)
	s.distort(w, r, f, answer{}, call)
}

// distort sends what a fault makes of an answer.
func (s *Sandbox) distort(w http.ResponseWriter, r *http.Request, f *Fault, ans answer, call *Call) {
	switch f.Kind {
	case FaultHTTPStatus:
		call.Status = writeRaw(w, f.Status, f.Body)
	case FaultGarbage:
		status, body := f.Status, f.Body
		setDefault(&status, http.StatusOK)
		setDefault(&body, garbageBody)
		call.Status = writeRaw(w, status, body)
	case FaultErrorCode, FaultThrottle:
		code := f.Code
		if f.Kind == FaultThrottle {
			code = CodeThrottled
		}
		call.Status, call.Code = writeAnswer(w, answer{code: code, detail: "injected fault " + f.ID}, f.Status), code
	case FaultSlowBody:
		call.Status, call.Code = s.writeSlowly(r.Context(), w, ans, time.Duration(f.Delay)), ans.code
	case FaultTruncate:
		body := ans.body()
		ans.header(w, 0, len(body))
		_, _ = w.Write(body[:len(body)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	default: // FaultDropAnswer, and nothing else gets here.
		panic(http.ErrAbortHandler)
	}
}

// body is the answer's JSON.
func (a answer) body() []byte {
	_, msg := answerFor(a.code)
	type data struct {
		Abnormal []abnormalUsage `json:"abnormal_usage_data"`
	}
	out := struct {
		Code string `json:"error_code"`
		Msg  string `json:"error_msg"`
		*data
		Data *data `json:"data,omitempty"`
	}{Code: a.code, Msg: msg}
	if len(a.abnormal) > 0 {
		if a.nested {
			out.Data = &data{a.abnormal}
		} else {
			out.data = &data{a.abnormal}
		}
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(out); err != nil { // Strings alone cannot fail to encode.
		return []byte(`{"error_code":"` + CodeInternal + `","error_msg":"System internal error."}`)
	}
	return bytes.TrimSpace(buf.Bytes())
}

// header sends the answer's status and headers; status 0 means the documented one.
func (a answer) header(w http.ResponseWriter, status, length int) int {
	if status == 0 {
		status, _ = answerFor(a.code)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json;charset=UTF-8")
	h.Set("Content-Length", strconv.Itoa(length))
	h.Set("X-Content-Type-Options", "nosniff")
	if a.detail != "" {
		h.Set("X-Sandbox-Detail", headerText(a.detail))
	}
	w.WriteHeader(status)
	return status
}

// headerText makes a detail fit for a header.
func headerText(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, clip(text, 300))
}

// writeAnswer sends an answer and returns its status; status 0 means the documented one.
func writeAnswer(w http.ResponseWriter, a answer, status int) int {
	body := a.body()
	status = a.header(w, status, len(body))
	_, _ = w.Write(body) // The caller may be gone; the request list tells what was decided.
	return status
}

// writeRaw sends a status and a body that is not the API's.
func writeRaw(w http.ResponseWriter, status int, body string) int {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	if status != http.StatusNoContent && status != http.StatusNotModified {
		_, _ = io.WriteString(w, body)
	}
	return status
}

// writeSlowly sends the body byte by byte.
func (s *Sandbox) writeSlowly(ctx context.Context, w http.ResponseWriter, a answer, delay time.Duration) int {
	body := a.body()
	status := a.header(w, 0, len(body))
	flush := http.NewResponseController(w)
	for i := range body {
		_, _ = w.Write(body[i : i+1])
		_ = flush.Flush()
		if wait(ctx, delay) != nil {
			panic(http.ErrAbortHandler)
		}
	}
	return status
}

// wait waits in real time, unless the caller leaves first.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
