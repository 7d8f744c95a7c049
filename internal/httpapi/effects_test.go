package httpapi_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/meter"
)

const jsonType = "Content-Type: application/json"

func someEffect() meter.Effect {
	return meter.Effect{Events: 2, Already: 1, Lines: []meter.EffectLine{
		{Hour: hour(8), Subject: "tenant-1", Meter: "tokens_total", Before: meter.MustParseQuantity("5"), After: meter.MustParseQuantity("12.5"), Closed: true},
	}}
}

// effectOf reads an answer to a preview or commit.
func effectOf(t *testing.T, a answer) (e struct {
	Committed bool
	meter.Effect
},
) {
	t.Helper()
	if a.status != http.StatusOK {
		t.Fatalf("answer = %d %s", a.status, a.body)
	}
	if err := json.Unmarshal([]byte(a.body), &e); err != nil {
		t.Fatalf("%s: %v", a.body, err)
	}
	return e
}

func oldEvent(id string) string { return strings.Replace(event(id), "2026-11-23", "2025-12-01", 1) }

// backfill sends a body to the door for old events.
func (b *bundle) backfill(t *testing.T, body, reason, commit string) answer {
	t.Helper()
	q := url.Values{"reason": {reason}, "on_behalf_of": {"Alice"}}
	if commit != "" {
		q.Set("commit", commit)
	}
	return b.do(t, http.MethodPost, "/api/v1/events:backfill?"+q.Encode(), backfillKey, body, jsonType)
}

// TestBackfill_PreviewThenCommit stores nothing before the commit, and writes the audit log before it stores.
func TestBackfill_PreviewThenCommit(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.doors.effect = someEffect()
	body := "[" + oldEvent("a") + "," + oldEvent("b") + "]"
	a := b.backfill(t, body, "collector was down", "")
	golden(t, "preview.json", a.body)
	preview := effectOf(t, a)
	if preview.Committed || preview.Token == "" || b.doors.rows != 2 || b.doors.flushes != 1 {
		t.Errorf("preview = %+v, %d rows, %d flushes", preview, b.doors.rows, b.doors.flushes)
	}
	if len(b.stored(t)) != 0 || len(b.doors.audit) != 0 {
		t.Error("a preview stored something")
	}
	// Usage that came meanwhile moves both sides of a line and needs no new preview.
	b.doors.effect.Lines[0].Before, b.doors.effect.Lines[0].After = meter.MustParseQuantity("6"), meter.MustParseQuantity("13.5")
	done := effectOf(t, b.backfill(t, body, "collector was down", preview.Token))
	if !done.Committed || done.Token != preview.Token {
		t.Errorf("commit = %+v", done)
	}
	if got := b.stored(t); len(got) != 2 || !strings.HasPrefix(got[0], "a /t prompt tenant-1") {
		t.Errorf("stored = %v", got)
	}
	e := b.doors.audit
	if len(e) != 1 || e[0].Actor != "loader for Alice" || e[0].Action != "backfill" || e[0].Reason != "collector was down" || !e[0].At.Equal(testNow) ||
		e[0].Detail != "1 subjects, from 2025-12-01T10:00:00Z to 2025-12-01T10:00:00Z, 1 of 2 events without effect, 1 amounts changed, 1 of them in closed hours" {
		t.Errorf("audit = %+v", e)
	}
	// In NDJSON, compressed or not, the same.
	ndjson := b.do(t, http.MethodPost, "/api/v1/events:backfill?reason=r", backfillKey, oldEvent("c")+"\n", "Content-Type: application/x-ndjson")
	if e := effectOf(t, ndjson); e.Committed {
		t.Errorf("NDJSON = %+v", e)
	}
}

// TestBackfill_TokenThatDoesNotFit says what changed, shows the effect as it is, and stores nothing.
func TestBackfill_TokenThatDoesNotFit(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.doors.effect = someEffect()
	token := effectOf(t, b.backfill(t, oldEvent("a"), "reason", "")).Token
	changed := someEffect()
	changed.Lines[0].After = meter.MustParseQuantity("13")
	already := meter.Effect{Events: 2, Already: 2}
	for name, tt := range map[string]struct {
		body, reason string
		effect       meter.Effect
		detail       string
	}{
		"other body":   {oldEvent("b"), "reason", someEffect(), "nothing was done: what is asked for is not what was previewed; look"},
		"other reason": {oldEvent("a"), "another", someEffect(), "nothing was done: the reason is another one; look"},
		"other effect": {oldEvent("a"), "reason", changed, "nothing was done: the effect is another one by now; look"},
		"done before":  {oldEvent("a"), "reason", already, "nothing is left to do: all 2 events are as asked for; an earlier commit went through"},
	} {
		b.doors.effect = tt.effect
		a := b.backfill(t, tt.body, tt.reason, token)
		p := wantProblem(t, a, http.StatusConflict, "effect-changed")
		if !strings.HasPrefix(fmt.Sprint(p["detail"]), tt.detail) {
			t.Errorf("%s: detail = %q, want %q", name, p["detail"], tt.detail)
		}
		effect, ok := p["effect"].(map[string]any)
		if !ok || effect["token"] == token || effect["token"] == "" {
			t.Errorf("%s: effect = %v", name, p["effect"])
		}
		if name == "other effect" {
			delete(p, "request_id")
			text, _ := json.MarshalIndent(p, "", "  ")
			golden(t, "effect-changed.json", string(text)+"\n")
		}
	}
	if len(b.stored(t)) != 0 || len(b.doors.audit) != 0 {
		t.Error("something was stored or written to the audit log")
	}
}

// TestBadBackfills are refused before anything is stored.
func TestBadBackfills(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	good := oldEvent("a")
	withoutTime := strings.Replace(good, `"time":"2025-12-01T10:00:00Z",`, "", 1)
	tests := map[string]struct {
		query, body string
		status      int
		code        string
		part        string
	}{
		"backfill without a reason":        {"", good, 400, "invalid-request", "reason: is required"},
		"backfill with a blank reason":     {"reason=+", good, 400, "invalid-request", "reason: is required"},
		"backfill with a long reason":      {"reason=" + strings.Repeat("r", 501), good, 400, "invalid-request", "reason: has 501 bytes; at most 500"},
		"backfill with a reason in lines":  {"reason=a%0Ab", good, 400, "invalid-request", "reason: must be one line"},
		"backfill for a long name":         {"reason=r&on_behalf_of=" + strings.Repeat("n", 101), good, 400, "invalid-request", "on_behalf_of: has 101 bytes"},
		"backfill with no token":           {"reason=r&commit=yes", good, 400, "invalid-request", "commit: must be the token of a preview"},
		"backfill with an empty token":     {"reason=r&commit=", good, 400, "invalid-request", "commit: must be the token of a preview"},
		"backfill with another parameter":  {"reason=r&dryrun=1", good, 400, "invalid-request", "no such parameter"},
		"backfill of nothing":              {"reason=r", "[]", 400, "invalid-request", "the body holds no event"},
		"backfill without a time":          {"reason=r", withoutTime, 400, "invalid-events", "missing_attribute"},
		"backfill of the future":           {"reason=r", strings.Replace(good, "2025-12-01", "2026-12-01", 1), 400, "invalid-events", "time_in_future"},
		"backfill older than its bound":    {"reason=r", strings.Replace(good, "2025-12-01", "2025-01-01", 1), 400, "invalid-events", "time_too_old"},
		"backfill with one bad event":      {"reason=r", "[" + good + "," + strings.Replace(good, "5", "-5", 1) + "]", 400, "invalid-events", "so the backfill isn't"},
		"backfill of another content type": {"reason=r", "<event/>", 415, "unsupported-media-type", ""},
	}
	for name, tt := range tests {
		header := jsonType
		if tt.status == http.StatusUnsupportedMediaType {
			header = "Content-Type: text/xml"
		}
		a := b.do(t, http.MethodPost, "/api/v1/events:backfill?"+tt.query, backfillKey, tt.body, header)
		wantProblem(t, a, tt.status, tt.code)
		if !strings.Contains(a.body, tt.part) {
			t.Errorf("%s: %s lacks %q", name, a.body, tt.part)
		}
	}
	if len(b.stored(t)) != 0 || len(b.doors.audit) != 0 || len(b.ingester.Stats().Rejected) != 0 {
		t.Error("a preview stored or counted something")
	}
}

// TestBackfill_Failures: without an audit log nothing is taken; a spool that takes nothing is noted there.
func TestBackfill_Failures(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	token := effectOf(t, b.backfill(t, oldEvent("a"), "r", "")).Token
	b.doors.auditEr = errors.New("away")
	wantProblem(t, b.backfill(t, oldEvent("a"), "r", token), 503, "unavailable")
	if len(b.stored(t)) != 0 {
		t.Error("stored without an audit log")
	}
	b.doors.auditEr = nil
	b.doors.flushEr = errors.New("behind")
	wantProblem(t, b.backfill(t, oldEvent("a"), "r", ""), 503, "unavailable")
	b.doors.flushEr = nil
	b.doors.err = fmt.Errorf("preview backfill: %w: send fewer at once", meter.ErrBadQuery)
	if p := wantProblem(t, b.backfill(t, oldEvent("a"), "r", ""), 400, "invalid-request"); !strings.Contains(fmt.Sprint(p["detail"]), "send fewer at once") {
		t.Errorf("detail = %v", p["detail"])
	}
	b.doors.err = errors.New("away")
	wantProblem(t, b.backfill(t, oldEvent("a"), "r", ""), 503, "unavailable")
	b.doors.err = nil
	if err := b.spool.Close(); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, b.backfill(t, oldEvent("a"), "r", token), 503, "unavailable")
	if e := b.doors.audit; len(e) != 2 || e[0].Action != "backfill" || e[1].Action != "backfill_failed" {
		t.Errorf("audit = %+v, want the backfill and its failure", e)
	}
}

const voidBody = `{"subject":"tenant-1","source":"/t","ids":["a","b"],"reason":"sent twice","on_behalf_of":"Bob"}`

// TestVoid_PreviewThenCommit goes on when events arrive between two steps that leave the differences as they were.
func TestVoid_PreviewThenCommit(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.doors.effect = someEffect()
	preview := effectOf(t, b.do(t, http.MethodPost, "/api/v1/events:void", voidKey, voidBody, jsonType))
	want := meter.VoidRequest{Subject: "tenant-1", Source: "/t", IDs: []string{"a", "b"}}
	if d := cmp.Diff([]any{want}, b.doors.asked); d != "" || preview.Committed || strings.HasPrefix(preview.Token, "inner") {
		t.Errorf("preview %+v asked (-want +got):\n%s", preview, d)
	}
	b.doors.asked, b.doors.changes = nil, 2
	done := effectOf(t, b.do(t, http.MethodPost, "/api/v1/events:void?commit="+preview.Token, voidKey, voidBody, jsonType))
	if d := cmp.Diff([]any{want, want, want, "void [a b] by voider for Bob: sent twice"}, b.doors.asked); d != "" || !done.Committed {
		t.Errorf("commit %+v asked (-want +got):\n%s", done, d)
	}
	if e := b.doors.audit; len(e) != 1 || e[0].Action != "void" || e[0].Target != "tenant-1" || e[0].Actor != "voider for Bob" ||
		!strings.HasPrefix(e[0].Detail, `all types, 2 ids of source "/t" beginning with "a", 1 of 2 events`) {
		t.Errorf("audit = %+v", e)
	}
	other := strings.Replace(voidBody, `"b"`, `"c"`, 1)
	wantProblem(t, b.do(t, http.MethodPost, "/api/v1/events:void?commit="+preview.Token, voidKey, other, jsonType), 409, "effect-changed")
	b.doors.moving = true
	wantProblem(t, b.do(t, http.MethodPost, "/api/v1/events:void?commit="+preview.Token, voidKey, voidBody, jsonType), 503, "unavailable")
	if e := b.doors.audit; e[len(e)-1].Action != "void_failed" {
		t.Errorf("audit = %+v, want the failure at the end", e)
	}
}

// TestBadVoids are refused before the store is asked.
func TestBadVoids(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	ids := `"` + strings.Repeat(`x","`, 10_000) + `y"`
	tests := map[string]struct {
		body   string
		status int
		code   string
		detail string
	}{
		"void without a reason":          {`{"subject":"s","source":"x","ids":["1"]}`, 400, "invalid-request", "reason: is required"},
		"void without a subject":         {`{"source":"x","ids":["1"],"reason":"r"}`, 400, "invalid-request", "subject: is required"},
		"void of everything":             {`{"subject":"s","reason":"r"}`, 400, "invalid-request", "ids: give the events' ids"},
		"void of ids without a source":   {`{"subject":"s","ids":["1"],"reason":"r"}`, 400, "invalid-request", "source: is required with ids"},
		"void of an empty id":            {`{"subject":"s","source":"x","ids":[""],"reason":"r"}`, 400, "invalid-request", "ids: the one at 0"},
		"void of an id twice":            {`{"subject":"s","source":"x","ids":["1","1"],"reason":"r"}`, 400, "invalid-request", `ids: "1" occurs more than once`},
		"void of too many ids":           {`{"subject":"s","source":"x","ids":[` + ids + `],"reason":"r"}`, 400, "invalid-request", "ids: at most 10000 are taken (got 10001)"},
		"void from without to":           {`{"subject":"s","from":"2026-01-01T00:00:00Z","reason":"r"}`, 400, "invalid-request", "from and to: give both or none"},
		"void of a reversed period":      {`{"subject":"s","from":"2026-01-02T00:00:00Z","to":"2026-01-01T00:00:00Z","reason":"r"}`, 400, "invalid-request", "from: must be before to"},
		"void with an unknown field":     {`{"subject":"s","source":"x","id":"1","reason":"r"}`, 400, "invalid-request", `unknown field "id"`},
		"void with a long subject":       {`{"subject":"` + strings.Repeat("s", 1025) + `","source":"x","ids":["1"],"reason":"r"}`, 400, "invalid-request", "subject: has 1025 bytes"},
		"void with no JSON":              {`{"subject"`, 400, "invalid-request", "the body can't be read"},
		"void of two bodies":             {voidBody + voidBody, 400, "invalid-request", "more than one JSON value"},
		"void of a time of another form": {`{"subject":"s","from":"yesterday","to":"today","reason":"r"}`, 400, "invalid-request", "the body can't be read"},
	}
	for name, tt := range tests {
		p := wantProblem(t, b.do(t, http.MethodPost, "/api/v1/events:void", voidKey, tt.body, jsonType), tt.status, tt.code)
		if !strings.Contains(fmt.Sprint(p["detail"]), tt.detail) {
			t.Errorf("%s: detail %q lacks %q", name, p["detail"], tt.detail)
		}
	}
	wantProblem(t, b.do(t, http.MethodPost, "/api/v1/events:void?commit=x", voidKey, voidBody, jsonType), 400, "invalid-request")
	if len(b.doors.asked) != 0 || len(b.doors.audit) != 0 {
		t.Errorf("the store was asked: %v", b.doors.asked)
	}
}

// TestDoors_Missing: a part that the daemon runs without is answered as such.
func TestDoors_Missing(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *httpapi.Options) { o.Doors = httpapi.Doors{} })
	sn := "/api/v1/bill-records/00000000000000000000000000000001/explain"
	for path, key := range map[string]string{
		"POST /api/v1/events:backfill?reason=r": backfillKey, "POST /api/v1/events:void": voidKey, "GET /api/v1/held-usage": queryKey,
		"POST /api/v1/held-usage:decide": operateKey, "POST /api/v1/bill-records:act": operateKey, "POST /api/v1/bill-records:resend": operateKey,
		"GET /api/v1/audit": queryKey, "GET /api/v1/instances/i/life": queryKey, "POST /api/v1/instances/i/life": operateKey,
		"GET " + sn: queryKey, "GET " + sn + "/events": queryKey, "GET /api/v1/verify": queryKey, "GET /api/v1/breaker": queryKey,
		"POST /api/v1/breaker:reset": operateKey, "GET /api/v1/clock": queryKey, "POST /api/v1/clock:trust": operateKey,
	} {
		method, path, _ := strings.Cut(path, " ")
		wantProblem(t, b.do(t, method, path, key, "{}", jsonType), http.StatusNotImplemented, "not-available")
	}
}

// TestStore_NotOpen: an answer for want of a store says that it was never reached.
func TestStore_NotOpen(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *httpapi.Options) { o.StoreOpen = func() bool { return false } })
	b.books.err, b.doors.err = errors.New("not open"), errors.New("not open")
	for _, a := range []answer{
		b.do(t, http.MethodPost, "/api/v1/admin/close", adminKey, `{"until":"2026-11-23T09:00:00Z"}`, jsonType),
		b.do(t, http.MethodGet, "/api/v1/bill-records", queryKey, ""),
		b.do(t, http.MethodPost, "/api/v1/events:void", voidKey, voidBody, jsonType),
	} {
		if p := wantProblem(t, a, 503, "unavailable"); !strings.HasPrefix(fmt.Sprint(p["detail"]), "ClickHouse was not reached yet since the daemon started") {
			t.Errorf("detail = %v", p["detail"])
		}
	}
	// What isn't the store's fault is told as ever.
	if p := wantProblem(t, b.do(t, http.MethodGet, "/api/v1/bill-records?limit=0", queryKey, ""), 400, "invalid-request"); !strings.Contains(fmt.Sprint(p["detail"]), "limit") {
		t.Errorf("detail = %v", p["detail"])
	}
}

// FuzzActs sends any body to every door that takes JSON: it must answer in JSON and never with an error of the service.
func FuzzActs(f *testing.F) {
	paths := map[string]string{
		"/api/v1/events:void": voidKey, "/api/v1/held-usage:decide": operateKey, "/api/v1/bill-records:act": operateKey,
		"/api/v1/bill-records:resend": operateKey, "/api/v1/instances/i-1/life": operateKey, "/api/v1/breaker:reset": operateKey,
		"/api/v1/clock:trust": operateKey,
	}
	id := `"00000000000000000000000000000001"`
	for _, body := range []string{
		voidBody, `{"ids":[` + id + `],"decision":"approve","reason":"r"}`, `{"sns":[` + id + `],"to":"pending","reason":"r"}`,
		`{"sns":[` + id + `],"failures":[{"sn":` + id + `,"code":"005","message":"m"}],"reason":"r"}`,
		`{"kind":"released","at":"2026-11-23T10:00:00Z","reason":"r"}`, `{"reason":"r"}`, "", "{", "[]", "null", `{"reason":"\ud800"}`,
		`{"subject":"s","from":"0001-01-01T00:00:00Z","to":"9999-12-31T23:59:59.999999999Z","reason":"r"}`,
	} {
		f.Add([]byte(body), "")
	}
	b := setup(f, nil)
	f.Fuzz(func(t *testing.T, body []byte, commit string) {
		for path, key := range paths {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(string(body)))
			r.Header.Set("X-Api-Key", key)
			if commit != "" && strings.HasSuffix(path, "void") {
				r.URL.RawQuery = url.Values{"commit": {commit}}.Encode()
			}
			w := httptest.NewRecorder()
			b.api.ServeHTTP(w, r)
			if w.Code >= 500 || !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s: %d %s", path, w.Code, w.Body)
			}
		}
	})
}

// FuzzBackfill sends any body to the door for old events with any parameters.
func FuzzBackfill(f *testing.F) {
	f.Add([]byte(oldEvent("a")), "application/json", "reason=r")
	f.Add([]byte("["+oldEvent("a")+","+oldEvent("a")+"]"), "application/cloudevents-batch+json", "reason=r&on_behalf_of=x&commit=0011223344556677-0011223344556677-0011223344556677")
	f.Add([]byte(oldEvent("a")+"\n{"), "application/x-ndjson", "reason=%ff")
	b := setup(f, nil)
	f.Fuzz(func(t *testing.T, body []byte, contentType, query string) {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/v1/events:backfill", strings.NewReader(string(body)))
		r.URL.RawQuery = query
		r.Header.Set("X-Api-Key", backfillKey)
		r.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		b.api.ServeHTTP(w, r)
		if w.Code >= 500 || !json.Valid(w.Body.Bytes()) {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}
