package httpapi

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// outputChunk is how much of an answer is collected before it is sent. An error before that is an ordinary answer.
const outputChunk = 64 << 10

// output is an answer of any length. It is collected up to outputChunk and then sent in parts; a reader that takes none for
// longer than the request's time is cut off.
type output struct {
	api      *API
	w        *response
	media    string
	filename string
	// pause is how long the next part may take to be made; 0: no longer than it may take to be sent. HTTP/2 ends a stream
	// whose deadline passes also while nothing is written.
	pause time.Duration
	body  *body
	buf   []byte
}

func (a *API) newOutput(w *response, media string) *output {
	b := bodies.Get().(*body)
	return &output{api: a, w: w, media: media, body: b, buf: b.data[:0]}
}

func (o *output) release() {
	o.body.data = o.buf
	o.body.release()
}

// Write collects a part of the answer, so that an encoder can write to it.
func (o *output) Write(p []byte) (int, error) {
	o.buf = append(o.buf, p...)
	if err := o.flushIfLarge(); err != nil {
		return 0, err
	}
	return len(p), nil
}

// flushIfLarge sends what is collected once it is worth it.
func (o *output) flushIfLarge() error {
	if len(o.buf) < outputChunk {
		return nil
	}
	return o.flush()
}

func (o *output) flush() error {
	o.header()
	_ = o.w.control.SetWriteDeadline(machineTime().Add(o.api.o.RequestTimeout))
	_, err := o.w.Write(o.buf)
	o.buf = o.buf[:0]
	if err != nil {
		return errAborted
	}
	if o.pause > 0 {
		_ = o.w.control.SetWriteDeadline(machineTime().Add(o.pause))
	}
	return nil
}

// header sets the headers before the first byte.
func (o *output) header() {
	if o.w.status != 0 {
		return
	}
	h := o.w.Header()
	h.Set("Content-Type", o.media)
	if o.media == mediaCSV {
		h.Set("Content-Type", mediaCSV+"; charset=utf-8; header=present")
		h.Set("Content-Disposition", `attachment; filename="`+o.filename+`"`)
	}
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept")
}

// finish sends the rest.
func (o *output) finish() error {
	if o.w.status == 0 {
		o.w.Header().Set("Content-Length", strconv.Itoa(len(o.buf)))
	}
	return o.flush()
}

// fail returns err if the client can still be told; else the connection must be cut, so that half an answer isn't taken for
// a whole one.
func (o *output) fail(err error) error {
	if o.w.status != 0 {
		o.api.o.Logger.Warn("answer broken off", "request_id", o.w.requestID, "err", err)
		return errAborted
	}
	return err
}

// csvRow appends a line of CSV (RFC 4180, but with \n).
func (o *output) csvRow(fields ...string) {
	for i, f := range fields {
		if i > 0 {
			o.buf = append(o.buf, ',')
		}
		if !strings.ContainsAny(f, ",\"\r\n") && !strings.HasPrefix(f, " ") && !strings.HasSuffix(f, " ") {
			o.buf = append(o.buf, f...)
			continue
		}
		o.buf = append(o.buf, '"')
		o.buf = append(o.buf, strings.ReplaceAll(f, `"`, `""`)...)
		o.buf = append(o.buf, '"')
	}
	o.buf = append(o.buf, '\n')
}

// csvText keeps a spreadsheet from reading a text that somebody else chose, such as a sender or the marketplace, as a formula.
func csvText(text string) string {
	if text != "" && strings.ContainsRune("=+-@\t\r", rune(text[0])) {
		return "'" + text
	}
	return text
}

// csvTime is a time in UTC, empty for the zero time.
func csvTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// link adds a Link header to the next page.
func link(w *response, r *http.Request, param, value string) {
	u := *r.URL
	q := u.Query()
	q.Set(param, value)
	u.RawQuery = q.Encode()
	w.Header().Add("Link", "<"+u.RequestURI()+">; rel=\"next\"")
}
