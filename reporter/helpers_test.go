package reporter_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/reportertest"
)

// noon is the hour that most tests close; it is closed at 13:05.
var noon = meter.HourOf(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))

func q(text string) meter.Quantity { return meter.MustParseQuantity(text) }

// tokens is a billed meter with the template "{subject}".
func tokens(scale string) meter.Meter {
	return meter.Meter{
		Slug: "tokens", EventType: "prompt", Aggregation: meter.Sum, Scale: q(scale), Billed: true, Instance: "{subject}",
	}
}

func mapper(t *testing.T, meters []meter.Meter, mappings ...reporter.Mapping) *reporter.Mapper {
	t.Helper()
	m, err := reporter.NewMapper(meters, mappings)
	if err != nil {
		t.Fatalf("NewMapper: %v", err)
	}
	return m
}

// logBuffer collects log lines.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// lines returns the lines that contain every one of the words.
func (l *logBuffer) lines(words ...string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
next:
	for line := range strings.Lines(l.buf.String()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}

func (l *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// bench is a closer and a reporter on reference books, with everything around them.
type bench struct {
	t       *testing.T
	books   *reportertest.Books
	market  *reportertest.Marketplace
	clock   *reportertest.Clock
	logs    *logBuffer
	meters  []meter.Meter
	closer  reporter.CloserOptions
	options reporter.ReporterOptions
}

// newBench returns a bench whose clock shows 13:05.
func newBench(t *testing.T, meters []meter.Meter, mappings ...reporter.Mapping) *bench {
	t.Helper()
	b := &bench{
		t: t, books: reportertest.NewBooks(), market: reportertest.NewMarketplace(reportertest.DefaultLimits()),
		clock: reportertest.NewClock(noon.End.Add(5 * time.Minute)), logs: &logBuffer{}, meters: meters,
	}
	b.closer = reporter.CloserOptions{
		Books: b.books, Meters: meters, Mapper: mapper(t, meters, mappings...), Rules: b.market, Seller: "acme",
		Grace: 5 * time.Minute, Now: b.clock.Now, Logger: b.logs.logger(),
	}
	b.options = reporter.ReporterOptions{
		Books: b.books, Marketplace: b.market, Clock: b.clock, Logger: b.logs.logger(),
		Random: func() float64 { return 0.5 },
	}
	t.Cleanup(func() {
		for _, v := range append(b.books.Violations(), b.market.Violations()...) {
			t.Errorf("rule broken: %s", v)
		}
	})
	return b
}

func (b *bench) newCloser() *reporter.Closer {
	b.t.Helper()
	c, err := reporter.NewCloser(b.closer)
	if err != nil {
		b.t.Fatalf("NewCloser: %v", err)
	}
	return c
}

func (b *bench) newReporter() *reporter.Reporter {
	b.t.Helper()
	r, err := reporter.NewReporter(b.options)
	if err != nil {
		b.t.Fatalf("NewReporter: %v", err)
	}
	return r
}

// close closes everything due now.
func (b *bench) close() reporter.ClosedSummary {
	b.t.Helper()
	sum, err := b.newCloser().CloseDue(b.t.Context(), b.clock.Now())
	if err != nil {
		b.t.Fatalf("CloseDue: %v", err)
	}
	return sum
}

// once makes one pass.
func (b *bench) once(r *reporter.Reporter) reporter.PassSummary {
	b.t.Helper()
	sum, err := r.RunOnce(b.t.Context())
	if err != nil {
		b.t.Fatalf("RunOnce: %v", err)
	}
	return sum
}

// fill gives n subjects usage of 1 token each at 12:30 and closes the hour.
func (b *bench) fill(n int) {
	b.t.Helper()
	for i := range n {
		b.books.AddUsage(subjectName(i), "tokens", noon.Start.Add(30*time.Minute), q("1"))
	}
	b.close()
}

func subjectName(i int) string {
	return "inst-" + string(rune('a'+i/676%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i%26))
}

// states counts the records by state.
func (b *bench) states() map[reporter.State]int {
	counts := map[reporter.State]int{}
	for _, r := range b.books.All() {
		counts[r.Last.State]++
	}
	return counts
}

// record returns the only record of the subject.
func (b *bench) record(subject string) reporter.BillRecord {
	b.t.Helper()
	var found []reporter.BillRecord
	for _, r := range b.books.All() {
		if r.Subject == subject {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		b.t.Fatalf("subject %s has %d records, want 1", subject, len(found))
	}
	return found[0]
}

// path returns the states through which the record went.
func (b *bench) path(sn reporter.MeteringSN) string {
	b.t.Helper()
	life, err := b.books.Transitions(b.t.Context(), sn)
	if err != nil {
		b.t.Fatalf("Transitions(%s): %v", sn, err)
	}
	var names []string
	for _, t := range life {
		names = append(names, t.State.String())
	}
	return strings.Join(names, " ")
}
