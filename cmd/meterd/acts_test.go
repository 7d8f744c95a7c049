package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const testSN = "00000000000000000000000000000001"

// actsDaemon answers with what the API's own tests compare its answers with, and keeps what it was asked.
type actsDaemon struct {
	*httptest.Server

	mu       sync.Mutex
	answers  map[string]string // by "METHOD path"; one that begins with { is the answer itself, others name a golden file
	status   map[string]int
	requests []string
}

func newActsDaemon(t *testing.T, answers map[string]string) *actsDaemon {
	t.Helper()
	d := &actsDaemon{answers: answers, status: map[string]int{}}
	d.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		d.mu.Lock()
		defer d.mu.Unlock()
		line := r.Method + " " + r.URL.RequestURI()
		if len(body) > 0 {
			line += " " + string(body)
		}
		d.requests = append(d.requests, line)
		key := r.Method + " " + r.URL.Path
		text, ok := d.answers[key]
		if r.URL.Query().Has("commit") {
			if committed, given := d.answers[key+" commit"]; given {
				text = committed
			}
		}
		if !ok {
			http.NotFound(w, r)
			return
		}
		if !strings.HasPrefix(text, "{") {
			golden, err := os.ReadFile(filepath.Join("..", "..", "internal", "httpapi", "testdata", text))
			if err != nil {
				t.Error(err)
			}
			text = string(golden)
		}
		w.Header().Set("Content-Type", "application/json")
		if strings.Contains(text, "urn:meterd:problem:") {
			w.WriteHeader(http.StatusConflict)
		}
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(d.Close)
	return d
}

// asked returns the requests since the last call.
func (d *actsDaemon) asked() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := d.requests
	d.requests = nil
	return list
}

// wantOutput checks that the output has the parts.
func wantOutput(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("the output lacks %q:\n%s", part, text)
		}
	}
}

func TestVoidCommand(t *testing.T) {
	t.Parallel()
	d := newActsDaemon(t, map[string]string{"POST /api/v1/events:void": "preview.json"})
	args := []string{"void", "--server", d.URL, "--subject", "tenant-1", "--source", "/t", "--id", "a", "--reason", "sent twice", "--on-behalf-of", "Bob"}
	body := `{"reason":"sent twice","on_behalf_of":"Bob","subject":"tenant-1","source":"/t","ids":["a"]}`
	// Without a yes nothing is done.
	code, stdout, stderr := runMeterd(t, "", args...)
	if code != exitUsage || !strings.Contains(stderr, "nothing was done: the input is no terminal") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	wantOutput(t, stdout, "would be voided: 2 events, of which 1 make no difference; 1 amount changes, 1 of them in hours that are billed already",
		"2026-11-23 08:00 to 09:00Z  tenant-1  tokens_total  5       12.5   7.5         yes")
	if d := cmp.Diff([]string{"POST /api/v1/events:void " + body}, d.asked()); d != "" {
		t.Errorf("requests (-want +got)\n%s", d)
	}
	if code, _, stderr = runMeterd(t, "", append(args, "--dry-run")...); code != exitOK || !strings.Contains(stderr, "Nothing was done") || len(d.asked()) != 1 {
		t.Errorf("--dry-run: exit %d, %s", code, stderr)
	}
	code, stdout, stderr = runMeterd(t, "", append(args, "--yes")...)
	if code != exitOK || !strings.HasSuffix(stdout, "voided 1 event\n") {
		t.Errorf("--yes: exit %d, %s%s", code, stdout, stderr)
	}
	token := "341d901b6c23c6b9-6d3ddc2570d04c54-8529341bde8d42c6"
	if d := cmp.Diff([]string{"POST /api/v1/events:void " + body, "POST /api/v1/events:void?commit=" + token + " " + body}, d.asked()); d != "" {
		t.Errorf("requests (-want +got)\n%s", d)
	}
	// JSON for programs: the answer alone on standard output.
	code, stdout, _ = runMeterd(t, "", append(args, "--yes", "-o", "json")...)
	if !json.Valid([]byte(stdout)) || code != exitOK {
		t.Errorf("json: exit %d, %s", code, stdout)
	}
	// The effect changed in between: it is shown as it is now.
	d.answers["POST /api/v1/events:void commit"] = "effect-changed.json"
	code, _, stderr = runMeterd(t, "", append(args, "--yes")...)
	if code != exitFailure {
		t.Errorf("changed: exit %d", code)
	}
	wantOutput(t, stderr, "409 Conflict", "it would be now: 2 events", "13     8")
}

func TestVoidCommand_Usage(t *testing.T) {
	t.Parallel()
	ids := writeTestFile(t, "ids", "a\n\n b \n")
	empty := writeTestFile(t, "empty", "\n")
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"nothing":          {nil, "--subject: is required"},
		"no reason":        {[]string{"--subject", "s", "--source", "x", "--id", "1"}, "--reason: is required"},
		"everything":       {[]string{"--subject", "s", "--reason", "r"}, "give --id with --source, or --from and --to"},
		"no source":        {[]string{"--subject", "s", "--id", "1", "--reason", "r"}, "--source: is required with --id"},
		"half a period":    {[]string{"--subject", "s", "--from", "2026-01-01T00:00:00Z", "--reason", "r"}, "--from, --to: give both or none"},
		"no time":          {[]string{"--subject", "s", "--from", "x", "--to", "2026-01-01T00:00:00Z", "--reason", "r"}, "--from: must be an RFC 3339 time"},
		"no file":          {[]string{"--subject", "s", "--source", "x", "--ids-file", "missing", "--reason", "r"}, "--ids-file: open missing"},
		"an empty file":    {[]string{"--subject", "s", "--source", "x", "--ids-file", empty, "--reason", "r"}, "holds no id"},
		"yes and no":       {[]string{"--subject", "s", "--source", "x", "--ids-file", ids, "--reason", "r", "--yes", "--dry-run"}, "--yes and --dry-run: give one of them"},
		"another argument": {[]string{"x"}, "unknown command"},
	} {
		code, stdout, stderr := runMeterd(t, "", append([]string{"void"}, tt.args...)...)
		if code != exitUsage || stdout != "" || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: exit %d, %q, want %q", name, code, stderr, tt.want)
		}
	}
}

func TestBackfillCommand(t *testing.T) {
	t.Parallel()
	d := newActsDaemon(t, map[string]string{"POST /api/v1/events:backfill": "preview.json"})
	var lines strings.Builder
	for i := range backfillChunk + 2 {
		fmt.Fprintf(&lines, `{"id":"%d","source":"s","type":"t","subject":"x","time":"2025-01-01T00:00:00Z"}`+"\n", i)
	}
	file := writeTestFile(t, "old.ndjson", lines.String())
	args := []string{"backfill", file, "--server", d.URL, "--reason", "collector was down", "--on-behalf-of", "Bob"}
	code, stdout, stderr := runMeterd(t, "", append(args, "--yes")...)
	if code != exitOK || !strings.HasSuffix(stdout, "taken 4 events\n") {
		t.Errorf("exit %d, %s%s", code, stdout, stderr)
	}
	// Two previews of the same line make one line with both differences.
	wantOutput(t, stdout, "would be taken: 4 events, of which 2 make no difference; 1 amount changes", "5       20     15")
	requests := d.asked()
	if len(requests) != 4 {
		t.Fatalf("%d requests, want two previews and two commits", len(requests))
	}
	path := "POST /api/v1/events:backfill?on_behalf_of=Bob&reason=collector+was+down "
	if !strings.HasPrefix(requests[1], path+`[{"id":"5000",`) || !strings.HasPrefix(requests[2], "POST /api/v1/events:backfill?commit=341d901b6c23c6b9") ||
		strings.Count(requests[0], `"id":`) != backfillChunk || strings.Count(requests[3], `"id":`) != 2 {
		t.Errorf("requests = %.100s, %.100s, %.100s", requests[0], requests[1], requests[2])
	}
	// An earlier run did it already: no error.
	d.answers["POST /api/v1/events:backfill commit"] = `{"type":"urn:meterd:problem:effect-changed","status":409,"effect":{"events":2,"already":2,"lines":[],"token":"t"}}`
	if code, _, stderr = runMeterd(t, "", append(args, "--yes")...); code != exitOK {
		t.Errorf("done before: exit %d, %s", code, stderr)
	}
	d.answers["POST /api/v1/events:backfill commit"] = "effect-changed.json"
	code, _, stderr = runMeterd(t, "", append(args, "--yes")...)
	if code != exitFailure || !strings.Contains(stderr, "409 Conflict") || !strings.Contains(stderr, "it would be now") {
		t.Errorf("changed: exit %d, %s", code, stderr)
	}
	for name, tt := range map[string]struct {
		file, stdin string
		code        int
		want        string
	}{
		"standard input": {"-", lines.String(), exitUsage, "nobody can be asked; give --yes or --dry-run"},
		"no file":        {"missing", "", exitUsage, "missing"},
		"no event":       {writeTestFile(t, "none", "[]"), "", exitFailure, "holds no event"},
		"no JSON":        {writeTestFile(t, "bad", "{\n"), "", exitFailure, "bad:"},
	} {
		code, _, stderr := runMeterd(t, tt.stdin, "backfill", tt.file, "--server", d.URL, "--reason", "r")
		if code != tt.code || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: exit %d, %q, want %q", name, code, stderr, tt.want)
		}
	}
	one, _, _ := strings.Cut(lines.String(), "\n")
	code, stdout, stderr = runMeterd(t, one, "backfill", "-", "--server", d.URL, "--reason", "r", "--dry-run")
	if code != exitOK || !strings.Contains(stdout, "would be taken") {
		t.Errorf("dry run: exit %d, %s%s", code, stdout, stderr)
	}
}

func TestHeldCommands(t *testing.T) {
	t.Parallel()
	// The second page is the last one.
	d := newActsDaemon(t, map[string]string{"GET /api/v1/held-usage": "", "POST /api/v1/held-usage:decide": "decide.json"})
	page, err := os.ReadFile("../../internal/httpapi/testdata/held.json")
	if err != nil {
		t.Fatal(err)
	}
	last := strings.Replace(string(page), `,"next":"`+testSN+`"`, "", 1)
	d.answers["GET /api/v1/held-usage"] = last
	code, stdout, _ := runMeterd(t, "", "held", "list", "--server", d.URL)
	if code != exitOK {
		t.Errorf("list: exit %d", code)
	}
	wantOutput(t, stdout, "HOUR", "2026-11-23 07:00 to 08:00Z  tenant-1  i-1       tokens_total  2.5   12.5", testSN, "late")
	code, stdout, stderr := runMeterd(t, "", "held", "approve", testSN, "--server", d.URL, "--reason", "agreed", "--yes")
	if code != exitOK {
		t.Errorf("approve: exit %d, %s", code, stderr)
	}
	wantOutput(t, stdout, "booking 7 (decision): 1 bill record, 2 adjustments")
	want := `POST /api/v1/held-usage:decide {"reason":"agreed","ids":["` + testSN + `"],"decision":"approve"}`
	if got := d.asked(); got[len(got)-1] != want {
		t.Errorf("request = %s, want %s", got[len(got)-1], want)
	}
	code, stdout, _ = runMeterd(t, "", "held", "write-off", "--all", "--subject", "tenant-1", "--server", d.URL, "--reason", "r", "--yes", "-o", "json")
	if got := d.asked(); code != exitOK || !strings.Contains(got[len(got)-1], `"decision":"write_off"`) || !json.Valid([]byte(stdout)) {
		t.Errorf("write-off: exit %d, %v, %s", code, got, stdout)
	}
	if code, stdout, _ = runMeterd(t, "", "held", "write-off", "--all", "--subject", "other", "--server", d.URL, "--reason", "r"); code != exitOK || stdout != "no usage is held\n" {
		t.Errorf("write-off of others: exit %d, %s", code, stdout)
	}
	d.asked()
	for name, tt := range map[string]struct {
		args []string
		code int
		want string
	}{
		"neither":   {[]string{"held", "approve", "--reason", "r"}, exitUsage, "give either ids of held usage or --all"},
		"both":      {[]string{"held", "approve", testSN, "--all", "--reason", "r"}, exitUsage, "give either ids of held usage or --all"},
		"filter":    {[]string{"held", "approve", testSN, "--meter", "m", "--reason", "r"}, exitUsage, "are for --all"},
		"not held":  {[]string{"held", "approve", "x", testSN, testSN, "--reason", "r", "--yes"}, exitFailure, `not held, decided about already, or given twice: "x", "` + testSN + `"`},
		"no reason": {[]string{"held", "approve", testSN}, exitUsage, "--reason: is required"},
	} {
		code, _, stderr := runMeterd(t, "", append(tt.args, "--server", d.URL)...)
		if code != tt.code || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: exit %d, %q, want %q", name, code, stderr, tt.want)
		}
	}
	// Pages that don't go on are an error, not an endless loop.
	d.answers["GET /api/v1/held-usage"] = string(page)
	if code, _, stderr = runMeterd(t, "", "held", "list", "--server", d.URL); code != exitFailure || !strings.Contains(stderr, "don't go on") {
		t.Errorf("pages: exit %d, %s", code, stderr)
	}
}

func TestBillsActs(t *testing.T) {
	t.Parallel()
	d := newActsDaemon(t, map[string]string{
		"GET /api/v1/bill-records/" + testSN: "bill-record.json", "POST /api/v1/bill-records:act": "bill-records.json",
		"POST /api/v1/bill-records:resend": "resend.json",
	})
	for use, to := range map[string]string{"retry": "pending", "write-off": "written_off", "unbillable": "unbillable"} {
		code, stdout, stderr := runMeterd(t, "", "bills", use, testSN, "--server", d.URL, "--reason", "r", "--yes")
		if code != exitOK || !strings.Contains(stdout, "2 records are now "+to) || !strings.Contains(stdout, "1.2346") {
			t.Errorf("%s: exit %d, %s%s", use, code, stdout, stderr)
		}
		want := []string{"GET /api/v1/bill-records/" + testSN, `POST /api/v1/bill-records:act {"reason":"r","sns":["` + testSN + `"],"to":"` + to + `"}`}
		if d := cmp.Diff(want, d.asked()); d != "" {
			t.Errorf("%s: requests (-want +got)\n%s", use, d)
		}
	}
	failures := writeTestFile(t, "failed.csv", "code,when,sn,message\n005,now,"+testSN+",\"no, such\"\n")
	code, stdout, stderr := runMeterd(t, "", "bills", "resend", "--failures", failures, "--server", d.URL, "--reason", "r", "--yes")
	if code != exitOK || !strings.Contains(stdout, "booking 7 (resend)") {
		t.Errorf("resend: exit %d, %s%s", code, stdout, stderr)
	}
	want := `POST /api/v1/bill-records:resend {"reason":"r","sns":["` + testSN + `"],"failures":[{"sn":"` + testSN + `","code":"005","message":"no, such"}]}`
	if got := d.asked(); len(got) != 2 || got[1] != want {
		t.Errorf("requests = %v", got)
	}
	code, _, _ = runMeterd(t, "", "bills", "resend", "--failed", testSN+"=005", "--server", d.URL, "--reason", "r", "--yes", "-o", "json")
	if got := d.asked(); code != exitOK || !strings.Contains(got[1], `"failures":[{"sn":"`+testSN+`","code":"005"}]`) {
		t.Errorf("resend --failed: exit %d, %v", code, got)
	}
	for name, tt := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no record":      {[]string{"bills", "retry"}, exitUsage, "give from 1 to 1000 numbers of bill records (got 0)"},
		"twice":          {[]string{"bills", "retry", "a", "a", "--reason", "r"}, exitUsage, "occurs more than once"},
		"unknown":        {[]string{"bills", "retry", "ffff", "--reason", "r", "--yes"}, exitFailure, "nothing was done: record ffff"},
		"no resend":      {[]string{"bills", "resend", "--reason", "r"}, exitUsage, "give from 1 to 1000"},
		"no code":        {[]string{"bills", "resend", "--failed", "a", "--reason", "r"}, exitUsage, "--failed: must be SN=CODE"},
		"no file":        {[]string{"bills", "resend", "--failures", "missing", "--reason", "r"}, exitUsage, "--failures: open missing"},
		"other columns":  {[]string{"bills", "resend", "--failures", writeTestFile(t, "a.csv", "number\n"), "--reason", "r"}, exitUsage, "needs the columns sn and code"},
		"an empty cell":  {[]string{"bills", "resend", "--failures", writeTestFile(t, "b.csv", "sn,code\nx,\n"), "--reason", "r"}, exitUsage, "line 2: sn or code is empty"},
		"uneven rows":    {[]string{"bills", "resend", "--failures", writeTestFile(t, "c.csv", "sn,code\nx\n"), "--reason", "r"}, exitUsage, "wrong number of fields"},
		"not a terminal": {[]string{"bills", "retry", testSN, "--reason", "r"}, exitUsage, "nothing was done"},
	} {
		code, _, stderr := runMeterd(t, "", append(tt.args, "--server", d.URL)...)
		if code != tt.code || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s: exit %d, %q, want %q", name, code, stderr, tt.want)
		}
	}
}

func TestInstancesCommands(t *testing.T) {
	t.Parallel()
	d := newActsDaemon(t, map[string]string{"GET /api/v1/instances/i/1/life": "life.json", "POST /api/v1/instances/i/1/life": "life-change.json"})
	for use, kind := range map[string]string{"opened": "opened", "freeze": "frozen", "unfreeze": "unfrozen", "release": "released"} {
		code, stdout, stderr := runMeterd(t, "", "instances", use, "i/1", "--at", "2026-11-23T18:20:00+08:00", "--server", d.URL, "--reason", "order", "--yes")
		if code != exitOK {
			t.Errorf("%s: exit %d, %s", use, code, stderr)
		}
		wantOutput(t, stdout, "instance i/1", "would be noted: "+kind+" at 2026-11-23T10:20:00Z", "noted: "+kind+" at 2026-11-23T10:20:00Z", "booking 7 (release)")
		want := `POST /api/v1/instances/i%2F1/life {"reason":"order","kind":"` + kind + `","at":"2026-11-23T18:20:00+08:00"}`
		if got := d.asked(); len(got) != 2 || got[1] != want {
			t.Errorf("%s: requests %v, want %s", use, got, want)
		}
	}
	code, stdout, _ := runMeterd(t, "", "instances", "life", "i/1", "--server", d.URL)
	if code != exitOK {
		t.Errorf("life: exit %d", code)
	}
	wantOutput(t, stdout, "AT", "2026-11-23T10:20:00Z  opened", "billing")
	d.answers["GET /api/v1/instances/i/1/life"] = `{"instance_id":"i/1","changes":[]}`
	if _, stdout, _ = runMeterd(t, "", "instances", "life", "i/1", "--server", d.URL); stdout != "nothing is known of instance i/1; it counts as always open\n" {
		t.Errorf("life = %q", stdout)
	}
	if code, _, stderr := runMeterd(t, "", "instances", "release", "", "--at", "today"); code != exitUsage || !strings.Contains(stderr, "INSTANCE: is empty") ||
		!strings.Contains(stderr, "--at: must be an RFC 3339 time") || !strings.Contains(stderr, "--reason: is required") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

func TestBreakerCommands(t *testing.T) {
	t.Parallel()
	d := newActsDaemon(t, map[string]string{"GET /api/v1/breaker": "breaker.json", "POST /api/v1/breaker:reset": `{"state":"closed","story":[]}`})
	code, stdout, _ := runMeterd(t, "", "breaker", "status", "--server", d.URL)
	if code != exitOK {
		t.Errorf("status: exit %d", code)
	}
	wantOutput(t, stdout, "breaker", "open", "MKT.0102 signature", "closed → open: timeouts", "3 records", "asked to wait until 2026-11-23T10:30:01Z")
	code, stdout, _ = runMeterd(t, "", "breaker", "reset", "--server", d.URL, "--reason", "key mended", "--yes")
	if code != exitOK || !strings.HasSuffix(stdout, "reset; the breaker is closed\n") {
		t.Errorf("reset: exit %d, %s", code, stdout)
	}
	if got := d.asked(); got[len(got)-1] != `POST /api/v1/breaker:reset {"reason":"key mended"}` {
		t.Errorf("requests = %v", got)
	}
}

func TestAskYes(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]error{"yes\n": nil, " yes ": nil, "y\n": errNotConfirmed, "": errNotConfirmed, "no\nyes\n": errNotConfirmed} {
		var out bytes.Buffer
		ok, err := askYes(strings.NewReader(answer), &out, "Do it?")
		if !errors.Is(err, want) || ok != (want == nil) || out.String() != "Do it? Type yes: " {
			t.Errorf("%q: %v, %v, asked %q", answer, ok, err, out.String())
		}
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if canAsk(null) || canAsk(strings.NewReader("yes\n")) {
		t.Error("nobody sits at the null device or a pipe")
	}
}

// FuzzReadFailures reads any table of failures.
func FuzzReadFailures(f *testing.F) {
	f.Add("sn,code\na,005\n")
	f.Add("code,message,sn\n\"0\n05\",m,a\n")
	f.Add("\xff,sn")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := readFailures(strings.NewReader(text))
		for _, x := range list {
			if err == nil && (x.SN == "" || x.Code == "") {
				t.Errorf("%q: %+v", text, x)
			}
		}
	})
}

func TestClockCommands(t *testing.T) {
	t.Parallel()
	d := newActsDaemon(t, map[string]string{
		"GET /api/v1/clock": "clock.json", "POST /api/v1/clock:trust": `{"now":"2026-11-23T10:30:00Z","ahead_seconds":0,"refusing":false,"trust":"person"}`,
	})
	code, stdout, _ := runMeterd(t, "", "clock", "status", "--server", d.URL)
	if code != exitOK {
		t.Errorf("status: exit %d", code)
	}
	wantOutput(t, stdout, "the marketplace's clock", "2h0m1s", "refused since 2026-11-23T10:30:00Z", "1 since the start")
	if code, _, _ = runMeterd(t, "", "clock", "trust", "--server", d.URL, "--reason", "r"); code != exitUsage {
		t.Errorf("trust without a yes: exit %d, want %d", code, exitUsage)
	}
	code, stdout, _ = runMeterd(t, "", "clock", "trust", "--server", d.URL, "--reason", "compared", "--yes")
	if code != exitOK || !strings.HasSuffix(stdout, "confirmed; hours are closed by it\n") {
		t.Errorf("trust: exit %d, %s", code, stdout)
	}
	if got := d.asked(); got[len(got)-1] != `POST /api/v1/clock:trust {"reason":"compared"}` {
		t.Errorf("requests = %v", got)
	}
}

// Whoever lists records that wait sees why: the breaker's story.
func TestBillsTellTheBreakersStory(t *testing.T) {
	t.Parallel()
	pending := `{"records":[{"sn":"` + strings.Repeat("0", 31) + `1","state":"pending"}]}`
	for name, tt := range map[string]struct {
		records string
		told    bool
	}{
		"a record waits": {pending, true},
		"none waits":     {strings.Replace(pending, "pending", "accepted", 1), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newActsDaemon(t, map[string]string{"GET /api/v1/bill-records": tt.records, "GET /api/v1/breaker": "breaker.json"})
			code, stdout, stderr := runMeterd(t, "", "bills", "list", "--server", d.URL)
			if code != exitOK || strings.Contains(stdout, "closed → open: timeouts") != tt.told {
				t.Errorf("exit %d, %s%s", code, stdout, stderr)
			}
			if code, stdout, _ = runMeterd(t, "", "bills", "list", "--server", d.URL, "-o", "json"); code != exitOK || strings.Contains(stdout, "story") {
				t.Errorf("json: exit %d, %s", code, stdout)
			}
		})
	}
	d := newActsDaemon(t, map[string]string{"GET /api/v1/bill-records": pending})
	if code, _, stderr := runMeterd(t, "", "bills", "list", "--server", d.URL); code != exitOK {
		t.Errorf("without a breaker: exit %d, %s", code, stderr)
	}
}
