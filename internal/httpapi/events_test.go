package httpapi_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/meter"
)

func gzipped(tb testing.TB, text string) string {
	tb.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(text)); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.String()
}

func zstded(tb testing.TB, text string) string {
	tb.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := w.Write([]byte(text)); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.String()
}

// TestEvents_Forms sends the same event in every form that is taken.
func TestEvents_Forms(t *testing.T) {
	t.Parallel()
	one := event("e-1")
	const stored = `e-1 /t prompt tenant-1 {"tokens":5,"model":"m"}`
	binary := []string{
		"Ce-Id: e-1", "Ce-Source: /t", "Ce-Type: prompt", "Ce-Subject: tenant-1", "Ce-Specversion: 1.0", "Ce-Time: 2026-11-23T10:00:00Z",
	}
	const data = `{"tokens":5,"model":"m"}`
	tests := map[string]struct {
		body    string
		headers []string
		want    []string
	}{
		"structured":        {one, []string{"Content-Type: application/cloudevents+json"}, []string{stored}},
		"charset":           {one, []string{"Content-Type: application/cloudevents+json; charset=utf-8"}, []string{stored}},
		"charset in quotes": {one, []string{`Content-Type: Application/CloudEvents+JSON;charset="UTF-8"; profile=x`}, []string{stored}},
		"batch":             {"[" + one + "]", []string{"Content-Type: application/cloudevents-batch+json"}, []string{stored}},
		"batch parameter":   {"[" + one + "]", []string{"Content-Type: application/cloudevents-batch+json; charset=UTF-8"}, []string{stored}},
		"empty batch":       {"[]", []string{"Content-Type: application/cloudevents-batch+json"}, nil},
		"json object":       {one, []string{"Content-Type: application/json"}, []string{stored}},
		"json array":        {" [" + one + "," + event("e-2") + "] ", []string{"Content-Type: application/json"}, []string{stored, strings.Replace(stored, "e-1", "e-2", 1)}},
		"no content type":   {"\n" + one, nil, []string{stored}},
		"no type, array":    {"[" + one + "]", nil, []string{stored}},
		"ndjson":            {one + "\n\n" + event("e-2") + "\r\n", []string{"Content-Type: application/x-ndjson"}, []string{stored, strings.Replace(stored, "e-1", "e-2", 1)}},
		"empty ndjson":      {"", []string{"Content-Type: application/x-ndjson"}, nil},
		"binary":            {data, append([]string{"Content-Type: application/json"}, binary...), []string{stored}},
		"binary, no type":   {data, binary, []string{stored}},
		"gzip":              {gzipped(t, one), []string{"Content-Type: application/json", "Content-Encoding: gzip"}, []string{stored}},
		"zstd":              {zstded(t, one), []string{"Content-Type: application/json", "Content-Encoding: zstd"}, []string{stored}},
		"identity":          {one, []string{"Content-Type: application/json", "Content-Encoding: identity"}, []string{stored}},
		"gzip in upper case, after identity": {
			gzipped(t, one), []string{"Content-Type: application/json", "Content-Encoding: identity, GZIP"}, []string{stored},
		},
		"gzip ndjson":      {gzipped(t, one+"\n"), []string{"Content-Type: application/x-ndjson", "Content-Encoding: gzip"}, []string{stored}},
		"without a meter":  {strings.Replace(one, "prompt", "unheard", 1), nil, []string{strings.Replace(stored, "prompt", "unheard", 1)}},
		"number as a text": {strings.Replace(one, "5", `"5"`, 1), nil, []string{strings.Replace(stored, "5", `"5"`, 1)}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, nil)
			a := b.do(t, http.MethodPost, "/api/v1/events", ingestKey, tt.body, tt.headers...)
			if a.status != http.StatusNoContent || a.body != "" {
				t.Fatalf("answer = %d %s, want 204", a.status, a.body)
			}
			if d := cmp.Diff(tt.want, b.stored(t)); d != "" {
				t.Errorf("stored (-want +got):\n%s", d)
			}
		})
	}
}

// TestEvents_Chunked sends a batch without a length, which isn't a stream because it isn't NDJSON.
func TestEvents_Chunked(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	r := b.request(t, "["+event("e-1")+"]")
	r.ContentLength = -1
	if a := b.send(t, r); a.status != http.StatusNoContent {
		t.Fatalf("answer = %d %s", a.status, a.body)
	}
	if got := b.stored(t); len(got) != 1 {
		t.Errorf("stored = %v, want one event", got)
	}
}

// TestEvents_ExpectContinue: a body that isn't wanted isn't asked for.
func TestEvents_ExpectContinue(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	answer := b.raw(t, "POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\nx-api-key: "+ingestKey+
		"\r\nContent-Type: application/json\r\nContent-Length: 999999999\r\nExpect: 100-continue\r\n\r\n")
	if !strings.HasPrefix(answer, "HTTP/1.1 413 ") {
		t.Errorf("too large: %q, want 413 without 100", answer)
	}
	answer = b.raw(t, "POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\nx-api-key: wrong\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
	if !strings.HasPrefix(answer, "HTTP/1.1 401 ") {
		t.Errorf("wrong key: %q, want 401 without 100", answer)
	}
	one := event("e-1")
	answer = b.raw(t, fmt.Sprintf("POST /api/v1/events HTTP/1.1\r\nHost: localhost\r\nx-api-key: %s\r\nContent-Type: application/json\r\n"+
		"Content-Length: %d\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n%s", ingestKey, len(one), one))
	if !strings.HasPrefix(answer, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 ") {
		t.Errorf("good: %q, want 100, then 204", answer)
	}
}

// TestEvents_BinaryAttributes covers what the HTTP binding says about header values.
func TestEvents_BinaryAttributes(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	a := b.do(t, http.MethodPost, "/api/v1/events", ingestKey, `{"tokens":1}`, "Content-Type: application/json",
		"Ce-Id: Euro%20%E2%82%AC%20%F0%9F%98%80", `Ce-Source: "a \"quoted\" one"`, "Ce-Type: prompt", "Ce-Subject: 100%-sure", "Ce-Specversion: 1.0")
	if a.status != http.StatusNoContent {
		t.Fatalf("answer = %d %s", a.status, a.body)
	}
	if want, got := []string{`Euro € 😀 a "quoted" one prompt 100%-sure {"tokens":1}`}, b.stored(t); !slices.Equal(want, got) {
		t.Errorf("stored = %q, want %q", got, want)
	}
	p := wantProblem(t, b.do(t, http.MethodPost, "/api/v1/events", ingestKey, `{"tokens":1}`, "Content-Type: application/json",
		"Ce-Id: a", "Ce-Id: b", "Ce-Source: /t", "Ce-Type: prompt", "Ce-Subject: s", "Ce-Specversion: 1.0"), 400, "invalid-events")
	if reason := firstError(p)["reason"]; reason != string(meter.ReasonDuplicateKey) {
		t.Errorf("reason of a repeated header = %v, want %s", reason, meter.ReasonDuplicateKey)
	}
}

func firstError(p map[string]any) map[string]any {
	list, _ := p["errors"].([]any)
	if len(list) == 0 {
		return nil
	}
	first, _ := list[0].(map[string]any)
	return first
}

// TestEvents_RefusedAsAWhole compares the whole answer, and checks that nothing was stored.
func TestEvents_RefusedAsAWhole(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	body := "[" + strings.Join([]string{
		event("good"),
		`{"specversion":"1.0","id":"no-source","type":"prompt","subject":"s"}`,
		strings.Replace(event("negative"), "5", "-5", 1),
		strings.Replace(event("future"), "T10:00", "T23:00", 1),
		strings.Replace(event("old"), "2026-11-23", "2020-01-01", 1),
		`"text"`,
	}, ",") + "]"
	a := b.post(t, body, "Content-Type: application/json", "X-Request-Id: golden-1")
	wantProblem(t, a, 400, "invalid-events")
	golden(t, "invalid-events.json", a.body)
	if got := b.stored(t); len(got) != 0 {
		t.Errorf("stored = %v, want nothing", got)
	}
	letters, _, err := b.letters.List(0, 100)
	if err != nil || len(letters) != 5 {
		t.Errorf("dead letters = %d, %v; want 5", len(letters), err)
	}
	stats := b.ingester.Stats()
	if stats.Refused != 1 || stats.Rejected[meter.ReasonValueNegative] != 1 || stats.Rejected[meter.ReasonNotAnObject] != 1 {
		t.Errorf("stats = %+v, want one refused and each reason counted", stats)
	}
}

// TestEvents_ErrorsAreBounded: a large batch of bad events doesn't make a large answer.
func TestEvents_ErrorsAreBounded(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	body := "[" + strings.Repeat("1,", 4999) + "1]"
	p := wantProblem(t, b.post(t, body), 400, "invalid-events")
	if list, _ := p["errors"].([]any); len(list) != 100 || p["total_errors"] != 5000.0 {
		t.Errorf("%d errors of %v, want 100 of 5000", len(list), p["total_errors"])
	}
}

// TestEvents_Representation keeps the good events and gives a verdict on each.
func TestEvents_Representation(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	body := "[" + strings.Join([]string{
		event("a"), event("a"), strings.Replace(event("a"), "5", "6", 1), strings.Replace(event("b"), "5", `"x\u0000\""`, 1),
		strings.Replace(event("c"), "prompt", "other", 1),
	}, ",") + "]"
	a := b.post(t, body, "Content-Type: application/json", `Prefer: wait=5, return="representation"; x=y`)
	if a.status != http.StatusOK || a.header.Get("Preference-Applied") != "return=representation" {
		t.Fatalf("answer = %d %v %s", a.status, a.header, a.body)
	}
	golden(t, "representation.json", a.body)
	if !json.Valid([]byte(a.body)) {
		t.Errorf("not JSON: %s", a.body)
	}
	if got := b.stored(t); len(got) != 4 {
		t.Errorf("stored = %q, want the four good ones", got)
	}
	if letters, _, err := b.letters.List(0, 10); err != nil || len(letters) != 1 || letters[0].Reason != meter.ReasonValueNumber {
		t.Errorf("dead letters = %+v, %v", letters, err)
	}
	// return=minimal is the default.
	if a := b.post(t, event("d"), "Prefer: return=minimal"); a.status != http.StatusNoContent {
		t.Errorf("minimal: %d, want 204", a.status)
	}
}

// TestEvents_Observed checks what metrics are told, and that no label comes from the client.
func TestEvents_Observed(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.post(t, event("a"))
	b.post(t, "x")
	b.do(t, "BREW", "/pot/"+strings.Repeat("x", 100), adminKey, "")
	b.do(t, "BREW", "/api/v1/meters/abc", adminKey, "")
	b.do(t, http.MethodGet, "/api/v1/meters/tokens_total", queryKey, "")
	b.do(t, http.MethodGet, "/api/v1/meters/tokens_total", "wrong", "")
	b.server.Close()
	var got []string
	for _, o := range b.observed {
		if o.Duration <= 0 {
			t.Errorf("%+v: no duration", o)
		}
		got = append(got, fmt.Sprintf("%s %s %d %s", o.Method, o.Route, o.Status, o.Key))
	}
	want := []string{
		"POST /api/v1/events 204 backend", "POST /api/v1/events 400 backend", "other other 404 ", "other /api/v1/meters/{slug} 405 ",
		"GET /api/v1/meters/{slug} 200 finance", "GET /api/v1/meters/{slug} 401 ",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("observed (-want +got):\n%s", d)
	}
}

// FuzzEvents sends any body with any headers: the handler must answer, count every event once and never panic.
func FuzzEvents(f *testing.F) {
	f.Add([]byte(event("a")), "application/cloudevents+json", "", "")
	f.Add([]byte("["+event("a")+","+event("b")+",7]"), "application/json; charset=utf-8", "", "return=representation")
	f.Add([]byte(event("a")+"\n{\n"), "application/x-ndjson", "", "")
	f.Add([]byte(gzipped(f, event("a"))), "", "gzip", "")
	f.Add([]byte(zstded(f, event("a"))), "", "zstd", "")
	f.Add([]byte("{"), "application/cloudevents-batch+json", "identity", "return=representation")
	b := setup(f, func(o *httpapi.Options) { o.MaxBody = 1 << 16 })
	f.Fuzz(func(t *testing.T, body []byte, contentType, encoding, prefer string) {
		before := b.ingester.Stats()
		a := b.recorded(t, body, map[string]string{"Content-Type": contentType, "Content-Encoding": encoding, "Prefer": prefer, "X-Api-Key": ingestKey})
		after := b.ingester.Stats()
		switch a.status {
		case http.StatusNoContent:
			if len(a.body) != 0 {
				t.Errorf("204 with a body: %q", a.body)
			}
		case http.StatusOK:
			var v struct {
				Accepted, Rejected int
				Events             []struct{ Status, Reason string }
			}
			if err := json.Unmarshal([]byte(a.body), &v); err != nil || v.Accepted+v.Rejected != len(v.Events) {
				t.Errorf("verdicts %q: %v", a.body, err)
			}
			if uint64(v.Accepted) != after.Accepted-before.Accepted {
				t.Errorf("answer says %d accepted, counted %d", v.Accepted, after.Accepted-before.Accepted)
			}
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType:
			if a.header.Get("Content-Type") != "application/problem+json" || !json.Valid([]byte(a.body)) {
				t.Errorf("answer %d is no problem: %q", a.status, a.body)
			}
			if after.Accepted != before.Accepted {
				t.Errorf("answer %d although events were accepted", a.status)
			}
		default:
			t.Errorf("status %d: %s", a.status, a.body)
		}
	})
}
