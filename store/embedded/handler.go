package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/meterd/meterd/internal/killpoint"
)

// stallTimeout ends a request whose client neither sends nor takes bytes for so long, and so gives its connection back.
const stallTimeout = 60 * time.Second

// handler answers the part of ClickHouse's HTTP interface that clickhouse-go uses.
type handler struct {
	pool      *pool
	durable   *durability
	logger    *slog.Logger
	hello     hello
	spoolDir  string        // where large bodies go
	bodyLimit int64         // bytes of one insert
	inserts   chan struct{} // one slot for every body held at once
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/ping" && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		if err := h.pool.ping(); err != nil {
			writeError(w, err)
			return
		}
		_, _ = io.WriteString(w, "Ok.\n")
	case r.URL.Path != "/":
		http.Error(w, "embedded engine: only / and /ping are served", http.StatusNotFound)
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "embedded engine: send statements by POST", http.StatusMethodNotAllowed)
	default:
		if err := h.serveStatement(w, r); err != nil {
			h.fail(w, r, err)
		}
	}
}

// fail answers an error. When the client is gone nobody reads it; that is not worth a log line.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil {
		h.logger.Debug("statement failed", "err", err)
	}
	writeError(w, err)
}

func (h *handler) serveStatement(w http.ResponseWriter, r *http.Request) error {
	control := http.NewResponseController(w)
	r.Body = &progressBody{ReadCloser: r.Body, control: control}
	req, err := parseRequest(r)
	if err != nil {
		return clientError(err)
	}
	if req.queryID != "" {
		w.Header().Set("X-ClickHouse-Query-Id", headerValue(req.queryID))
	}
	if req.statement.kind == kindInsertBody {
		return h.serveInsert(w, r, req, control)
	}
	if req.format == "Native" && isHello(req.sql) {
		answer, err := h.hello.encode(req.revision)
		if err != nil {
			return err
		}
		return writeAnswer(w, "Native", answer)
	}
	// A read deadline would also end the server's watch for a client that leaves.
	_ = control.SetReadDeadline(time.Time{})
	return h.pool.run(r.Context(), func(c *conn) error {
		if err := c.prepare(req.database, req.settings); err != nil {
			return err
		}
		switch req.statement.kind {
		case kindSelect:
			return h.answerStream(w, c, req, control)
		case kindChange:
			return h.answerChange(w, c, req)
		case kindInsertInline:
			return h.answerInsert(w, c, req)
		case kindSession:
			// Answered as over HTTP without a session: it works and lasts no longer than the request.
			c.dirty = true
			return h.answerWhole(w, c, req)
		default:
			return h.answerWhole(w, c, req)
		}
	})
}

// answerStream sends a SELECT block by block. An error before the first block is an error of the request; a later one
// is written into the answer in the frame that ClickHouse uses for it.
func (h *handler) answerStream(w http.ResponseWriter, c *conn, req *request, control *http.ResponseController) error {
	s, err := c.stream(req.sql, req.format)
	if err != nil {
		return err
	}
	defer s.close()
	tag := strings.ToLower(rand.Text()[:16])
	started := false
	send := func(block []byte) error {
		if !started {
			answerHeader(w, req.format)
			w.Header().Set("X-ClickHouse-Exception-Tag", tag)
			started = true
		}
		_ = control.SetWriteDeadline(time.Now().Add(stallTimeout)) //nolint:forbidigo // a socket deadline, not domain time
		_, err := w.Write(block)
		return err
	}
	for {
		more, err := s.next(send)
		var engineErr *Error
		switch {
		case err == nil && more:
		case err == nil && !started:
			return writeAnswer(w, req.format, nil)
		case err == nil:
			return nil
		case !started:
			return err
		case errors.As(err, &engineErr):
			writeExceptionFrame(w, tag, engineErr)
			return nil
		default:
			return nil // the client is gone
		}
	}
}

func (h *handler) answerWhole(w http.ResponseWriter, c *conn, req *request) error {
	res, err := c.query(req.sql, req.format)
	if err != nil {
		return err
	}
	defer res.close()
	return writeAnswer(w, req.format, res.bytes())
}

// answerChange runs DDL and makes its files durable.
func (h *handler) answerChange(w http.ResponseWriter, c *conn, req *request) error {
	h.durable.forget()
	killpoint.Hit("engine.change.before")
	res, err := c.query(req.sql, req.format)
	h.durable.forget()
	if err != nil {
		return err
	}
	defer res.close()
	if changesFiles(req.sql) {
		if err := h.durable.syncAll(); err != nil {
			return err
		}
	}
	killpoint.Hit("engine.change.done")
	return writeAnswer(w, req.format, res.bytes())
}

// answerInsert runs INSERT … VALUES and INSERT … SELECT, whose rows are in the text or in the engine.
func (h *handler) answerInsert(w http.ResponseWriter, c *conn, req *request) error {
	res, err := c.query(req.sql, req.format)
	if err != nil {
		return err
	}
	defer res.close()
	if err := h.durable.inserted(c, req.statement.database, req.statement.table); err != nil {
		return err
	}
	return writeSummary(w, res.rowsWritten(), res.rowsWritten())
}

// serveInsert stores the request's rows in an anonymous file, lets the engine insert from it and compares the counts.
func (h *handler) serveInsert(w http.ResponseWriter, r *http.Request, req *request, control *http.ResponseController) error {
	if !strings.EqualFold(req.statement.format, "Native") {
		return bridgeError(codeNotImplemented, "INSERT … FORMAT %s with rows in the body: only Native is supported. (NOT_IMPLEMENTED)", req.statement.format)
	}
	select {
	case h.inserts <- struct{}{}:
		defer func() { <-h.inserts }()
	case <-r.Context().Done():
		return r.Context().Err()
	}
	rows, err := readBody(r.Body, h.spoolDir, h.bodyLimit)
	if err != nil {
		return clientError(err)
	}
	defer rows.close()
	if rows.size == 0 {
		return bridgeError(codeNoData, "insert without rows. (NO_DATA_TO_INSERT)")
	}
	head, err := rows.head()
	if err != nil {
		return err
	}
	if names := req.statement.columns; names != nil && uint64(len(names)) != head.columns {
		return bridgeError(codeBadArguments, "insert into %d columns has a body of %d columns. (BAD_ARGUMENTS)", len(names), head.columns)
	}
	_ = control.SetReadDeadline(time.Time{})
	return h.pool.run(r.Context(), func(c *conn) error {
		if err := c.prepare(req.database, req.settings); err != nil {
			return err
		}
		return h.insert(w, c, req, rows, head.rows)
	})
}

// insert runs the insert from the body's file. announced is the row count of the body's first block.
func (h *handler) insert(w http.ResponseWriter, c *conn, req *request, rows *body, announced uint64) error {
	file := "file(" + quoteString(rows.path()) + ", 'Native')"
	killpoint.Hit("engine.insert.before")
	res, err := c.query(req.statement.insert+" SELECT "+selectList(req.statement.columns)+" FROM "+file, req.format)
	if err != nil {
		return err
	}
	written := res.rowsWritten()
	res.close()
	sent := announced
	if written != announced {
		// Rows are missing, or the body has several blocks, or a materialized view wrote more: count again.
		if sent, err = c.count(file); err != nil {
			return err
		}
	}
	if written < sent {
		return bridgeError(codeUnknown, "insert into %.100q wrote %d of %d rows: repeat the whole insert. (UNKNOWN_EXCEPTION)", req.statement.table, written, sent)
	}
	if err := h.durable.inserted(c, req.statement.database, req.statement.table); err != nil {
		return err
	}
	killpoint.Hit("engine.insert.done")
	return writeSummary(w, sent, written)
}

// selectList takes the columns by name, so that a body with other names is an error, not rows in wrong columns.
func selectList(columns []string) string {
	if columns == nil {
		return "*"
	}
	quoted := make([]string, len(columns))
	for i, name := range columns {
		quoted[i] = quoteName(name)
	}
	return strings.Join(quoted, ", ")
}

// progressBody lets a body take as long as it likes while bytes keep coming.
type progressBody struct {
	io.ReadCloser
	control *http.ResponseController
}

func (b *progressBody) Read(p []byte) (int, error) {
	_ = b.control.SetReadDeadline(time.Now().Add(stallTimeout)) //nolint:forbidigo // a socket deadline, not domain time
	return b.ReadCloser.Read(p)
}

// clientError turns failures of reading a request into an error with a status of its own.
func clientError(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return bridgeError(codeTimeout, "request body stalled for %v. (SOCKET_TIMEOUT)", stallTimeout)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.Canceled) {
		return bridgeError(codeBadArguments, "request body ended early: %v. (BAD_ARGUMENTS)", err)
	}
	return err
}

func answerHeader(w http.ResponseWriter, format string) {
	header := w.Header()
	header.Set("Content-Type", "application/octet-stream")
	header.Set("X-ClickHouse-Format", format)
	header.Set("X-ClickHouse-Timezone", "UTC")
}

// writeAnswer sends a whole answer with its length; length 0 is how clickhouse-go recognises "no result".
func writeAnswer(w http.ResponseWriter, format string, answer []byte) error {
	answerHeader(w, format)
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	_, _ = w.Write(answer) //nolint:gosec // G705: query results for a database driver, never HTML
	return nil
}

// writeSummary answers an insert with the rows sent and the rows written, which include those of materialized views.
func writeSummary(w http.ResponseWriter, read, written uint64) error {
	w.Header().Set("X-ClickHouse-Summary", fmt.Sprintf(`{"read_rows":"%d","written_rows":"%d"}`, read, written))
	return writeAnswer(w, "Native", nil)
}

func writeError(w http.ResponseWriter, err error) {
	code, e := status(err)
	header := w.Header()
	header.Set("Content-Type", "text/plain; charset=UTF-8")
	header.Set("X-ClickHouse-Exception-Code", strconv.Itoa(e.Code))
	w.WriteHeader(code)
	_, _ = io.WriteString(w, e.Error()+"\n")
}

// writeExceptionFrame marks an error in the middle of an answer, as ClickHouse's HTTP interface does.
func writeExceptionFrame(w io.Writer, tag string, e *Error) {
	const marker, maxText = "__exception__", 15 << 10
	text := e.Error()
	text = text[:min(len(text), maxText)]
	_, _ = fmt.Fprintf(w, "\r\n%s\r\n%s\r\n%s\n%d %s\r\n%s\r\n", marker, tag, text, len(text)+1, tag, marker)
}

// headerValue keeps printable ASCII: a query ID comes from outside.
func headerValue(s string) string {
	return strings.Map(func(c rune) rune {
		if c < 0x20 || c > 0x7e {
			return '_'
		}
		return c
	}, s[:min(len(s), 200)])
}
