package httpapi_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/meter/spool"
)

// TestBadEvents sends one bad event in a batch with a good one. docs/bad-input.md names each case.
func TestBadEvents(t *testing.T) {
	t.Parallel()
	good := event("good")
	with := func(old, text string) string { return strings.Replace(event("bad"), old, text, 1) }
	tests := map[string]struct {
		event  string
		reason meter.Reason
		field  string
	}{
		"malformed JSON":            {`{"id":`, meter.ReasonMalformed, ""},
		"trailing comma":            {with(`"model":"m"`, `"model":"m",`), meter.ReasonMalformed, ""},
		"bad UTF-8":                 {with("tenant-1", "tenant-\xff"), meter.ReasonMalformed, ""},
		"lone surrogate":            {with("tenant-1", `tenant-\ud800`), meter.ReasonMalformed, ""},
		"duplicate key":             {with(`"id":"bad"`, `"id":"bad","id":"worse"`), meter.ReasonDuplicateKey, ""},
		"duplicate key in data":     {with(`"tokens":5`, `"tokens":5,"tokens":6`), meter.ReasonDuplicateKey, ""},
		"deep nesting":              {with(`"m"`, strings.Repeat("[", 100)+strings.Repeat("]", 100)), meter.ReasonTooDeep, ""},
		"not an object":             {`"text"`, meter.ReasonNotAnObject, ""},
		"too large an event":        {with(`"m"`, `"`+strings.Repeat("m", 300<<10)+`"`), meter.ReasonEventTooLarge, ""},
		"missing id":                {with(`"id":"bad",`, ""), meter.ReasonMissing, "id"},
		"empty subject":             {with("tenant-1", ""), meter.ReasonMissing, "subject"},
		"wrong type of id":          {with(`"id":"bad"`, `"id":7`), meter.ReasonWrongType, "id"},
		"null type":                 {with(`"type":"prompt"`, `"type":null`), meter.ReasonMissing, "type"},
		"long subject":              {with("tenant-1", strings.Repeat("s", 1025)), meter.ReasonTooLong, "subject"},
		"control character":         {with("tenant-1", `a\u0000b`), meter.ReasonCharacters, "subject"},
		"wrong case of a name":      {with(`"subject"`, `"Subject"`), meter.ReasonAttributeName, ""},
		"other CloudEvents version": {with(`"1.0"`, `"0.3"`), meter.ReasonSpecVersion, "specversion"},
		"time of another form":      {with("2026-11-23T10:00:00Z", "23.11.2026"), meter.ReasonTime, "time"},
		"time without a zone":       {with("2026-11-23T10:00:00Z", "2026-11-23T10:00:00"), meter.ReasonTime, "time"},
		"time in the year 9999":     {with("2026-11-23", "9999-11-23"), meter.ReasonTime, "time"},
		"time far in the future":    {with("2026-11-23T10", "2026-11-24T10"), meter.ReasonTimeInFuture, "time"},
		"time far in the past":      {with("2026-11-23", "2026-10-01"), meter.ReasonTimeTooOld, "time"},
		"data of another type":      {with(`"data"`, `"datacontenttype":"text/xml","data"`), meter.ReasonContentType, "datacontenttype"},
		"data twice":                {with(`"data"`, `"data_base64":"e30=","data"`), meter.ReasonData, "data_base64"},
		"value missing":             {with(`"tokens":5,`, ""), meter.ReasonValueMissing, "$.tokens"},
		"value null":                {with(`"tokens":5`, `"tokens":null`), meter.ReasonValueMissing, "$.tokens"},
		"value of another type":     {with(`"tokens":5`, `"tokens":true`), meter.ReasonValueType, "$.tokens"},
		"NaN":                       {with(`"tokens":5`, `"tokens":NaN`), meter.ReasonMalformed, ""},
		"NaN as a text":             {with(`"tokens":5`, `"tokens":"NaN"`), meter.ReasonValueNumber, "$.tokens"},
		"hexadecimal text":          {with(`"tokens":5`, `"tokens":"0x10"`), meter.ReasonValueNumber, "$.tokens"},
		"decimal comma":             {with(`"tokens":5`, `"tokens":"1,5"`), meter.ReasonValueNumber, "$.tokens"},
		"negative value":            {with(`"tokens":5`, `"tokens":-5`), meter.ReasonValueNegative, "$.tokens"},
		"huge value":                {with(`"tokens":5`, `"tokens":1000000000000000`), meter.ReasonValueTooLarge, "$.tokens"},
		"huge exponent":             {with(`"tokens":5`, `"tokens":1e999999999`), meter.ReasonValueTooLarge, "$.tokens"},
		"too many decimals":         {with(`"tokens":5`, `"tokens":0.1234567890123456789`), meter.ReasonValueTooFine, "$.tokens"},
		"dimension of another type": {with(`"model":"m"`, `"model":{"a":1}`), meter.ReasonDimension, "$.model"},
	}
	b := setup(t, nil)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before := b.ingester.Stats()
			p := wantProblem(t, b.post(t, "["+good+","+tt.event+"]"), http.StatusBadRequest, "invalid-events")
			e := firstError(p)
			field, _ := e["field"].(string)
			if e["index"] != 1.0 || e["reason"] != string(tt.reason) || tt.field != "" && field != tt.field || e["detail"] == "" {
				t.Errorf("error = %v, want index 1, reason %s, field %q", e, tt.reason, tt.field)
			}
			after := b.ingester.Stats()
			if after.Rejected[tt.reason] != before.Rejected[tt.reason]+1 {
				t.Errorf("rejected{%s} went from %d to %d, want one more", tt.reason, before.Rejected[tt.reason], after.Rejected[tt.reason])
			}
			if after.Accepted != 0 {
				t.Errorf("%d events accepted, want none", after.Accepted)
			}
		})
	}
}

// TestBadRequests sends requests that are refused before their events are looked at.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	one := event("a")
	bomb := strings.Repeat("0", 4<<20)
	tests := map[string]struct {
		method, path, key, body string
		headers                 []string
		status                  int
		code                    string
	}{
		"no body":                     {body: "", headers: []string{"Content-Type: application/json"}, status: 400, code: "invalid-request"},
		"only white space":            {body: " \n ", headers: []string{"Content-Type: application/json"}, status: 400, code: "invalid-request"},
		"unknown content type":        {body: one, headers: []string{"Content-Type: text/xml"}, status: 415, code: "unsupported-media-type"},
		"form content type":           {body: one, headers: []string{"Content-Type: application/x-www-form-urlencoded"}, status: 415, code: "unsupported-media-type"},
		"unknown event format":        {body: one, headers: []string{"Content-Type: application/cloudevents+avro"}, status: 415, code: "unsupported-media-type"},
		"no content type and no JSON": {body: "id=1", status: 415, code: "unsupported-media-type"},
		"other charset":               {body: one, headers: []string{"Content-Type: application/json; charset=utf-16"}, status: 415, code: "unsupported-media-type"},
		"unknown encoding":            {body: one, headers: []string{"Content-Encoding: br"}, status: 415, code: "unsupported-media-type"},
		"encoded twice":               {body: one, headers: []string{"Content-Encoding: gzip, zstd"}, status: 415, code: "unsupported-media-type"},
		"broken gzip":                 {body: gzipped(t, one)[:40], headers: []string{"Content-Encoding: gzip"}, status: 400, code: "invalid-request"},
		"no gzip":                     {body: one, headers: []string{"Content-Encoding: gzip"}, status: 400, code: "invalid-request"},
		"broken zstd":                 {body: zstded(t, one)[:20], headers: []string{"Content-Encoding: zstd"}, status: 400, code: "invalid-request"},
		"oversized body":              {body: bomb, headers: []string{"Content-Type: application/json"}, status: 413, code: "too-large"},
		"gzip bomb":                   {body: gzipped(t, bomb), headers: []string{"Content-Encoding: gzip"}, status: 413, code: "too-large"},
		"zstd bomb":                   {body: zstded(t, bomb), headers: []string{"Content-Encoding: zstd"}, status: 413, code: "too-large"},
		"too many events":             {body: "[" + strings.Repeat(one+",", 100) + one + "]", status: 413, code: "too-large"},
		"one large event":             {body: strings.Replace(one, `"m"`, `"`+strings.Repeat("m", 300<<10)+`"`, 1), status: 413, code: "too-large"},
		"no key":                      {key: "none", body: one, status: 401, code: "unauthorized"},
		"wrong key":                   {key: "fake-wrong-key-00001", body: one, status: 401, code: "unauthorized"},
		"key without the scope":       {key: queryKey, body: one, status: 403, code: "forbidden"},
		"unknown path":                {path: "/api/v2/events", body: one, status: 404, code: "not-found"},
		"wrong method":                {method: "PUT", body: one, status: 405, code: "method-not-allowed"},
	}
	b := setup(t, func(o *httpapi.Options) {
		o.MaxBody = 1 << 20
		o.Decode.MaxEvents = 100
	})
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			method, path, key := tt.method, tt.path, tt.key
			if method == "" {
				method = http.MethodPost
			}
			if path == "" {
				path = "/api/v1/events"
			}
			switch key {
			case "":
				key = ingestKey
			case "none":
				key = ""
			}
			p := wantProblem(t, b.do(t, method, path, key, tt.body, tt.headers...), tt.status, tt.code)
			if p["detail"] == "" {
				t.Error("the problem has no detail")
			}
		})
	}
	if got := b.ingester.Stats().Accepted; got != 0 {
		t.Errorf("%d events accepted, want none", got)
	}
}

// TestBadRequests_MethodNotAllowed names what is allowed.
func TestBadRequests_MethodNotAllowed(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	for path, allow := range map[string]string{"/api/v1/events": "POST", "/api/v1/meters": "GET, HEAD"} {
		if a := b.do(t, http.MethodDelete, path, adminKey, ""); a.header.Get("Allow") != allow {
			t.Errorf("DELETE %s: Allow = %q, want %q", path, a.header.Get("Allow"), allow)
		}
	}
}

// TestBadRequests_SlowBody: a body that doesn't arrive is answered with 408 and frees the connection.
func TestBadRequests_SlowBody(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *httpapi.Options) { o.RequestTimeout = 100 * time.Millisecond })
	answer := b.raw(t, "POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\nx-api-key: "+ingestKey+
		"\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
	if !strings.HasPrefix(answer, "HTTP/1.1 408 ") || !strings.Contains(answer, "urn:meterd:problem:timeout") {
		t.Errorf("answer = %q, want 408", answer)
	}
}

// TestBadRequests_ShortBody: a body that ends early is no event.
func TestBadRequests_ShortBody(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", b.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	one := event("a")
	fmt.Fprintf(conn, "POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\nx-api-key: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		ingestKey, len(one)+1, one)
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		t.Fatal("no TCP connection")
	}
	_ = tcp.CloseWrite()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusBadRequest || b.ingester.Stats().Accepted != 0 {
		t.Errorf("status = %d, %d accepted; want 400 and none", res.StatusCode, b.ingester.Stats().Accepted)
	}
}

// TestBadRequests_UnreadBody: a client whose request is refused can't hold the connection with the rest of its body.
func TestBadRequests_UnreadBody(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	answer := b.raw(t, "POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\nx-api-key: wrong\r\nContent-Length: 1000\r\n\r\n{")
	if !strings.HasPrefix(answer, "HTTP/1.1 401 ") {
		t.Errorf("answer = %q, want 401", answer)
	}
}

// TestBadRequests_AnswersNotRead: a client that sends requests and doesn't read the answers is cut off.
func TestBadRequests_AnswersNotRead(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *httpapi.Options) { o.RequestTimeout = 100 * time.Millisecond })
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", b.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	requests := []byte(strings.Repeat("GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", 100))
	for err == nil {
		_, err = conn.Write(requests) // until both directions are full, and the server gives up
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the server holds a connection whose client reads nothing")
	}
}

// TestBadRequests_SpoolFull asks the client to come back.
func TestBadRequests_SpoolFull(t *testing.T) {
	t.Parallel()
	b := setupSpool(t, spool.Options{MaxBytes: 16 << 10, SegmentBytes: 8 << 10}, nil)
	a := fillSpool(t, b)
	wantProblem(t, a, http.StatusTooManyRequests, "spool-full")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if failed := b.ingester.Stats().Failed; len(failed) != 1 {
		t.Errorf("failed = %v, want the cause counted", failed)
	}
}

// TestBadRequests_Closed: the service shuts down.
func TestBadRequests_Closed(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	if err := b.spool.Close(); err != nil {
		t.Fatal(err)
	}
	a := b.post(t, event("a"))
	wantProblem(t, a, http.StatusServiceUnavailable, "unavailable")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

// failing is an ingester that fails.
type failing struct{ err error }

func (f failing) Accept(context.Context, *meter.Batch, string, meter.Mode) (meter.Verdicts, error) {
	if f.err == nil {
		panic("on purpose")
	}
	return meter.Verdicts{}, f.err
}

// TestBadRequests_Failures maps what the ingester says. No answer tells what went wrong inside.
func TestBadRequests_Failures(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		err    error
		status int
		code   string
	}{
		"full":        {meter.ErrSpoolFull, 429, "spool-full"},
		"closed":      {fmt.Errorf("x: %w", meter.ErrClosed), 503, "unavailable"},
		"unavailable": {fmt.Errorf("%w: write /secret/path: no space left", meter.ErrUnavailable), 503, "unavailable"},
		"too large":   {meter.ErrBatchTooLarge, 413, "too-large"},
		"timeout":     {context.DeadlineExceeded, 503, "unavailable"},
		"canceled":    {context.Canceled, 503, "unavailable"},
		"unknown":     {errors.New("something at /secret/path"), 500, "internal"},
		"panic":       {nil, 500, "internal"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, func(o *httpapi.Options) { o.Ingester = failing{tt.err} })
			a := b.post(t, event("a"))
			wantProblem(t, a, tt.status, tt.code)
			if strings.Contains(a.body, "secret") || strings.Contains(a.body, "on purpose") {
				t.Errorf("the answer shows what went wrong inside: %s", a.body)
			}
			if tt.status == 503 && a.header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		})
	}
}

// TestBadInput_TableIsTested: every line of docs/bad-input.md names a test that exists.
func TestBadInput_TableIsTested(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/bad-input.md")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, file := range []string{"badinput_test.go", "events_test.go", "stream_test.go", "keys_test.go", "query_test.go", "report_test.go", "acts_test.go", "effects_test.go", "books_test.go"} {
		code, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source.Write(code)
	}
	name := regexp.MustCompile("`(Test[A-Za-z_]+)(?:/([^`]+))?`")
	rows := 0
	var missing []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| ---") || strings.HasPrefix(line, "| input") {
			continue
		}
		rows++
		cells := strings.Split(strings.TrimSuffix(strings.TrimSpace(line), "|"), "|")
		found := name.FindAllStringSubmatch(cells[len(cells)-1], -1)
		if len(found) == 0 {
			missing = append(missing, "no test: "+line)
		}
		for _, m := range found {
			if !strings.Contains(source.String(), "func "+m[1]+"(") {
				missing = append(missing, m[1])
			}
			if m[2] != "" && !strings.Contains(source.String(), `"`+m[2]+`":`) {
				missing = append(missing, m[1]+"/"+m[2])
			}
		}
	}
	if d := cmp.Diff([]string(nil), missing); d != "" || rows < 40 {
		t.Errorf("%d rows; not tested:\n%s", rows, d)
	}
	// And the other way round: every case of the two tables is documented.
	cases := regexp.MustCompile(`(?m)^\t\t"([^"]+)": +\{.*(?:status: |meter\.Reason)`).FindAllStringSubmatch(readFile(t, "badinput_test.go"), -1)
	acts := regexp.MustCompile(`(?m)^\t\t"((?:backfill|void|act|decision|records|too many|failure|change|instance) ?[^"]*)": +\{`)
	cases = append(cases, acts.FindAllStringSubmatch(readFile(t, "effects_test.go")+readFile(t, "acts_test.go"), -1)...)
	if len(cases) < 90 {
		t.Errorf("only %d cases were found", len(cases))
	}
	for _, line := range cases {
		if !strings.Contains(string(text), "/"+line[1]+"`") {
			t.Errorf("the case %q is not in docs/bad-input.md", line[1])
		}
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
