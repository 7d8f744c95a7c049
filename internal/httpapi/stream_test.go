package httpapi_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/meter/spool"
)

// chunkAnswer is one line of a stream's answer.
type chunkAnswer struct {
	FromLine int `json:"from_line"`
	ToLine   int `json:"to_line"`
	Accepted int `json:"accepted"`
	Rejected int `json:"rejected"`
	Errors   []struct {
		Line   int          `json:"line"`
		Reason meter.Reason `json:"reason"`
	} `json:"errors"`
	Error *struct {
		Type   string `json:"type"`
		Status int    `json:"status"`
	} `json:"error"`
	RetryAfter int `json:"retry_after"`
}

// streamClient is one open stream.
type streamClient struct {
	t      *testing.T
	body   *io.PipeWriter
	answer chan *http.Response
	lines  *bufio.Reader
}

// protocols are the ways to stream.
var protocols = map[string]func() http.RoundTripper{
	"http/1.1": func() http.RoundTripper { return &http.Transport{} },
	"h2c": func() http.RoundTripper {
		p := new(http.Protocols)
		p.SetUnencryptedHTTP2(true)
		return &http.Transport{Protocols: p}
	},
}

// openStream starts a request whose body is written by hand.
func openStream(t *testing.T, b *bundle, transport http.RoundTripper, headers ...string) *streamClient {
	t.Helper()
	reader, writer := io.Pipe()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, b.server.URL+"/api/v1/events", reader)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Api-Key", ingestKey)
	r.Header.Set("Content-Type", "application/x-ndjson; charset=utf-8")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	s := &streamClient{t: t, body: writer, answer: make(chan *http.Response, 1)}
	go func() {
		res, err := transport.RoundTrip(r)
		if err != nil {
			t.Errorf("round trip: %v", err)
			close(s.answer)
			return
		}
		s.answer <- res
	}()
	t.Cleanup(func() {
		_ = writer.Close()
		if c, ok := transport.(interface{ CloseIdleConnections() }); ok {
			c.CloseIdleConnections()
		}
	})
	return s
}

// write sends a part of the body; it returns once the transport has taken it.
func (s *streamClient) write(text string) {
	s.t.Helper()
	if _, err := io.WriteString(s.body, text); err != nil {
		s.t.Fatalf("write: %v", err)
	}
}

// response waits for the header of the answer.
func (s *streamClient) response() *http.Response {
	s.t.Helper()
	select {
	case res, ok := <-s.answer:
		if !ok {
			s.t.Fatal("no answer")
		}
		s.t.Cleanup(func() { _ = res.Body.Close() })
		s.lines = bufio.NewReader(res.Body)
		return res
	case <-time.After(20 * time.Second):
		s.t.Fatal("no answer in time")
	}
	return nil
}

// next reads one line of answer.
func (s *streamClient) next() chunkAnswer {
	s.t.Helper()
	if s.lines == nil {
		if res := s.response(); res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "application/x-ndjson" {
			s.t.Fatalf("answer = %d %v", res.StatusCode, res.Header)
		}
	}
	line, err := s.lines.ReadBytes('\n')
	if err != nil {
		s.t.Fatalf("read a line of answer: %v (%q)", err, line)
	}
	var c chunkAnswer
	if err := json.Unmarshal(line, &c); err != nil {
		s.t.Fatalf("answer %q: %v", line, err)
	}
	return c
}

// end expects that no more comes.
func (s *streamClient) end() {
	s.t.Helper()
	if rest, err := io.ReadAll(s.lines); err != nil || len(rest) > 0 {
		s.t.Errorf("after the last answer: %q, %v; want the end", rest, err)
	}
}

func eachProtocol(t *testing.T, test func(t *testing.T, transport http.RoundTripper)) {
	t.Helper()
	for name, transport := range protocols {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, transport())
		})
	}
}

// TestStream_AnswersWhileOpen reads answers before the body ends: what was answered is durable.
func TestStream_AnswersWhileOpen(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, transport http.RoundTripper) {
		t.Helper()
		b := setup(t, func(o *httpapi.Options) { o.StreamDelay = time.Millisecond })
		s := openStream(t, b, transport)
		s.write(event("a") + "\n")
		if got, want := s.next(), (chunkAnswer{FromLine: 1, ToLine: 1, Accepted: 1}); !cmp.Equal(got, want) {
			t.Errorf("first answer = %+v, want %+v", got, want)
		}
		if got := b.stored(t); len(got) != 1 {
			t.Errorf("stored after the first answer = %v", got)
		}
		s.write("\n  \r\n" + event("b")[:20])
		if got, want := s.next(), (chunkAnswer{FromLine: 2, ToLine: 3}); !cmp.Equal(got, want) {
			t.Errorf("answer to blank lines = %+v, want %+v", got, want)
		}
		s.write(event("b")[20:] + "\n")
		if got, want := s.next(), (chunkAnswer{FromLine: 4, ToLine: 4, Accepted: 1}); !cmp.Equal(got, want) {
			t.Errorf("answer to a line in two parts = %+v, want %+v", got, want)
		}
		s.write(event("c")) // no line break at the end of the body
		_ = s.body.Close()
		if got, want := s.next(), (chunkAnswer{FromLine: 5, ToLine: 5, Accepted: 1}); !cmp.Equal(got, want) {
			t.Errorf("last answer = %+v, want %+v", got, want)
		}
		s.end()
		if got := b.stored(t); len(got) != 3 {
			t.Errorf("stored = %v", got)
		}
	})
}

// TestStream_Chunks: a chunk is full at the number of events permitted, however the bytes arrive.
func TestStream_Chunks(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, transport http.RoundTripper) {
		t.Helper()
		b := setup(t, func(o *httpapi.Options) {
			o.StreamEvents = 7
			o.StreamDelay = time.Hour
		})
		s := openStream(t, b, transport)
		const events = 500
		go func() {
			for i := range events {
				if _, err := io.WriteString(s.body, event(strconv.Itoa(i))+"\n"); err != nil {
					t.Errorf("write: %v", err)
				}
			}
			_ = s.body.Close()
		}()
		line, accepted := 1, 0
		for accepted < events {
			got := s.next()
			if got.FromLine != line || got.Accepted > 7 || got.Accepted == 0 || got.Accepted < 7 && got.ToLine != events || got.Error != nil {
				t.Fatalf("answer = %+v at line %d", got, line)
			}
			line, accepted = got.ToLine+1, accepted+got.Accepted
		}
		s.end()
		if got := b.stored(t); len(got) != events || !strings.HasPrefix(got[events-1], "499 ") {
			t.Errorf("stored %d events, last %q", len(got), got[len(got)-1])
		}
	})
}

// TestStream_BadLines are refused by line number; the others of the chunk are kept.
func TestStream_BadLines(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, transport http.RoundTripper) {
		t.Helper()
		b := setup(t, func(o *httpapi.Options) {
			o.StreamDelay = time.Hour
			o.Decode.MaxEventBytes = 300
		})
		s := openStream(t, b, transport)
		s.write(strings.Join([]string{
			event("a"), "", "{", strings.Repeat("x", 100_000), event("long")[:100] + strings.Repeat(" ", 300), event("b"), "7", "",
		}, "\n"))
		_ = s.body.Close()
		got := s.next()
		if got.Accepted != 2 || got.Rejected != 4 || got.FromLine != 1 || got.ToLine != 7 {
			t.Errorf("answer = %+v, want 2 accepted and 4 rejected of lines 1 to 7", got)
		}
		var errs []string
		for _, e := range got.Errors {
			errs = append(errs, fmt.Sprint(e.Line, " ", e.Reason))
		}
		if d := cmp.Diff([]string{"3 malformed_json", "4 event_too_large", "5 event_too_large", "7 not_an_object"}, errs); d != "" {
			t.Errorf("errors (-want +got):\n%s", d)
		}
		s.end()
		if letters, _, err := b.letters.List(0, 10); err != nil || len(letters) != 4 {
			t.Errorf("dead letters = %d, %v; want 4", len(letters), err)
		}
	})
}

// TestStream_Gzip decompresses what was flushed so far.
func TestStream_Gzip(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, transport http.RoundTripper) {
		t.Helper()
		b := setup(t, func(o *httpapi.Options) { o.StreamDelay = time.Millisecond })
		s := openStream(t, b, transport, "Content-Encoding: gzip")
		z := gzip.NewWriter(s.body)
		for i := range 3 {
			_, _ = io.WriteString(z, event(strconv.Itoa(i))+"\n")
			_ = z.Flush()
			if got := s.next(); got.FromLine != i+1 || got.Accepted != 1 {
				t.Fatalf("answer = %+v", got)
			}
		}
		_ = z.Close()
		_ = s.body.Close()
		s.end()
	})
}

// TestStream_Empty is answered with 204.
func TestStream_Empty(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, transport http.RoundTripper) {
		t.Helper()
		b := setup(t, nil)
		s := openStream(t, b, transport)
		_ = s.body.Close()
		if res := s.response(); res.StatusCode != http.StatusNoContent {
			t.Errorf("status = %d, want 204", res.StatusCode)
		}
	})
}

// TestStream_BrokenCompression keeps what could be read and says where it ended.
func TestStream_BrokenCompression(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, transport http.RoundTripper) {
		t.Helper()
		b := setup(t, nil)
		s := openStream(t, b, transport, "Content-Encoding: gzip")
		s.write("this is no gzip at all, not even nearly\n")
		res := s.response()
		text, _ := io.ReadAll(res.Body)
		wantProblem(t, answer{res.StatusCode, res.Header, string(text)}, 400, "invalid-request")
	})
}

// TestStream_SlowLine: a line that is begun must be completed within the request's time; a silent stream lives longer.
func TestStream_SlowLine(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, transport http.RoundTripper) {
		t.Helper()
		b := setup(t, func(o *httpapi.Options) {
			o.StreamDelay = time.Millisecond
			o.RequestTimeout = 200 * time.Millisecond
			o.StreamIdle = 20 * time.Second
		})
		s := openStream(t, b, transport)
		s.write(event("a") + "\n")
		if got := s.next(); got.Accepted != 1 {
			t.Fatalf("first answer = %+v", got)
		}
		s.write(`{"specversion":`)
		got := s.next()
		if got.Error == nil || got.Error.Status != http.StatusRequestTimeout || got.FromLine != 2 {
			t.Errorf("answer = %+v, want the error 408 from line 2 on", got)
		}
	})
}

// TestStream_Silent: a stream without any event ends after a while, with an ordinary 408.
func TestStream_Silent(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, transport http.RoundTripper) {
		t.Helper()
		b := setup(t, func(o *httpapi.Options) { o.StreamIdle = 100 * time.Millisecond })
		s := openStream(t, b, transport)
		res := s.response()
		text, _ := io.ReadAll(res.Body)
		wantProblem(t, answer{res.StatusCode, res.Header, string(text)}, http.StatusRequestTimeout, "timeout")
	})
}

// TestStream_Drain: a shutdown ends streams after what arrived was made durable.
func TestStream_Drain(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, transport http.RoundTripper) {
		t.Helper()
		b := setup(t, func(o *httpapi.Options) { o.StreamDelay = time.Millisecond })
		s := openStream(t, b, transport)
		s.write(event("a") + "\n")
		if got := s.next(); got.Accepted != 1 {
			t.Fatalf("first answer = %+v", got)
		}
		b.server.Config.RegisterOnShutdown(b.api.Drain)
		down := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			down <- b.server.Config.Shutdown(ctx)
		}()
		got := s.next()
		if got.Error == nil || got.Error.Status != http.StatusServiceUnavailable || got.FromLine != 2 || got.RetryAfter == 0 {
			t.Errorf("answer = %+v, want the error 503 from line 2 on", got)
		}
		_ = s.body.Close()
		if err := <-down; err != nil {
			t.Errorf("Shutdown = %v, want it not to wait for the stream", err)
		}
	})
}

// TestStream_DrainWhileSending: a client that goes on sending during a shutdown still gets every answer.
func TestStream_DrainWhileSending(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *httpapi.Options) { o.StreamDelay, o.StreamEvents = time.Millisecond, 10 })
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", b.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	chunk := func(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }
	fmt.Fprintf(conn, "POST /api/v1/events HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer %s\r\nContent-Type: application/x-ndjson\r\n"+
		"Transfer-Encoding: chunked\r\n\r\n%s", ingestKey, chunk(event("first")+"\n"))
	reader := bufio.NewReader(conn)
	res, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.server.Config.RegisterOnShutdown(b.api.Drain)
	down := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		down <- b.server.Config.Shutdown(ctx)
	}()
	enough, sent := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			text := chunk(event(fmt.Sprint("more-", i)) + "\n")
			select {
			case <-enough:
				text = chunk("")
			default:
			}
			if _, err := io.WriteString(conn, text); err != nil || text == chunk("") {
				sent <- err
				return
			}
		}
	}()
	var last struct {
		FromLine int `json:"from_line"`
		Error    *struct{ Status int }
	}
	answers := bufio.NewScanner(res.Body)
	for last.Error == nil && answers.Scan() {
		if err := json.Unmarshal(answers.Bytes(), &last); err != nil {
			t.Fatal(err)
		}
	}
	if last.Error == nil || last.Error.Status != http.StatusServiceUnavailable {
		t.Fatalf("the answers end with %q, %v; want the error 503", answers.Text(), answers.Err())
	}
	close(enough)
	if err := <-sent; err != nil {
		t.Errorf("sending after the error: %v, want the connection to last a little longer", err)
	}
	if answers.Scan() || answers.Err() != nil {
		t.Errorf("after the error: %q, %v; want the end", answers.Text(), answers.Err())
	}
	if err := <-down; err != nil {
		t.Errorf("Shutdown = %v, want it not to wait for the stream", err)
	}
	if stored := len(b.stored(t)); stored != last.FromLine-1 {
		t.Errorf("%d events stored, %d answered", stored, last.FromLine-1)
	}
}

// TestStream_SpoolFull ends the stream with the line from which on nothing is stored.
func TestStream_SpoolFull(t *testing.T) {
	t.Parallel()
	eachProtocol(t, func(t *testing.T, transport http.RoundTripper) {
		t.Helper()
		b := setupSpool(t, spool.Options{MaxBytes: 16 << 10, SegmentBytes: 8 << 10}, func(o *httpapi.Options) { o.StreamDelay = time.Millisecond })
		s := openStream(t, b, transport)
		line := 0
		for i := 0; ; i++ {
			s.write(noisyEvent(i) + "\n")
			got := s.next()
			if got.Error == nil {
				line = got.ToLine
				continue
			}
			if got.Error.Type != "urn:meterd:problem:spool-full" || got.FromLine != line+1 || got.RetryAfter == 0 {
				t.Errorf("answer = %+v, want spool-full from line %d on", got, line+1)
			}
			break
		}
		if line == 0 || len(b.stored(t)) != line {
			t.Errorf("stored %d events, answered %d", len(b.stored(t)), line)
		}
	})
}

// TestStream_SpoolFullAtOnce is an ordinary 429, because no answer was begun.
func TestStream_SpoolFullAtOnce(t *testing.T) {
	t.Parallel()
	b := setupSpool(t, spool.Options{MaxBytes: 16 << 10, SegmentBytes: 8 << 10}, nil)
	fillSpool(t, b)
	s := openStream(t, b, protocols["http/1.1"]())
	s.write(noisyEvent(0) + "\n")
	res := s.response()
	text, _ := io.ReadAll(res.Body)
	wantProblem(t, answer{res.StatusCode, res.Header, string(text)}, http.StatusTooManyRequests, "spool-full")
	if res.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

// noisyEvent is an event of about 1 KB that doesn't compress.
func noisyEvent(i int) string {
	var noise strings.Builder
	seed := uint64(i)*2654435761 + 1
	for range 60 {
		seed = seed*6364136223846793005 + 1442695040888963407
		fmt.Fprintf(&noise, "%016x", seed)
	}
	return fmt.Sprintf(`{"specversion":"1.0","id":"n-%d","source":"/t","type":"other","subject":"s","time":"2026-11-23T10:00:00Z","data":{"noise":%q}}`, i, noise.String())
}

// fillSpool sends events until the spool is full.
func fillSpool(t *testing.T, b *bundle) answer {
	t.Helper()
	for i := range 1000 {
		if a := b.post(t, noisyEvent(i)); a.status != http.StatusNoContent {
			return a
		}
	}
	t.Fatal("the spool doesn't get full")
	return answer{}
}
