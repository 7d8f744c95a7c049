package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func jsonUnmarshal(text string, into any) error { return json.Unmarshal([]byte(text), into) }

// closingDaemon answers a close and tells its status.
func closingDaemon(t *testing.T, answer, reporting string) (*httptest.Server, *[]string) {
	t.Helper()
	var requests []string
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/admin/status", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"now":"2026-01-02T16:20:30.5Z","status":{"reporting":`+reporting+`}}`)
	})
	mux.HandleFunc("POST /api/v1/admin/close", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		requests = append(requests, string(body))
		_, _ = io.WriteString(w, answer)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s, &requests
}

const (
	closedOne = `"windows":1,"first":{"start":"2026-01-02T15:00:00Z","end":"2026-01-02T16:00:00Z"},` +
		`"last":{"start":"2026-01-02T15:00:00Z","end":"2026-01-02T16:00:00Z"},"events":4,"usages":2,"records":2`
	reportingOn = `{"last_closed":{"window":{"start":"2026-01-02T15:00:00Z","end":"2026-01-02T16:00:00Z"}},"delivery":{"breaker":"closed"}}`
)

func TestClose(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer, reporting string
		code              int
		stdout, stderr    string
	}{
		"everything accepted": {
			`{` + closedOne + `,"states":{"pending":2},"delivered":{"calls":1,"accepted":2}}`, reportingOn, exitOK,
			"closed     1 hour, 2026-01-02 15:00 to 16:00Z\n" +
				"           4 events, 2 rows of hourly usage, 2 bill records (2 pending)\n" +
				"delivered  2 accepted, 0 rejected, 0 expired, 0 held, in 1 call to the marketplace\n" +
				"left due   0 records\n", "",
		},
		"nothing due": {
			`{"windows":0,"states":{},"delivered":{}}`, reportingOn, exitOK,
			"closed     nothing was due: everything until 2026-01-02T16:00:00Z is closed; the next hour can be closed once " +
				"2026-01-02T17:00:00Z plus closing.grace has passed (--until was 2026-01-02T16:20:30.5Z)\n" +
				"delivered  0 accepted, 0 rejected, 0 expired, 0 held, in 0 calls to the marketplace\nleft due   0 records\n", "",
		},
		"reporting off": {
			`{` + closedOne + `,"states":{"pending":1,"carried":1},"delivered":{"due_left":1}}`, `{}`, exitOK,
			"closed     1 hour, 2026-01-02 15:00 to 16:00Z\n" +
				"           4 events, 2 rows of hourly usage, 2 bill records (1 pending, 1 carried)\n" +
				"delivered  nothing: reporting is off (reporting.enabled = false), records stay pending\n", "",
		},
		"marketplace away": {
			`{` + closedOne + `,"states":{"pending":2},"delivered":{"calls":3,"due_left":2,"unsettled":1,"stopped":"breaker_open",` +
				`"oldest_due":{"start":"2026-01-02T15:00:00Z","end":"2026-01-02T16:00:00Z"},"retry_at":"2026-01-02T16:21:00Z"}}`, reportingOn, exitFailure,
			"closed     1 hour, 2026-01-02 15:00 to 16:00Z\n" +
				"           4 events, 2 rows of hourly usage, 2 bill records (2 pending)\n" +
				"delivered  0 accepted, 0 rejected, 0 expired, 0 held, in 3 calls to the marketplace\n" +
				"left due   2 records in 1 hour, the oldest of 2026-01-02 15:00 to 16:00Z\n" +
				"stopped    the breaker is open: the marketplace doesn't answer, or not as it should\n" +
				"next try   2026-01-02T16:21:00Z\n",
			"Error: not everything went through: 2 left due\n",
		},
		"refused": {
			`{` + closedOne + `,"states":{"pending":2,"held":1},"delivered":{"calls":1,"rejected":1,"expired":1}}`, reportingOn, exitFailure,
			"closed     1 hour, 2026-01-02 15:00 to 16:00Z\n" +
				"           4 events, 2 rows of hourly usage, 2 bill records (2 pending, 1 held)\n" +
				"delivered  0 accepted, 1 rejected, 1 expired, 0 held, in 1 call to the marketplace\nleft due   0 records\n",
			"Error: not everything went through: 1 rejected, 1 expired, 1 held\n",
		},
		"misconfigured": {
			`{"windows":0,"delivered":{"calls":1,"due_left":5,"stopped":"misconfigured"}}`,
			`{"last_closed":{"window":{}},"close_err":"out of \u001b[1m space","delivery":{"misconfigured":{"since":"2026-01-02T16:20:00Z","code":"MKT.0102","message":"bad signature"}}}`,
			exitFailure,
			"closed     nothing was due: no hour was closed yet, and the store has no event of an hour that ended before 2026-01-02T16:20:30.5Z and its grace period\n" +
				"delivered  0 accepted, 0 rejected, 0 expired, 0 held, in 1 call to the marketplace\nleft due   5 records\n" +
				"stopped    the marketplace refuses our key, signature, clock or authority; meterd doctor helps to find out which\n" +
				"alarm      the marketplace refuses us since 2026-01-02T16:20:00Z: MKT.0102 bad signature\n",
			"Error: not everything went through: 5 left due, closing failed: out of  [1m space\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, requests := closingDaemon(t, tt.answer, tt.reporting)
			code, stdout, stderr := runMeterd(t, "", "close", "--server", s.URL)
			if code != tt.code || stderr != tt.stderr {
				t.Errorf("exit %d, stderr %q; want %d, %q", code, stderr, tt.code, tt.stderr)
			}
			if d := cmp.Diff(tt.stdout, stdout); d != "" {
				t.Errorf("stdout (-want +got)\n%s", d)
			}
			if d := cmp.Diff([]string{`{"until":"2026-01-02T16:20:30.5Z"}`}, *requests); d != "" {
				t.Errorf("requests (-want +got)\n%s", d)
			}
			code, stdout, _ = runMeterd(t, "", "close", "--server", s.URL, "-o", "json")
			var got, want any
			if code != tt.code || jsonUnmarshal(stdout, &got) != nil || jsonUnmarshal(tt.answer, &want) != nil || !cmp.Equal(got, want) {
				t.Errorf("json: exit %d, %s", code, stdout)
			}
		})
	}
}

func TestCloseUntil(t *testing.T) {
	t.Parallel()
	for until, want := range map[string]string{
		"now": "2026-01-02T16:20:30.5Z", "last-hour": "2026-01-02T16:00:00Z", "2026-01-02T23:30:00+08:00": "2026-01-02T15:30:00Z",
	} {
		s, requests := closingDaemon(t, `{"windows":0,"delivered":{}}`, reportingOn)
		code, _, stderr := runMeterd(t, "", "close", "--server", s.URL, "--until", until)
		if code != exitOK || len(*requests) != 1 || !strings.Contains((*requests)[0], `"until":"`+want+`"`) {
			t.Errorf("%s: exit %d, %s, requests %q", until, code, stderr, *requests)
		}
	}
}
