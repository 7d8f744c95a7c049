package doctor_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/doctor"
	"github.com/meterd/meterd/store"
	"github.com/meterd/meterd/store/embedded"
	"github.com/meterd/meterd/store/storetest"
)

func TestRunNeedsClock(t *testing.T) {
	t.Parallel()
	if _, err := doctor.Run(t.Context(), doctor.Options{}); err == nil {
		t.Error("Run without a clock succeeds")
	}
}

func TestChecksAreIndependent(t *testing.T) {
	t.Parallel()
	panicking := doctor.Guarded(t.Context(), time.Minute, func(context.Context) []doctor.Finding { panic("out of cheese") })
	expect(t, panicking, doctor.Fail, "the check itself failed: out of cheese")
	release := make(chan struct{})
	defer close(release)
	hanging := doctor.Guarded(t.Context(), time.Millisecond, func(context.Context) []doctor.Finding { <-release; return nil })
	expect(t, hanging, doctor.Fail, "no result within 1ms")
}

// TestEngine starts the real engine.
func TestEngine(t *testing.T) {
	t.Parallel()
	library, err := embedded.FindLibrary("")
	if err != nil {
		if os.Getenv("METERD_REQUIRE_ENGINES") == "1" {
			t.Fatalf("METERD_REQUIRE_ENGINES=1: %v", err)
		}
		t.Skip(err)
	}
	cfg := testConfig(t)
	cfg.Store.EngineLibrary = library
	findings := examine(t, doctor.Options{Config: cfg}, "engine")
	expect(t, findings, doctor.OK, "library "+library)
	expect(t, findings, doctor.OK, "started on a scratch directory and answered")
}

func TestEngineFaults(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	expect(t, examine(t, doctor.Options{Config: cfg}, "engine"), doctor.Fail, "engine library not found")

	cfg.Store.EngineLibrary = filepath.Join(cfg.DataDir, "libchdb.so")
	writeFile(t, cfg.Store.EngineLibrary, 0o600) // no library
	expect(t, examine(t, doctor.Options{Config: cfg}, "engine"), doctor.Fail, "doesn't start")
}

// TestServer asks a real server.
func TestServer(t *testing.T) {
	t.Parallel()
	server := storetest.StartServer(t)
	cfg := testConfig(t)
	cfg.Store.Embedded, cfg.Store.Addrs = false, []string{server.Addr}
	findings := examine(t, doctor.Options{Config: cfg}, "server")
	for _, f := range findings {
		if f.Status == doctor.Fail {
			t.Errorf("%+v", f)
		}
	}
	if len(findings) < 3 || !strings.Contains(findings[0].Found, server.Addr+": ClickHouse ") {
		t.Fatalf("findings = %+v", findings)
	}
	expect(t, findings, doctor.OK, "its clock agrees with ours")
	expect(t, findings, doctor.OK, "database meterd isn't there yet")

	cfg.Store.Database = "default"
	expect(t, examine(t, doctor.Options{Config: cfg}, "server"), doctor.OK, "database default is there")

	skewed := doctor.Options{Config: cfg, Now: func() time.Time { return time.Now().Add(time.Minute) }}
	expect(t, examine(t, skewed, "server"), doctor.Fail, "our clock is 1m")

	cfg.Store.Password = "fake-wrong-password-never-shown"
	findings = examine(t, doctor.Options{Config: cfg}, "server")
	expect(t, findings, doctor.Fail, server.Addr)
	if strings.Contains(fmt.Sprint(findings), "never-shown") || !strings.Contains(findings[0].Advice, "password") {
		t.Errorf("findings = %+v", findings)
	}

	cfg.Store.Password, cfg.Store.Cluster = "", "nowhere"
	expect(t, examine(t, doctor.Options{Config: cfg}, "server"), doctor.Fail, `knows no cluster "nowhere"`)
}

func TestServerAway(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.Store.Embedded, cfg.Store.Addrs = false, []string{closedPort(t), silentListener(t)}
	cfg.Store.DialTimeout = config.Duration(200 * time.Millisecond)
	findings := examine(t, doctor.Options{Config: cfg, Timeout: time.Second}, "server")
	if len(findings) != 2 || findings[0].Status != doctor.Fail || findings[1].Status != doctor.Fail {
		t.Errorf("findings = %+v", findings)
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	const gib = 1 << 30
	at := time.Unix(1_700_000_000, 500_000_000)
	for name, tt := range map[string]struct {
		got  doctor.Finding
		want doctor.Status
	}{
		"18.14":          {doctor.Version("s", store.Version{Major: 18, Minor: 14}), doctor.Fail},
		"18.16":          {doctor.Version("s", store.Version{Major: 18, Minor: 16}), doctor.Warn},
		"24.3":           {doctor.Version("s", store.Version{Major: 24, Minor: 3}), doctor.Warn},
		"24.8":           {doctor.Version("s", store.Version{Major: 24, Minor: 8}), doctor.OK},
		"26.5":           {doctor.Version("s", store.Version{Major: 26, Minor: 5}), doctor.OK},
		"disk full":      {doctor.DiskFinding("s", "d", gib/2, 100*gib), doctor.Fail},
		"disk filling":   {doctor.DiskFinding("s", "d", 9*gib, 100*gib), doctor.Warn},
		"disk free":      {doctor.DiskFinding("s", "d", 50*gib, 100*gib), doctor.OK},
		"disk unbounded": {doctor.DiskFinding("s", "d", 1<<64-1, 1<<64-1), doctor.OK},
		"few files":      {doctor.FilesFinding(128), doctor.Fail},
		"some files":     {doctor.FilesFinding(1024), doctor.Warn},
		"many files":     {doctor.FilesFinding(65536), doctor.OK},
		"4 s":            {doctor.OffsetFinding("c", "m", at.Truncate(time.Second).Add(4*time.Second), at, at), doctor.OK},
		"5 s":            {doctor.OffsetFinding("c", "m", at.Truncate(time.Second).Add(5*time.Second), at, at), doctor.Warn},
		"-29 s":          {doctor.OffsetFinding("c", "m", at.Truncate(time.Second).Add(-29*time.Second), at, at), doctor.Warn},
		"-30 s":          {doctor.OffsetFinding("c", "m", at.Truncate(time.Second).Add(-30*time.Second), at, at), doctor.Fail},
	} {
		if tt.got.Status != tt.want {
			t.Errorf("%s: %+v, want %s", name, tt.got, tt.want)
		}
	}
}

func TestMayCreate(t *testing.T) {
	t.Parallel()
	for grant, want := range map[string]bool{
		"GRANT ALL ON *.* TO default WITH GRANT OPTION":         true,
		"GRANT SELECT, INSERT, CREATE ON *.* TO m":              true,
		"GRANT SELECT, CREATE DATABASE ON `meterd`.* TO m":      true,
		"GRANT SELECT, INSERT ON meterd.* TO m":                 false,
		"GRANT CREATE ON other.* TO m":                          false,
		"GRANT CREATE TEMPORARY TABLE, CREATE VIEW ON *.* TO m": false,
		"GRANT writers TO m":                                    false,
		"":                                                      false,
	} {
		if got := doctor.MayCreate([]string{"GRANT SHOW ON *.* TO m", grant}, "meterd"); got != want {
			t.Errorf("MayCreate(%q) = %t, want %t", grant, got, want)
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.Reporting.Enabled = true
	expect(t, examine(t, doctor.Options{Config: cfg}, "keys"), doctor.Fail, "seller key is missing")
	expect(t, examine(t, doctor.Options{Config: cfg}, "keys"), doctor.Warn, "no API keys")
	cfg.KooGallery.API = "old"
	expect(t, examine(t, doctor.Options{Config: cfg}, "keys"), doctor.Fail, "access key or its secret is missing")

	dir := t.TempDir()
	tight, readable, writable := filepath.Join(dir, "tight"), filepath.Join(dir, "readable"), filepath.Join(dir, "writable")
	writeFile(t, tight, 0o600)
	writeFile(t, readable, 0o640)
	writeFile(t, writable, 0o620)
	cfg.KooGallery.API, cfg.KooGallery.SellerKey, cfg.KooGallery.SellerKeyFile = "new", "fake-seller-key-never-shown", tight
	cfg.Server.Keys = []config.Key{
		{Name: "short", File: readable, Value: "fake-key-never-shown", Scopes: []string{config.ScopeQuery}},
		{Name: "long", File: writable, Value: "fake-key-of-32-characters-never-shown", Scopes: []string{config.ScopeQuery}},
	}
	findings := examine(t, doctor.Options{Config: cfg}, "keys")
	expect(t, findings, doctor.OK, "marketplace's key is present")
	expect(t, findings, doctor.Warn, `API key "short": query, 20 characters`)
	expect(t, findings, doctor.OK, `API key "long": query, 37 characters`)
	expect(t, findings, doctor.Warn, "no API key may send events")
	expect(t, findings, doctor.Warn, "no API key may close hours")
	expect(t, findings, doctor.Warn, readable+" can be read by other users")
	expect(t, findings, doctor.Fail, writable+" can be written by other users")
	text, err := json.Marshal(findings)
	if err != nil || strings.Contains(string(text), "never-shown") || strings.Contains(string(text), tight) {
		t.Errorf("findings show a key or a good file: %s, %v", text, err)
	}
}

func TestCertificate(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	for name, tt := range map[string]struct {
		end    time.Time
		status doctor.Status
	}{
		"good":    {time.Now().AddDate(0, 2, 0), doctor.OK},
		"soon":    {time.Now().AddDate(0, 0, 3), doctor.Warn},
		"expired": {time.Now().Add(-time.Minute), doctor.Fail},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t)
			cfg.Server.TLSCertFile = filepath.Join(t.TempDir(), "cert.pem")
			der := ca.issue(t, tt.end, "127.0.0.1").Certificate[0]
			if err := os.WriteFile(cfg.Server.TLSCertFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
				t.Fatal(err)
			}
			expect(t, examine(t, doctor.Options{Config: cfg}, "certificate"), tt.status, cfg.Server.TLSCertFile)
		})
	}
}

func TestListeners(t *testing.T) {
	t.Parallel()
	ready := func(status int, body string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		t.Cleanup(s.Close)
		return s
	}
	cfg := testConfig(t)
	set := func(api, telemetry string) doctor.Options {
		cfg.Server.Listen, cfg.Telemetry.Listen = strings.TrimPrefix(api, "http://"), strings.TrimPrefix(telemetry, "http://")
		return doctor.Options{Config: cfg, Timeout: time.Second}
	}
	findings := examine(t, set(closedPort(t), ""), "listeners")
	expect(t, findings, doctor.OK, " is free")
	if len(findings) != 1 {
		t.Errorf("findings = %+v", findings)
	}
	findings = examine(t, set(ready(200, "openapi: 3.1.0\ninfo:\n  title: meterd\n").URL, ready(200, `{"status":"ok","checks":{}}`).URL), "listeners")
	expect(t, findings, doctor.OK, "server.listen")
	expect(t, findings, doctor.OK, "which is ready")
	findings = examine(t, set(ready(200, "hello").URL, ready(503, `{"status":"failing","checks":{"spool":"full","store":"ok"}}`).URL), "listeners")
	expect(t, findings, doctor.Fail, "held by another program")
	expect(t, findings, doctor.Warn, "not ready: spool: full")
	findings = examine(t, set(silentListener(t), ready(404, "no").URL), "listeners")
	expect(t, findings, doctor.Fail, "server.listen")
	expect(t, findings, doctor.Fail, "answers 404 and no health report")
	expect(t, examine(t, set("192.0.2.1:8080", ""), "listeners"), doctor.Fail, "no address of this machine")

	_, port, err := net.SplitHostPort(strings.TrimPrefix(ready(200, "title: meterd").URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, examine(t, set("0.0.0.0:"+port, ""), "listeners"), doctor.OK, "held by a running meterd")
}

func TestClock(t *testing.T) {
	t.Parallel()
	findings := examine(t, doctor.Options{Config: testConfig(t)}, "clock")
	if len(findings) != 1 || findings[0].Status == doctor.Fail {
		t.Errorf("findings = %+v", findings)
	}
}
