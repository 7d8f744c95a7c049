package store_test

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/store"
	"github.com/meterd/meterd/store/embedded"
	"github.com/meterd/meterd/store/storetest"
)

// TestMeasure prints the figures of docs/adr/0004-event-table-layout.md:
//
//	METERD_MEASURE=5000000 go test -run TestMeasure -v -timeout 30m ./store/
//
// METERD_MEASURE is the number of events in one hour, METERD_MEASURE_SUBJECTS that of subjects (100,000).
func TestMeasure(t *testing.T) {
	events, err := strconv.Atoi(os.Getenv("METERD_MEASURE"))
	if err != nil {
		t.Skip("set METERD_MEASURE to the number of events to measure with")
	}
	subjects := 100_000
	if text := os.Getenv("METERD_MEASURE_SUBJECTS"); text != "" {
		if subjects, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("server", func(t *testing.T) {
		server := storetest.StartServer(t)
		measure(t, store.Config{Addrs: []string{server.Addr}}, server.PID, events, subjects)
	})
	t.Run("embedded", func(t *testing.T) {
		engine := storetest.StartEngine(t, embedded.Options{})
		measure(t, store.Config{DialContext: engine.DialContext}, engine.PID, events, subjects)
	})
}

var measureHour = meter.HourOf(time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC))

func measure(t *testing.T, config store.Config, pid func() int, events, subjects int) {
	t.Helper()
	config.Now, config.Logger, config.Database = time.Now, slog.New(slog.DiscardHandler), "measure"
	s, err := store.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() // a measurement
	step := func(name string, n int, unit string, run func() error) {
		t.Helper()
		resetPeak(t, pid())
		begin, engineCPU, ownCPU := time.Now(), cpuSeconds(t, pid()), cpuSeconds(t, os.Getpid())
		if err := run(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		took := time.Since(begin)
		t.Logf("%-27s %7.2f s %9.0f %s/s, CPU %.2f s engine + %.2f s client, engine peak %d MB", name, took.Seconds(), float64(n)/took.Seconds(), unit,
			cpuSeconds(t, pid())-engineCPU, cpuSeconds(t, os.Getpid())-ownCPU, peakMB(t, pid()))
	}
	meters := measureMeters()
	batches := measureBatches(meters, events, subjects)
	step("insert", events, "events", func() error { return insertMany(t, s, batches) })
	again := batches[:max(1, len(batches)/10)]
	ctx := t.Context()
	aggregate := func() error {
		return s.AggregateWindow(ctx, reporter.Scope{Hour: measureHour}, meters, func(reporter.WindowUsage) error { return nil })
	}
	step("aggregate, unmerged", events, "events", aggregate)
	step("aggregate, unmerged again", events, "events", aggregate)
	step("count events", events, "events", func() error { _, err := s.CountWindowEvents(ctx, measureHour); return err })
	step("insert some again", len(again)*measureBatch, "events", func() error { return insertMany(t, s, again) })
	batches, again = nil, nil
	step("aggregate, duplicates", events, "events", aggregate)
	conn := rawConn(t, config)
	step("merge", events, "events", func() error { return conn.Exec(ctx, "OPTIMIZE TABLE usage_events FINAL") })
	var rows, bytes uint64
	if err := conn.QueryRow(ctx, "SELECT sum(rows), sum(bytes) FROM system.parts WHERE active AND database = 'measure' AND table = 'usage_events'").Scan(&rows, &bytes); err != nil {
		t.Fatal(err)
	}
	t.Logf("on disk: %d rows, %.1f bytes an event", rows, float64(bytes)/float64(rows))
	step("aggregate, merged", events, "events", aggregate)
	step("query, all subjects", events, "events", func() error {
		return s.QueryMeter(ctx, meter.Query{Meter: meters[0], From: measureHour.Start, To: measureHour.End, GroupBy: []string{"model"}}, func(meter.QueryRow) error { return nil })
	})
	step("query, 100 of one subject", 100, "queries", func() error {
		for i := range 100 {
			q := meter.Query{Meter: meters[0], From: measureHour.Start, To: measureHour.End, Subjects: []string{subjectName(i)}}
			if err := s.QueryMeter(ctx, q, func(meter.QueryRow) error { return nil }); err != nil {
				return err
			}
		}
		return nil
	})
	later := append(slices.Clone(meters), meters[0])
	later[3].Slug, later[3].Value = "later", meter.MustParsePath("$.tokens_out")
	later[3].GroupBy = nil
	catalog, err := meter.NewCatalog(later)
	if err != nil {
		t.Fatal(err)
	}
	step("backfill one meter", events, "events", func() error {
		_, err := s.BackfillMeters(ctx, catalog, later, time.Time{}, time.Time{})
		return err
	})
	step("query, backfilled meter", events, "events", func() error {
		return s.QueryMeter(ctx, meter.Query{Meter: later[3], From: measureHour.Start, To: measureHour.End}, func(meter.QueryRow) error { return nil })
	})
	measureLedger(t, s, step, subjects)
}

func measureMeters() []meter.Meter {
	one := func(slug string, aggregation meter.Aggregation, path string) meter.Meter {
		return meter.Meter{
			Slug: slug, EventType: "prompt", Aggregation: aggregation, Value: meter.MustParsePath(path), Scale: meter.NewQuantity(1, 0),
			GroupBy: []meter.Dimension{{Name: "model", Path: meter.MustParsePath("$.model")}},
		}
	}
	meters := []meter.Meter{one("tokens_in", meter.Sum, "$.tokens_in"), one("tokens_out", meter.Sum, "$.tokens_out")}
	return append(meters, meter.Meter{Slug: "users", EventType: "prompt", Aggregation: meter.UniqueCount, Value: meter.MustParsePath("$.user"), Scale: meter.NewQuantity(1, 0)})
}

func subjectName(n int) string { return fmt.Sprintf("org-%05d/instance-%06d", n%997, n) }

// measureBatch is the size of a batch, as the loader's.
const measureBatch = 100_000

func measureBatches(meters []meter.Meter, events, subjects int) []*meter.EventRows {
	var batches []*meter.EventRows
	for from := 0; from < events; from += measureBatch {
		batches = append(batches, measureRows(meters, from, min(from+measureBatch, events), subjects))
	}
	return batches
}

// insertMany inserts batches over two connections, as the loader does.
func insertMany(t *testing.T, s *store.Store, batches []*meter.EventRows) error {
	t.Helper()
	work := make(chan *meter.EventRows)
	errs := make(chan error, len(batches))
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			for rows := range work {
				errs <- s.InsertEvents(t.Context(), rows)
			}
		})
	}
	for _, rows := range batches {
		work <- rows
	}
	close(work)
	group.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// measureRows makes events [from, to).
func measureRows(meters []meter.Meter, from, to, subjects int) *meter.EventRows {
	r := &meter.EventRows{}
	random := rand.New(rand.NewPCG(1, uint64(from)))
	start := measureHour.Start.UnixNano()
	for i := from; i < to; i++ {
		id := fmt.Sprintf("0197a5c0-%04x-7%03x-%016x", i>>16&0xffff, i&0xfff, random.Uint64())
		sum := sha256.Sum256([]byte("gateway-" + id))
		in, out := random.IntN(4000), random.IntN(900)
		model := "model-" + strconv.Itoa(i%5)
		user := "user-" + strconv.Itoa(random.IntN(50))
		at := start + int64(i)*3_500_000_000_000/100_000_000
		r.Subject = append(r.Subject, []byte(subjectName(random.IntN(subjects))))
		r.Source = append(r.Source, []byte("gateway-"+strconv.Itoa(i%7)))
		r.ID = append(r.ID, []byte(id))
		r.Type = append(r.Type, []byte("prompt"))
		r.Key = append(r.Key, meter.EventKey(sum[:16]))
		r.Content = append(r.Content, binary.LittleEndian.Uint64(sum[16:]))
		r.Time = append(r.Time, at)
		r.Received = append(r.Received, at+int64(random.IntN(1e9)))
		r.Stamped = append(r.Stamped, false)
		r.Data = append(r.Data, []byte(fmt.Sprintf(`{"model":%q,"tokens_in":%d,"tokens_out":%d,"user":%q}`, model, in, out, user)))
		r.Extensions = append(r.Extensions, nil)
		dims := [][]byte{[]byte(model)}
		r.Values = append(r.Values,
			meter.EventValue{Row: i - from, Meter: meters[0].Fingerprint(), Quantity: meter.NewQuantity(int64(in), 0), Dimensions: dims},
			meter.EventValue{Row: i - from, Meter: meters[1].Fingerprint(), Quantity: meter.NewQuantity(int64(out), 0), Dimensions: dims},
			meter.EventValue{Row: i - from, Meter: meters[2].Fingerprint(), Text: []byte(user)})
	}
	return r
}

func measureLedger(t *testing.T, s *store.Store, step func(string, int, string, func() error), subjects int) {
	t.Helper()
	ctx := t.Context()
	w := measureHour
	const chunk = 10_000
	c := reporter.Booking{
		Number: 1, Version: 1, Kind: reporter.BookingClose, Window: w, At: w.End, Usages: uint64(subjects), Records: uint64(subjects), Balances: uint64(subjects),
	}
	rows := measureRowsOf(c, subjects)
	step("write rows", 3*subjects, "rows", func() error {
		for i := 0; i < subjects; i += chunk {
			end := min(i+chunk, subjects)
			if err := s.WriteRows(ctx, c, reporter.Rows{Usage: rows.Usage[i:end], Records: rows.Records[i:end], Balances: rows.Balances[i:end]}); err != nil {
				return err
			}
		}
		return nil
	})
	step("commit", 1, "bookings", func() error { return s.Commit(ctx, c) })
	deliver := func(write bool) func() error {
		return func() error {
			after := reporter.MeteringSN("")
			for {
				page, err := s.DueRecords(ctx, c, after, 1000)
				if err != nil || len(page) == 0 {
					return err
				}
				after = page[len(page)-1].SN
				if !write {
					continue
				}
				for seq, state := range []reporter.State{reporter.StateSending, reporter.StateAccepted} {
					ts := make([]reporter.Transition, 0, len(page))
					for i, r := range page {
						if i > 0 || state == reporter.StateSending {
							ts = append(ts, reporter.Transition{SN: r.SN, Booked: w, Seq: uint32(seq + 2), State: state, At: w.End, Attempt: 1, Code: "MKT.0000", RequestHash: strings.Repeat("0", 64)})
						}
					}
					if err := s.AppendTransitions(ctx, ts); err != nil {
						return err
					}
				}
			}
		}
	}
	step("page due records", subjects, "records", deliver(false))
	step("page and write transitions", subjects, "records", deliver(true))
	step("page the rest", 1, "passes", deliver(false))
	step("balances", subjects, "rows", func() error { _, err := s.Balances(ctx, nil); return err })
	step("booked usage", subjects, "rows", func() error { _, err := s.BookedUsage(ctx, w, nil); return err })
	step("usage of 100 subjects", 1, "queries", func() error {
		var names []string
		for i := range 100 {
			names = append(names, subjectName(i))
		}
		_, err := s.SubjectUsage(ctx, names, w.Start.Add(-30*24*time.Hour), w.End)
		return err
	})
}

// measureRowsOf makes the rows of a close: usage, a record and a balance for each subject.
func measureRowsOf(c reporter.Booking, subjects int) reporter.Rows {
	var rows reporter.Rows
	for i := range subjects {
		u := reporter.HourlyUsage{
			Window: c.Window, Subject: subjectName(i), Meter: "tokens_in", Quantity: meter.NewQuantity(int64(i), -3), Events: 50, Version: c.Version,
		}
		r := reporter.BillRecord{
			Seller: "default", InstanceID: "instance-" + strconv.Itoa(i), Subject: u.Subject, Meter: u.Meter, Window: c.Window, Booked: c.Window,
			Usage: u.Quantity, Scale: meter.NewQuantity(1, 0), Billed: u.Quantity, CarriedOut: meter.NewQuantity(1, -6), RecordTime: c.Window.End, Version: c.Version,
		}
		r.SN = r.Identity().SN()
		r.Last = reporter.Transition{SN: r.SN, Booked: c.Window, Seq: 1, State: reporter.StatePending, At: c.Window.End}
		rows.Usage, rows.Records = append(rows.Usage, u), append(rows.Records, r)
		rows.Balances = append(rows.Balances, reporter.Balance{Subject: u.Subject, Meter: u.Meter, Quantity: r.CarriedOut})
	}
	return rows
}

func rawConn(t *testing.T, config store.Config) clickhouse.Conn {
	t.Helper()
	options := &clickhouse.Options{Addr: config.Addrs, Auth: clickhouse.Auth{Database: config.Database}, ReadTimeout: 10 * time.Minute}
	if config.DialContext != nil {
		options = embeddedOptions(config)
	}
	conn, err := clickhouse.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// resetPeak starts a new measurement of a process's peak memory.
func resetPeak(t *testing.T, pid int) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0o600); err != nil {
		t.Logf("peak memory is that of the whole run: %v", err)
	}
}

// cpuSeconds is the processor time of a process so far: on a busy machine it says more than the time on the wall.
func cpuSeconds(t *testing.T, pid int) float64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	ticks := 0
	for _, field := range fields[11:13] { // user and system time, in 1/100 s
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return float64(ticks) / 100
}

func peakMB(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kb / 1024
		}
	}
	return 0
}
