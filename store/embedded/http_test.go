package embedded_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/meterd/meterd/store/embedded"
)

func httpClient(tb testing.TB, engine *embedded.Engine) *http.Client {
	tb.Helper()
	transport := &http.Transport{DialContext: engine.DialContext}
	tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// post sends a body as it is and returns status and answer.
func post(tb testing.TB, engine *embedded.Engine, path, body string) (int, string) {
	tb.Helper()
	return send(tb, engine, http.MethodPost, path, strings.NewReader(body), nil)
}

func send(tb testing.TB, engine *embedded.Engine, method, path string, body io.Reader, header http.Header) (int, string) {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), method, "http://localhost"+path, body)
	if err != nil {
		tb.Fatal(err)
	}
	maps.Copy(req.Header, header)
	res, err := httpClient(tb, engine).Do(req)
	if err != nil {
		tb.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatalf("%s %s: %v", method, path, err)
	}
	return res.StatusCode, string(text)
}

func pingHTTP(tb testing.TB, engine *embedded.Engine) bool {
	tb.Helper()
	status, text := send(tb, engine, http.MethodGet, "/ping", nil, nil)
	return status == http.StatusOK && text == "Ok.\n"
}

func TestEngine_hostileRequests(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	for name, tc := range map[string]struct {
		method, path, body string
		header             http.Header
		status             int
		want               string
	}{
		"other path":         {path: "/replicas_status", status: 404},
		"other method":       {method: http.MethodGet, path: "/?query=SELECT+1", status: 405},
		"empty":              {path: "/", status: 400, want: "Empty query"},
		"bytes":              {path: "/", body: "\x00\xff\xfe\n", status: 400, want: "Code: 62"},
		"open comment":       {path: "/", body: "/* SELECT 1", status: 400, want: "Empty query"},
		"open string":        {path: "/", body: "SELECT 'x", status: 500, want: "Code: 62"},
		"deep nesting":       {path: "/", body: "SELECT " + strings.Repeat("(", 200_000), status: 500, want: "Code:"},
		"deep expression":    {path: "/", body: "SELECT " + strings.Repeat("NOT ", 100_000) + "1", status: 500, want: "Code:"},
		"bad escape in URL":  {path: "/?query=%zz", body: "SELECT 1", status: 400, want: "Code: 36"},
		"bad format":         {path: "/?default_format=a'b", body: "SELECT 1", status: 400, want: "default_format"},
		"unknown format":     {path: "/?default_format=Nonsense", body: "SELECT 1", status: 500, want: "Code: 73"},
		"compressed answer":  {path: "/?compress=1", body: "SELECT 1", status: 400, want: "compression"},
		"compressed body":    {path: "/", body: "SELECT 1", header: http.Header{"Content-Encoding": {"gzip"}}, status: 400, want: "compression"},
		"external table":     {path: "/", body: "--x\r\n", header: http.Header{"Content-Type": {"multipart/form-data; boundary=x"}}, status: 400, want: "external"},
		"session":            {path: "/?session_id=1", body: "SELECT 1", status: 400, want: "session_id"},
		"bad setting value":  {path: "/?max_threads=many", body: "SELECT 1", status: 500, want: "Code:"},
		"insert into text":   {path: "/?query=INSERT+INTO+FUNCTION+file('/tmp/x')+FORMAT+Native", body: "\x01\x01x", status: 500, want: "Code:"},
		"missing insert":     {path: "/?query=INSERT+INTO+missing+FORMAT+Native", body: "\x01\x01\x01x\x05UInt8\x01", status: 500, want: "Code: 60"},
		"insert of nothing":  {path: "/?query=INSERT+FORMAT+Native", body: "\x01\x01\x01x\x05UInt8\x01", status: 500, want: "Code: 62"},
		"query id of bytes":  {path: "/?default_format=TSV&query_id=%0d%0aX:y", body: "SELECT 1", status: 200, want: "1\n"},
		"statement in parts": {path: "/?default_format=TSV&query=SELECT", body: "7", status: 200, want: "7\n"},
		"several parameters": {path: "/?default_format=TSV&query=SELECT+1&query=SELECT+2", status: 200, want: "2\n"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			method := tc.method
			if method == "" {
				method = http.MethodPost
			}
			status, answer := send(t, engine, method, tc.path, strings.NewReader(tc.body), tc.header)
			if status != tc.status || !strings.Contains(answer, tc.want) {
				t.Errorf("status %d %.200q, want %d with %q", status, answer, tc.status, tc.want)
			}
		})
	}
	t.Run("raw_bytes", func(t *testing.T) {
		t.Parallel()
		conn, err := engine.Dial(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("\x00\x01\x02 garbage\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400") {
			t.Errorf("answer %q, %v, want 400", answer, err)
		}
	})
}

// TestEngine_bodyBreaksOff leaves in the middle of an insert's rows: nothing may be stored and nothing may stay busy.
func TestEngine_bodyBreaksOff(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := newDatabase(t, engine)
	mustExec(t, conn, "CREATE TABLE t (id UInt32) ENGINE = MergeTree ORDER BY id")
	database := queryOne[string](t, conn, "SELECT currentDatabase()")
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		pr, pw := io.Pipe()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/?database="+database+"&query=INSERT+INTO+t+(id)+FORMAT+Native", pr)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			// A whole block, but the body goes on.
			_, _ = io.WriteString(pw, "\x01\x01\x02id\x06UInt32\x01\x00\x00\x00")
			cancel()
			_ = pw.CloseWithError(errors.New("client leaves"))
		}()
		res, err := httpClient(t, engine).Do(req)
		if err == nil {
			_ = res.Body.Close()
			t.Fatalf("status %d, want no answer", res.StatusCode)
		}
		cancel()
	}
	if got := queryOne[uint64](t, conn, "SELECT count() FROM t"); got != 0 {
		t.Errorf("%d rows of broken requests were stored", got)
	}
}
