package storetest

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/store"
)

var update = flag.Bool("update", false, "write golden files anew")

// goldenFile has what every engine must answer.
const goldenFile = "storetest/testdata/results.golden"

// Backend is one running engine.
type Backend struct {
	// Config connects to it; Database, Now and Logger are the suite's.
	Config store.Config
	// Restart ends the engine like a crash and starts it again on the same data; nil: it can't be.
	Restart func(tb testing.TB)
}

// Run runs the whole suite on one engine and compares its answers with the golden file, which is relative to the
// package of the test.
func Run(t *testing.T, backend Backend) {
	t.Helper()
	tests := []struct {
		name string
		run  func(*testing.T, *suite)
	}{
		{"migrations", testMigrations},
		{"insert in any grouping", testGrouping},
		{"conflicts", testConflicts},
		{"stamped", testStamped},
		{"random events", testRandomEvents},
		{"decimals", testDecimals},
		{"overflow", testOverflow},
		{"windows and zones", testWindowsAndZones},
		{"group and filter", testGroupAndFilter},
		{"bad queries", testBadQueries},
		{"strange text", testStrangeText},
		{"meter defined later", testMeterDefinedLater},
		{"refused rows", testRefusedRows},
		{"rows written", testRowsWritten},
		{"window changes", testWindowChanges},
		{"scopes", testScopes},
		{"touches", testTouches},
		{"stale hours", testStaleHours},
		{"late events", testLateEvents},
		{"voids", testVoids},
		{"interrupted void", testInterruptedVoid},
		{"backfill preview", testPreviewBackfill},
		{"events behind usage", testUsageEvents},
		{"account sums", testAccountSums},
		{"check rows", testCheckRows},
		{"bookings", testBookings},
		{"hostile bookings", testHostileBookings},
		{"commit race", testCommitRace},
		{"transitions", testTransitions},
		{"due pages", testDuePages},
		{"record filters", testRecordFilters},
		{"adjustments", testAdjustments},
		{"balances", testBalances},
		{"lives", testLives},
		{"audit", testAudit},
		{"lease", testLease},
		{"lease race", testLeaseRace},
		{"differential", testDifferential},
		{"concurrency", testConcurrency},
		{"explain", testExplain},
		{"restart", testRestart},
	}
	results := &recorder{}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			results.section(test.name)
			s := newSuite(t, backend, results)
			test.run(t, s)
		})
	}
	if !t.Failed() {
		compareGolden(t, results.text.String(), len(tests))
	}
}

// compareGolden compares the sections of the tests that ran: a part of the suite may run alone.
func compareGolden(t *testing.T, got string, tests int) {
	t.Helper()
	answers := sections(got)
	if *update {
		if len(answers) != tests {
			t.Fatalf("-update needs the whole suite: %d of %d tests ran", len(answers), tests)
		}
		if err := os.WriteFile(goldenFile, []byte(got), 0o644); err != nil { // a file of the repository
			t.Fatal(err)
		}
		return
	}
	text, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatalf("read golden results: %v", err)
	}
	want := sections(string(text))
	for name, answer := range answers {
		if diff := cmp.Diff(want[name], answer); diff != "" {
			t.Errorf("answers of %q differ from %s (-want +got):\n%s", name, goldenFile, diff)
		}
	}
}

// sections cuts a golden text at its headings.
func sections(text string) map[string][]string {
	parts := map[string][]string{}
	name := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if heading, ok := strings.CutPrefix(line, "== "); ok {
			name = heading
			parts[name] = []string{}
			continue
		}
		parts[name] = append(parts[name], line)
	}
	return parts
}

// recorder collects answers.
type recorder struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *recorder) section(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(&r.text, "== %s\n", name)
}

// suite is one test's own database.
type suite struct {
	t       *testing.T
	backend Backend
	config  store.Config
	store   *store.Store
	results *recorder
	clock   *clock
}

// clock is the time that the store sees.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Millisecond)
	return c.now
}

func newSuite(t *testing.T, backend Backend, results *recorder) *suite {
	t.Helper()
	s := &suite{t: t, backend: backend, config: backend.Config, results: results, clock: &clock{now: base.Add(30 * 24 * time.Hour)}}
	s.config.Database = fmt.Sprintf("conformance_%08x", rand.Uint32())
	s.config.Now = s.clock.Now
	s.config.Logger = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s.store = s.open(t)
	return s
}

// open opens another Store on the test's database.
func (s *suite) open(t *testing.T) *store.Store {
	t.Helper()
	return openStore(t, s.config)
}

func openStore(t *testing.T, config store.Config) *store.Store {
	t.Helper()
	st, err := store.Open(t.Context(), config)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return st
}

// record notes an answer for the golden file and the test's log.
func (s *suite) record(format string, args ...any) {
	s.t.Helper()
	line := fmt.Sprintf(format, args...)
	s.t.Log(line)
	s.results.mu.Lock()
	defer s.results.mu.Unlock()
	s.results.text.WriteString(line + "\n")
}

// conn is a connection beside the store, for what an operator might do.
func (s *suite) conn(t *testing.T) driver.Conn {
	t.Helper()
	options := &clickhouse.Options{
		Addr: s.config.Addrs, Auth: clickhouse.Auth{Database: s.config.Database}, ReadTimeout: time.Minute,
	}
	if s.config.DialContext != nil {
		options.Protocol, options.Addr = clickhouse.HTTP, []string{"localhost:8123"}
		options.DialContext = func(ctx context.Context, addr string) (net.Conn, error) {
			return s.config.DialContext(ctx, "tcp", addr)
		}
	}
	conn, err := clickhouse.Open(options)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return conn
}

// exec runs statements on a connection beside the store.
func (s *suite) exec(t *testing.T, statements ...string) {
	t.Helper()
	conn := s.conn(t)
	for _, statement := range statements {
		if err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// optimize has the engine merge everything.
func (s *suite) optimize(t *testing.T) {
	t.Helper()
	var statements []string
	for _, table := range []string{
		"usage_events", "hourly_usage", "bill_records", "bill_record_transitions", "bookings", "booking_settlements", "adjustments",
		"account_balances", "covers", "instance_changes", "audit_log", "touches", "event_voids",
	} {
		statements = append(statements, "OPTIMIZE TABLE "+table+" FINAL")
	}
	s.exec(t, statements...)
}

// count is the number of rows of a table as stored, before any rule.
func (s *suite) count(t *testing.T, table string) uint64 {
	t.Helper()
	var n uint64
	if err := s.conn(t).QueryRow(t.Context(), "SELECT count() FROM "+table).Scan(&n); err != nil {
		t.Fatalf("count %s: %v", table, err)
	}
	return n
}
