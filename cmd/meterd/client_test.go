package main

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// fakeDaemon answers every request alike.
func fakeDaemon(t *testing.T, status int, contentType, body string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return s
}

func TestClientProblems(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		status int
		body   string
		want   string
	}{
		"problem": {
			400, `{"title":"The request can't be understood","status":400,"detail":"from: must be before to","request_id":"r-1"}`,
			"Error: the daemon answered 400 Bad Request: The request can't be understood: from: must be before to (request r-1)\n",
		},
		"items": {
			400, `{"title":"T","detail":"D","total_errors":12,"errors":[{"index":3,"field":"data.tokens","reason":"invalid_value","detail":"is no number"},{"reason":"x","detail":"y"}]}`,
			"Error: the daemon answered 400 Bad Request: T: D\n  3: data.tokens: is no number (invalid_value)\n  y (x)\n  … and 10 more\n",
		},
		"no key": {401, `{"title":"A valid API key is needed"}`, "Error: the daemon answered 401 Unauthorized: A valid API key is needed: give the key by --key-file or METERD_KEY\n"},
		"a proxy's page": {
			502, "<html>Bad Gateway</html>",
			"Error: the daemon answered 502 Bad Gateway: the answer doesn't come from a meterd daemon, or a proxy replaced it\n",
		},
		"redirect":         {302, "", "Error: the daemon answered 302 Found: the answer doesn't come from a meterd daemon, or a proxy replaced it: redirects are not followed, because the key would go along; use the final address in --server\n"},
		"control sequence": {500, `{"title":"\u001b[31mred\u001b[0m\nline"}`, "Error: the daemon answered 500 Internal Server Error: [31mred [0m line\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := fakeDaemon(t, tt.status, "application/problem+json", tt.body)
			code, stdout, stderr := runMeterd(t, "", "meters", "--server", s.URL)
			if d := cmp.Diff(tt.want, stderr); d != "" || code != exitFailure || stdout != "" {
				t.Errorf("exit %d, stdout %q, stderr (-want +got)\n%s", code, stdout, d)
			}
		})
	}
}

func TestClientRetryAfter(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "5")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"title":"The service can't do this now"}`)
	}))
	t.Cleanup(s.Close)
	if _, _, stderr := runMeterd(t, "", "meters", "--server", s.URL); !strings.Contains(stderr, "try again in 5 s") {
		t.Errorf("stderr = %s", stderr)
	}
}

func TestClientConnections(t *testing.T) {
	t.Parallel()
	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "[]") }))
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes fail on purpose
	secure.StartTLS()
	t.Cleanup(secure.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	plain := fakeDaemon(t, http.StatusOK, "application/json", "[]")
	page := fakeDaemon(t, http.StatusOK, "text/html", "<html>")
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "[")
	}))
	t.Cleanup(broken.Close)
	released := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-released:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() { close(released); silent.Close() })
	for name, tt := range map[string]struct {
		args []string
		want string // "": success
	}{
		"plain":             {[]string{"--server", plain.URL}, ""},
		"TLS":               {[]string{"--server", secure.URL, "--ca-file", ca}, ""},
		"unknown authority": {[]string{"--server", secure.URL}, "of an authority unknown here; --ca-file names a trusted one"},
		"http to https":     {[]string{"--server", strings.Replace(secure.URL, "https", "http", 1)}, "400 Bad Request"},
		"https to http":     {[]string{"--server", strings.Replace(plain.URL, "http", "https", 1)}, "doesn't speak https; use http:// in --server"},
		"no JSON":           {[]string{"--server", page.URL}, "is that a meterd daemon?"},
		"broken off":        {[]string{"--server", broken.URL}, "broke off its answer"},
		"silent":            {[]string{"--server", silent.URL, "--timeout", "50ms"}, "gave no answer within 50ms; --timeout allows more"},
		"unknown name":      {[]string{"--server", "http://meterd.invalid:8080"}, "http://meterd.invalid:8080"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, _, stderr := runMeterd(t, "", append([]string{"meters"}, tt.args...)...)
			if tt.want == "" && (code != exitOK || stderr != "") || tt.want != "" && (code != exitFailure || !strings.Contains(stderr, tt.want)) {
				t.Errorf("exit %d, stderr %q, want %q", code, stderr, tt.want)
			}
		})
	}
}

func TestClientSendsKey(t *testing.T) {
	t.Parallel()
	var got []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Header.Get("Authorization")+" "+r.URL.String())
		_, _ = io.WriteString(w, "[]")
	}))
	t.Cleanup(s.Close)
	key := writeTestFile(t, "key", "fake-key-never-shown\n")
	code, stdout, stderr := runMeterd(t, "", "meters", "--server", s.URL+"/below/", "--key-file", key)
	if d := cmp.Diff([]string{"Bearer fake-key-never-shown /below/api/v1/meters"}, got); d != "" || code != exitOK {
		t.Errorf("exit %d; requests (-want +got)\n%s", code, d)
	}
	if strings.Contains(stdout+stderr, "never-shown") {
		t.Error("the output shows the key")
	}
	_, _, stderr = runMeterd(t, "", "meters", "--server", "http://meterd.invalid", "--timeout", "1s", "--key-file", key)
	if !strings.Contains(stderr, "Warning: the API key goes to another machine over plain http") || strings.Contains(stderr, "never-shown") {
		t.Errorf("stderr = %s", stderr)
	}
}

// TestNoKeyFlags makes sure that no command takes a daemon's key in the clear.
func TestNoKeyFlags(t *testing.T) {
	t.Parallel()
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Flags().Lookup("server") != nil && cmd.Flags().Lookup("key") != nil {
			t.Errorf("%s has a flag --key", cmd.CommandPath())
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRootCommand())
}

// pagingDaemon has n bill records.
func pagingDaemon(t *testing.T, n int) (*httptest.Server, *[]url.Values) {
	t.Helper()
	queries := &[]url.Values{}
	start := time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		*queries = append(*queries, q)
		var first, limit int
		_, _ = fmt.Sscan(strings.TrimPrefix(q.Get("cursor"), "at-"), &first)
		_, _ = fmt.Sscan(q.Get("limit"), &limit)
		end := min(first+limit, n)
		if end-first == limit {
			w.Header().Set("Link", fmt.Sprintf(`</api/v1/bill-records?cursor=at-%d>; rel="next"`, end))
		}
		asCSV := r.Header.Get("Accept") == "text/csv"
		if asCSV {
			_, _ = io.WriteString(w, "sn,message\n")
		} else {
			_, _ = io.WriteString(w, `{"records":[`)
		}
		for i := first; i < end; i++ {
			if asCSV {
				_, _ = fmt.Fprintf(w, "sn-%d,\"a\nb\"\n", i)
				continue
			}
			if i > first {
				_, _ = io.WriteString(w, ",")
			}
			_, _ = fmt.Fprintf(w, `{"sn":"sn-%d","state":"accepted","billed":"0.1","window_start":%q,"window_end":%q}`,
				i, start.Format(time.RFC3339), start.Add(time.Hour).Format(time.RFC3339))
		}
		if !asCSV {
			_, _ = io.WriteString(w, "]")
			if end-first == limit {
				_, _ = fmt.Fprintf(w, `,"next_cursor":"at-%d"`, end)
			}
			_, _ = io.WriteString(w, "}")
		}
	}))
	t.Cleanup(s.Close)
	return s, queries
}

// TestBillsPages lists more records than a page holds, in each form.
func TestBillsPages(t *testing.T) {
	// No cursor of this server is a real one, so listing begins at the beginning.
	t.Parallel()
	const all = 2500
	for name, tt := range map[string]struct {
		output string
		limit  int
		want   int // records
		pages  int
		more   bool
	}{
		"table, all":         {"table", 0, all, 3, false},
		"csv, all":           {"csv", 0, all, 3, false},
		"json, all":          {"json", 0, all, 3, false},
		"table, some":        {"table", 1200, 1200, 2, true},
		"csv, some":          {"csv", 1200, 1200, 2, true},
		"json, some":         {"json", 1200, 1200, 2, true},
		"json, just a page":  {"json", 1000, 1000, 1, true},
		"table, more than n": {"table", 9999, all, 3, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, queries := pagingDaemon(t, all)
			code, stdout, stderr := runMeterd(t, "", "bills", "list", "--server", s.URL, "-o", tt.output, "--limit", strconv.Itoa(tt.limit))
			if code != exitOK || len(*queries) != tt.pages || strings.Contains(stderr, "--cursor at-") != tt.more {
				t.Errorf("exit %d, %d requests, stderr %q", code, len(*queries), stderr)
			}
			if got := strings.Count(stdout, "sn-"); got != tt.want {
				t.Errorf("%d records, want %d", got, tt.want)
			}
			if strings.Count(stdout, "sn,message") > 1 {
				t.Error("the column names are repeated")
			}
			if tt.output == "json" {
				var list struct {
					Records    []billRecord
					NextCursor string `json:"next_cursor"`
				}
				if err := jsonUnmarshal(stdout, &list); err != nil || len(list.Records) != tt.want || (list.NextCursor != "") != tt.more {
					t.Errorf("%d records, cursor %q, %v", len(list.Records), list.NextCursor, err)
				}
			}
		})
	}
}

func TestBillsNone(t *testing.T) {
	t.Parallel()
	s, _ := pagingDaemon(t, 0)
	for output, want := range map[string]string{"table": "no bill records match\n", "csv": "sn,message\n", "json": "{\"records\":[\n]}\n"} {
		code, stdout, stderr := runMeterd(t, "", "bills", "list", "--server", s.URL, "-o", output)
		if code != exitOK || stdout != want || stderr != "" {
			t.Errorf("%s: exit %d, %q, %q", output, code, stdout, stderr)
		}
	}
	not := fakeDaemon(t, http.StatusOK, "text/csv", "name,value\n")
	if code, _, stderr := runMeterd(t, "", "bills", "list", "--server", not.URL, "-o", "csv"); code != exitFailure || !strings.Contains(stderr, "not the CSV of a meterd daemon") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a\x1b[2Jb\r\nc": "a [2Jb  c", "\u202eevil": "evil", "  x  ": "x", strings.Repeat("ä", 600): strings.Repeat("ä", 500) + "…",
	} {
		if got := printable(text); got != want {
			t.Errorf("printable(%q) = %q", text, got)
		}
	}
}

// FuzzProblem reads answers of whoever answers: no panic, no control characters, bounded.
func FuzzProblem(f *testing.F) {
	f.Add(400, `{"title":"T","detail":"D","errors":[{"index":1,"field":"f","reason":"r","detail":"d"}],"total_errors":-1}`, "5")
	f.Add(502, "<html>\x1b[2J", "\x1b[2J")
	f.Add(-1, `{"errors":[{"index":-9}],"title":"\u009b31m"}`, "")
	f.Fuzz(func(t *testing.T, status int, body, retry string) {
		resp := &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {retry}}, Body: io.NopCloser(strings.NewReader(body))}
		text := newProblemError(resp).Error()
		if strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && (r < ' ' || r >= 0x7f && r < 0xa0) }) || len(text) > 64<<10 {
			t.Errorf("Error() = %q", text)
		}
	})
}

// FuzzNextCursor reads Link headers.
func FuzzNextCursor(f *testing.F) {
	f.Add(`</api/v1/bill-records?cursor=abc&limit=1>; rel="next"`)
	f.Add(`<%zz>; rel="next"`)
	f.Add(`>`)
	f.Fuzz(func(t *testing.T, link string) {
		if got := nextCursor(http.Header{"Link": {link}}); got != "" && !strings.Contains(link, `rel="next"`) {
			t.Errorf("nextCursor(%q) = %q", link, got)
		}
	})
}

func TestBillsPagesThatDoNotGoOn(t *testing.T) {
	t.Parallel()
	s := fakeDaemon(t, http.StatusOK, "application/json", `{"records":[{"sn":"a"}],"next_cursor":"same"}`)
	code, _, stderr := runMeterd(t, "", "bills", "list", "--server", s.URL, "--limit", "0", "-o", "json")
	if code != exitFailure || !strings.Contains(stderr, "the next cursor is the same again") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}
