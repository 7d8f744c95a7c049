package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// sendServer is a daemon as far as meterd send sees one.
type sendServer struct {
	*httptest.Server
	mu   sync.Mutex
	keys []string
	ids  map[string]int // times received
}

func newSendServer(t *testing.T, status int, answer string) *sendServer {
	t.Helper()
	s := &sendServer{ids: map[string]int{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var events []struct{ ID string }
		if err := json.NewDecoder(r.Body).Decode(&events); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.keys = append(s.keys, r.Header.Get("Authorization"))
		for _, e := range events {
			s.ids[e.ID]++
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(s.Close)
	return s
}

// runMeterd runs a command line.
func runMeterd(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	code = run(t.Context(), args, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

func writeTestFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const sendTable = "at,who,tokens\n2026-01-01 00:00:00.5,a,12\n2026-01-01 00:00:01,b,0.5\n"

var sendMapping = []string{"--type", "prompt", "--time", "at", "--subject", "who", "--data", "tokens=tokens"}

func TestSend(t *testing.T) {
	t.Parallel()
	s := newSendServer(t, http.StatusNoContent, "")
	table := writeTestFile(t, "usage.csv", sendTable)
	key := writeTestFile(t, "key", "fake-key-of-a-test\n")
	args := append([]string{"send", "--url", s.URL, "--key-file", key, "--json", table}, sendMapping...)
	for range 2 {
		code, stdout, stderr := runMeterd(t, "", args...)
		if code != exitOK || stderr != "" {
			t.Fatalf("exit code %d, stderr %s", code, stderr)
		}
		var sum map[string]any
		if err := json.Unmarshal([]byte(stdout), &sum); err != nil {
			t.Fatalf("summary %s: %v", stdout, err)
		}
		if sum["accepted"] != 2.0 || sum["retries"] != 0.0 || sum["first"] != "2026-01-01T00:00:00.5Z" || sum["error"] != nil {
			t.Errorf("summary = %s", stdout)
		}
	}
	if len(s.ids) != 2 || len(s.keys) != 2 || s.keys[0] != "Bearer fake-key-of-a-test" {
		t.Errorf("ids = %v, keys = %v", s.ids, s.keys)
	}
	code, stdout, _ := runMeterd(t, `{"id":"x","source":"s"}`, "send", "--url", s.URL, "-")
	if code != exitOK || !strings.HasPrefix(stdout, "sent 1, accepted 1 events in 1 batches, 0 retries, ") || s.ids["x"] != 1 {
		t.Errorf("exit code %d, stdout %s, ids %v", code, stdout, s.ids)
	}
}

func TestSendDryRun(t *testing.T) {
	t.Parallel()
	table := writeTestFile(t, "usage.csv", sendTable)
	for name, tt := range map[string]struct {
		args []string
		want string // of the times
	}{
		"plain":         {nil, "2026-01-01T00:00:00.5Z 2026-01-01T00:00:01Z"},
		"zone":          {[]string{"--zone", "Asia/Shanghai"}, "2025-12-31T16:00:00.5Z 2025-12-31T16:00:01Z"},
		"shift to":      {[]string{"--shift-to", "2026-02-01T00:00:00Z"}, "2026-02-01T00:00:00Z 2026-02-01T00:00:00.5Z"},
		"shift last to": {[]string{"--shift-last-to", "2026-02-01T00:00:00Z"}, "2026-01-31T23:59:59.5Z 2026-02-01T00:00:00Z"},
		"last of limit": {[]string{"--shift-last-to", "2026-02-01T00:00:00Z", "--limit", "1"}, "2026-02-01T00:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"send", "--dry-run", table}, sendMapping...)
			code, stdout, stderr := runMeterd(t, "", append(args, tt.args...)...)
			if code != exitOK {
				t.Fatalf("exit code %d: %s", code, stderr)
			}
			var times []string
			for line := range strings.Lines(stdout) {
				var e struct{ Time string }
				if err := json.Unmarshal([]byte(line), &e); err != nil {
					t.Fatal(err)
				}
				times = append(times, e.Time)
			}
			if got := strings.Join(times, " "); got != tt.want {
				t.Errorf("times = %s, want %s", got, tt.want)
			}
		})
	}
}

func TestSendFailures(t *testing.T) {
	t.Parallel()
	ok := newSendServer(t, http.StatusNoContent, "")
	refusing := newSendServer(t, http.StatusBadRequest,
		`{"title":"bad","errors":[{"index":1,"field":"$.tokens","reason":"value_negative","detail":"negative"}]}`)
	table := writeTestFile(t, "usage.csv", sendTable)
	badRow := writeTestFile(t, "bad.csv", sendTable+"yesterday,c,1\n")
	with := func(args ...string) []string { return append(args, sendMapping...) }
	for name, tt := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no file":        {[]string{}, exitUsage, "no file; name the files"},
		"unknown flag":   {[]string{"--key", "x", table}, exitUsage, "unknown flag: --key"},
		"no mapping":     {[]string{table}, exitUsage, "type: missing"},
		"half a mapping": {[]string{"--type", "x", table}, exitUsage, "time: missing"},
		"no such column": {[]string{"--type", "x", "--time", "nope", "--subject", "=s", table}, exitUsage, `no column "nope"`},
		"data":           {with("--data", "x", table), exitUsage, "data: must be like name=COLUMN"},
		"zone":           {with("--zone", "Mars", table), exitUsage, `zone "Mars"`},
		"delimiter":      {with("--delimiter", "ab", table), exitUsage, "delimiter"},
		"layout":         {with("--time-layout", "iso", table), exitUsage, "time layout"},
		"both shifts":    {with("--shift-to", "now", "--shift-last-to", "now", table), exitUsage, "can't be used together"},
		"shift":          {with("--shift-to", "soon", table), exitUsage, "--shift-to: \"soon\" must be"},
		"shift stream":   {with("--shift-last-to", "now", "-"), exitUsage, "needs files"},
		"url":            {with("--url", "nowhere", table), exitUsage, "url: must be like"},
		"key file":       {with("--key-file", table+"x", table), exitUsage, "--key-file: open"},
		"empty key file": {with("--key-file", writeTestFile(t, "key", "\n"), table), exitUsage, "is empty"},
		"ca file":        {with("--ca-file", table, table), exitUsage, "no PEM certificate"},
		"format":         {[]string{"--format", "xml", table}, exitUsage, `format "xml"`},
		"missing file":   {with("--url", ok.URL, table+"x"), exitFailure, "no such file"},
		"bad row":        {with("--url", ok.URL, badRow), exitFailure, badRow + `:4: column "at"`},
		"refused":        {with("--url", refusing.URL, table), exitFailure, table + ":3: $.tokens: negative (value_negative)"},
		"refused, json":  {with("--json", "--url", refusing.URL, table), exitFailure, table + ":3: $.tokens: negative"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := runMeterd(t, "", append([]string{"send"}, tt.args...)...)
			if code != tt.code || !strings.Contains(stderr, tt.want) {
				t.Errorf("exit code %d, want %d; stderr %s, want %q; stdout %s", code, tt.code, stderr, tt.want, stdout)
			}
		})
	}
}

func TestSendKeyFromEnvironment(t *testing.T) {
	s := newSendServer(t, http.StatusNoContent, "")
	t.Setenv("METERD_KEY", "fake-key-in-the-environment")
	t.Setenv("METERD_URL", s.URL)
	code, _, stderr := runMeterd(t, `{"id":"x","source":"s"}`, "send", "-")
	if code != exitOK || len(s.keys) != 1 || s.keys[0] != "Bearer fake-key-in-the-environment" {
		t.Errorf("exit code %d, keys %v, stderr %s", code, s.keys, stderr)
	}
	_, stdout, _ := runMeterd(t, "", "send", "--help")
	if strings.Contains(stdout, "fake-key") {
		t.Errorf("the help shows the key:\n%s", stdout)
	}
}

// TestSendInterrupted: the end of the context ends waiting for standard input and for a daemon that doesn't accept.
func TestSendInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(http.StatusServiceUnavailable)
		cancel()
	}))
	t.Cleanup(s.Close)
	r, w := io.Pipe() // gives an event and then nothing more
	t.Cleanup(func() { _ = w.Close() })
	go func() { _, _ = io.WriteString(w, `{"id":"x","source":"s"}`+"\n{") }()
	var out, errs strings.Builder
	code := run(ctx, []string{"send", "--url", s.URL, "--batch", "1", "--format", "json", "-"}, r, &out, &errs)
	if code != exitFailure || !strings.Contains(errs.String(), "interrupted; the same command again") {
		t.Errorf("exit code %d, stderr %s", code, errs.String())
	}
	if !strings.Contains(out.String(), "sent 1, accepted 0") {
		t.Errorf("stdout = %s", out.String())
	}
}
