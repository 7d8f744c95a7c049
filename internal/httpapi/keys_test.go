package httpapi_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/meterd/meterd/internal/httpapi"
)

// TestKeys_Scopes tries every key on routes of every scope.
func TestKeys_Scopes(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	routes := map[string][2]string{
		"ingest": {http.MethodPost, "/api/v1/events"}, "query": {http.MethodGet, "/api/v1/meters"}, "admin": {http.MethodGet, "/api/v1/admin/status"},
		"backfill": {http.MethodPost, "/api/v1/events:backfill?reason=r"},
		"void":     {http.MethodPost, "/api/v1/events:void"},
		"operate":  {http.MethodPost, "/api/v1/breaker:reset"},
	}
	bodies := map[string]string{"void": `{"subject":"s","source":"x","ids":["1"],"reason":"r"}`, "operate": `{"reason":"r"}`}
	keys := map[string]string{
		"ingest": ingestKey, "query": queryKey, "admin": adminKey, "backfill": backfillKey, "void": voidKey, "operate": operateKey,
	}
	for scope, route := range routes {
		for owner, key := range keys {
			body, given := bodies[scope]
			if !given {
				body = event("a")
			}
			a := b.do(t, route[0], route[1], key, body, "Content-Type: application/json")
			if owner == scope && a.status >= 300 {
				t.Errorf("%s with the %s key: %d %s", route[1], owner, a.status, a.body)
			}
			if owner != scope {
				wantProblem(t, a, http.StatusForbidden, "forbidden")
			}
		}
	}
}

// TestKeys_Headers covers the ways to send a key.
func TestKeys_Headers(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	tests := map[string]struct {
		headers []string
		status  int
	}{
		"bearer":               {[]string{"Authorization: Bearer " + queryKey}, 200},
		"bearer in lower case": {[]string{"Authorization: bearer  " + queryKey}, 200},
		"x-api-key":            {[]string{"x-api-key: " + queryKey}, 200},
		"basic":                {[]string{"Authorization: Basic " + queryKey}, 401},
		"bare":                 {[]string{"Authorization: " + queryKey}, 401},
		"two":                  {[]string{"Authorization: Bearer " + queryKey, "Authorization: Bearer " + queryKey}, 401},
		"prefix of a key":      {[]string{"x-api-key: " + queryKey[:10]}, 401},
		"longer than a key":    {[]string{"x-api-key: " + queryKey + "x"}, 401},
		"huge":                 {[]string{"x-api-key: " + strings.Repeat("k", 10000)}, 401},
		"none":                 {nil, 401},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a := b.do(t, http.MethodGet, "/api/v1/meters", "", "", tt.headers...)
			if a.status != tt.status || tt.status == 401 && !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer ") {
				t.Errorf("answer = %d %v, want %d", a.status, a.header, tt.status)
			}
			if strings.Contains(a.body, queryKey[:10]) {
				t.Errorf("the answer shows the key: %s", a.body)
			}
		})
	}
	b.server.Close()
	if strings.Contains(b.log.String(), queryKey[:10]) {
		t.Errorf("the log shows a key: %s", b.log.String())
	}
}

// TestKeys_Public: the description and the index need no key.
func TestKeys_Public(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	for path, want := range map[string]string{"/": "text/plain; charset=utf-8", "/api/v1/openapi.yaml": "application/yaml"} {
		if a := b.do(t, http.MethodGet, path, "", ""); a.status != 200 || a.header.Get("Content-Type") != want || a.body == "" {
			t.Errorf("GET %s = %d %v", path, a.status, a.header)
		}
	}
	if a := b.do(t, http.MethodGet, "/", "", "", "Accept: text/html,*/*;q=0.8"); !strings.HasPrefix(a.body, "<!doctype html>") {
		t.Errorf("GET / for a browser = %s", a.body)
	}
}

// TestKeys_NoneConfigured: without any key only this machine is served, and not the pages of other sites.
func TestKeys_NoneConfigured(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *httpapi.Options) { o.Keys = nil })
	tests := map[string]struct {
		remote, host string
		header       [2]string
		status       int
	}{
		"IPv4":          {"127.0.0.1:5", "localhost:8080", [2]string{}, 204},
		"IPv6":          {"[::1]:5", "[::1]:8080", [2]string{}, 204},
		"mapped IPv4":   {"[::ffff:127.0.0.1]:5", "127.0.0.1", [2]string{}, 204},
		"unix socket":   {"@", "localhost", [2]string{}, 204},
		"other machine": {"192.0.2.1:5", "localhost", [2]string{}, 403},
		"nonsense":      {"127.0.0.1", "localhost", [2]string{}, 403},
		"other name":    {"127.0.0.1:5", "evil.example", [2]string{}, 403},
		"other site":    {"127.0.0.1:5", "localhost", [2]string{"Sec-Fetch-Site", "cross-site"}, 403},
		"other origin":  {"127.0.0.1:5", "localhost", [2]string{"Origin", "https://evil.example"}, 403},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/v1/events", strings.NewReader(event("a")))
			r.RemoteAddr, r.Host = tt.remote, tt.host
			if tt.header[0] != "" {
				r.Header.Set(tt.header[0], tt.header[1])
			}
			w := httptest.NewRecorder()
			b.api.ServeHTTP(w, r)
			if w.Code != tt.status {
				t.Errorf("status = %d %s, want %d", w.Code, w.Body, tt.status)
			}
		})
	}
}

// TestNew_Checks its options.
func TestNew_Checks(t *testing.T) {
	t.Parallel()
	if _, err := httpapi.New(httpapi.Options{}); err == nil {
		t.Error("New without anything = nil error")
	}
}

// TestRequestID follows a client's id and makes its own otherwise.
func TestRequestID(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	seen := map[string]bool{}
	for given, kept := range map[string]bool{"abc-DEF_1.2": true, "": false, "with space": false, strings.Repeat("x", 65): false, "a\"b": false} {
		a := b.do(t, http.MethodGet, "/", "", "", "X-Request-Id: "+given)
		got := a.header.Get("X-Request-Id")
		if got == "" || seen[got] || (got == given) != kept {
			t.Errorf("X-Request-Id of %q = %q", given, got)
		}
		seen[got] = true
	}
}
