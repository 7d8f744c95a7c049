package meter_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/meter/spool"
)

// memoryStore is an EventStore whose insert the test decides about: hook may refuse, fail, panic or block. What it lets
// pass is kept, as copies.
type memoryStore struct {
	mu   sync.Mutex
	hook func(ctx context.Context, rows *meter.EventRows) error
	rows map[string]string // "subject/source/id" → what is kept of the row that was written last
	// inserts are the ids of each insert that succeeded.
	inserts [][]string
}

func (s *memoryStore) InsertEvents(ctx context.Context, rows *meter.EventRows) error {
	if s.hook != nil {
		if err := s.hook(ctx, rows); err != nil {
			return err
		}
	}
	s.keep(rows, rows.Len())
	return nil
}

func (s *memoryStore) keep(rows *meter.EventRows, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rows == nil {
		s.rows = map[string]string{}
	}
	s.inserts = append(s.inserts, ids(rows)[:n])
	for i := range n {
		key := fmt.Sprintf("%s/%s/%s", rows.Subject[i], rows.Source[i], rows.ID[i])
		s.rows[key] = rowText(rows, i)
	}
}

// rowText shows everything about a row.
func rowText(rows *meter.EventRows, i int) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s %x %x %d %d %v %s %s", rows.Type[i], rows.Key[i], rows.Content[i], rows.Time[i], rows.Received[i], rows.Stamped[i], rows.Data[i], rows.Extensions[i])
	for _, v := range rows.Values {
		if v.Row == i {
			fmt.Fprintf(&text, " %x=%s%s%q", v.Meter, v.Quantity, v.Text, v.Dimensions)
		}
	}
	return text.String()
}

func ids(rows *meter.EventRows) []string {
	all := make([]string, rows.Len())
	for i := range all {
		all[i] = string(rows.ID[i])
	}
	return all
}

func (s *memoryStore) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.rows)
}

// loading is a spool with an ingester in front of it and a loader behind it.
type loading struct {
	dir      string
	spool    *spool.Spool
	ingester *meter.Ingester
	store    *memoryStore
	dead     *meter.DeadLetters
	opts     meter.LoaderOptions
	loader   *meter.Loader
}

func newLoading(t *testing.T, change func(*meter.LoaderOptions)) *loading {
	t.Helper()
	l := &loading{dir: t.TempDir(), store: &memoryStore{}}
	log := slog.New(slog.DiscardHandler)
	now := time.Now
	var err error
	if l.spool, err = spool.Open(spool.Options{Dir: filepath.Join(l.dir, "spool"), Now: now, Logger: log}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.spool.Close() })
	l.dead = openDeadLetters(t, filepath.Join(l.dir, "dead"), 0)
	catalog := newCatalog(t, meter.Meter{Slug: "sum", Aggregation: meter.Sum, Value: meter.MustParsePath("$.n")})
	l.ingester, err = meter.NewIngester(meter.IngestOptions{Catalog: catalog, Spool: l.spool, Now: now, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	l.opts = meter.LoaderOptions{
		Spool: l.spool, Store: l.store, Catalog: catalog, DeadLetters: l.dead, BatchDelay: time.Hour,
		RetryMin: time.Millisecond, RetryMax: 4 * time.Millisecond, Now: now, Logger: log,
	}
	if change != nil {
		change(&l.opts)
	}
	return l
}

// run starts a new loader; it ends with the test or when the returned function is called, which returns Run's error.
func (l *loading) run(t *testing.T) (stop func() error) {
	t.Helper()
	var err error
	if l.loader, err = meter.NewLoader(l.opts); err != nil {
		t.Fatal(err)
	}
	loader := l.loader
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = loader.Run(ctx)
	}()
	stop = func() error {
		cancel()
		<-done
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

// send makes one request of the events with these ids durable.
func (l *loading) send(t *testing.T, ids ...string) meter.Verdicts {
	t.Helper()
	var events []string
	for _, id := range ids {
		events = append(events, usage(id, ""))
	}
	b := meter.NewBatch()
	defer b.Release()
	b.DecodeJSON([]byte("["+strings.Join(events, ",")+"]"), meter.DecodeOptions{})
	v, err := l.ingester.Accept(t.Context(), b, "trace of "+ids[0], meter.AllOrNothing)
	if err != nil || v.Accepted != len(ids) {
		t.Fatal(err, v.Problems)
	}
	v.Statuses, v.Problems = nil, nil
	return v
}

func (l *loading) flush(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := l.loader.Flush(ctx); err != nil {
		t.Fatal(err, l.loader.Progress())
	}
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("%s didn't come", what)
		}
		<-tick.C
	}
}

func TestLoader_rows(t *testing.T) {
	t.Parallel()
	l := newLoading(t, nil)
	l.run(t)
	b := meter.NewBatch()
	b.DecodeJSON([]byte(`[{"id":"1","source":"s","type":"t","subject":"x","time":"2026-01-02T15:04:05Z","region":"eu","data":{"n":"2.50"}},{"id":"2","source":"s","type":"u","subject":"x"}]`), meter.DecodeOptions{})
	events := slices.Clone(b.Events)
	key, content := meter.KeyOf(&events[0]), meter.ContentDigest(&events[0])
	v, err := l.ingester.Accept(t.Context(), b, "", meter.AllOrNothing)
	if err != nil {
		t.Fatal(err)
	}
	received := v.ReceivedAt.UnixNano()
	b.Release()
	l.flush(t)
	m, _ := l.opts.Catalog.Meter("sum")
	at := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC).UnixNano()
	other := meter.Event{ID: []byte("2"), Source: []byte("s"), Type: []byte("u"), Subject: []byte("x"), Stamped: true}
	want := map[string]string{
		"x/s/1": fmt.Sprintf(`t %x %x %d %d false {"n":"2.50"} {"region":"eu"} %x=2.5[]`, key, content, at, received, m.Fingerprint()),
		"x/s/2": fmt.Sprintf(`u %x %x %d %d true  `, meter.KeyOf(&other), meter.ContentDigest(&other), received+1, received+1),
	}
	if diff := cmp.Diff(want, l.store.rows); diff != "" {
		t.Error(diff)
	}
	p := l.loader.Progress()
	if p.Events != 2 || p.Batches != 1 || p.Confirmed != l.spool.Durable() || !p.Oldest.IsZero() || p.LastError != "" {
		t.Errorf("progress %+v", p)
	}
}

func TestDigests(t *testing.T) {
	t.Parallel()
	base := meter.Event{ID: []byte("1"), Source: []byte("s"), Type: []byte("t"), Subject: []byte("x"), Time: 5, Data: []byte("1"), Extensions: []byte("{}")}
	// Stored beside every event: they must never change.
	if got, want := fmt.Sprintf("%x %x", meter.KeyOf(&base), meter.ContentDigest(&base)), "6f2d763fa6d9533a7b506dff3aae1c37 383db10b2bcd8dc2"; got != want {
		t.Errorf("digests %s, want %s", got, want)
	}
	changes := map[string]struct {
		change       func(*meter.Event)
		key, content bool // whether they change
	}{
		"id":         {func(e *meter.Event) { e.ID = []byte("2") }, true, false},
		"source":     {func(e *meter.Event) { e.Source = []byte("r") }, true, false},
		"border":     {func(e *meter.Event) { e.Source, e.ID = []byte("s1"), nil }, true, false},
		"subject":    {func(e *meter.Event) { e.Subject = []byte("y") }, false, false},
		"type":       {func(e *meter.Event) { e.Type = []byte("u") }, false, true},
		"time":       {func(e *meter.Event) { e.Time = 6 }, false, true},
		"stamped":    {func(e *meter.Event) { e.Stamped = true }, false, true},
		"data":       {func(e *meter.Event) { e.Data = []byte("1 ") }, false, true},
		"extensions": {func(e *meter.Event) { e.Extensions = nil }, false, false},
	}
	for name, tt := range changes {
		ev := base
		tt.change(&ev)
		if (meter.KeyOf(&ev) != meter.KeyOf(&base)) != tt.key || (meter.ContentDigest(&ev) != meter.ContentDigest(&base)) != tt.content {
			t.Errorf("%s: digests change unexpectedly", name)
		}
	}
	a, b := base, base
	a.Stamped, b.Stamped, b.Time = true, true, 99
	if meter.ContentDigest(&a) != meter.ContentDigest(&b) {
		t.Error("a time that we stamped changes the content")
	}
}

// TestLoader_Flush has nothing but the barrier to make the loader insert.
func TestLoader_Flush(t *testing.T) {
	t.Parallel()
	l := newLoading(t, nil)
	l.run(t)
	l.flush(t) // nothing to wait for
	for i := range 3 {
		l.send(t, strconv.Itoa(i), strconv.Itoa(i)+"b")
		l.flush(t)
		if got := l.store.len(); got != 2*(i+1) {
			t.Errorf("%d events are in the store after flush %d", got, i)
		}
	}
	first := l.send(t, "x")
	l.send(t, "y")
	if err := l.loader.WaitConfirmed(t.Context(), first.Position); err != nil {
		t.Fatal(err)
	}
	if l.spool.Confirmed().Before(first.Position) {
		t.Error("not confirmed in the spool")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.loader.WaitConfirmed(ctx, meter.Position{Segment: 99}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestLoader_batchBySize(t *testing.T) {
	t.Parallel()
	l := newLoading(t, func(o *meter.LoaderOptions) { o.BatchEvents, o.Inserters = 4, 1 })
	for i := range 6 {
		l.send(t, strconv.Itoa(i), strconv.Itoa(i)+"b")
	}
	l.run(t)
	eventually(t, "three inserts", func() bool { return l.loader.Progress().Batches == 3 })
	for _, insert := range l.store.inserts {
		if len(insert) != 4 {
			t.Errorf("inserts %v", l.store.inserts)
		}
	}
}

// TestLoader_batchByBytes has the store down: what is read ahead must be bounded by its size, too, or a few large events
// could take all memory, again after each restart.
func TestLoader_batchByBytes(t *testing.T) {
	t.Parallel()
	l := newLoading(t, func(o *meter.LoaderOptions) { o.BatchBytes, o.Inserters = 150, 1 })
	for i := range 6 {
		l.send(t, strconv.Itoa(i)+strings.Repeat("x", 30))
	}
	l.run(t)
	eventually(t, "three inserts", func() bool { return l.loader.Progress().Batches == 3 })
	for _, insert := range l.store.inserts {
		if len(insert) != 2 {
			t.Errorf("inserts %v", l.store.inserts)
		}
	}
}

func TestLoader_batchByDelay(t *testing.T) {
	t.Parallel()
	l := newLoading(t, func(o *meter.LoaderOptions) { o.BatchDelay = 5 * time.Millisecond })
	l.run(t)
	for i := range 3 {
		l.send(t, strconv.Itoa(i))
		eventually(t, "the insert", func() bool { return l.store.len() == i+1 })
	}
}

// TestLoader_retries has the store fail several times: each attempt must bring the same rows.
func TestLoader_retries(t *testing.T) {
	t.Parallel()
	l := newLoading(t, nil)
	failures := 5
	var attempts []string
	sick := make(chan struct{})
	l.store.hook = func(_ context.Context, rows *meter.EventRows) error {
		var text []string
		for i := range rows.Len() {
			text = append(text, rowText(rows, i))
		}
		attempts = append(attempts, strings.Join(text, "\n"))
		if len(attempts) == 2 {
			<-sick
		}
		if len(attempts) == 4 {
			panic("a bug in the store")
		}
		if len(attempts) <= failures {
			return fmt.Errorf("attempt %d: connection refused", len(attempts))
		}
		return nil
	}
	l.run(t)
	l.send(t, "1", "2")
	l.send(t, "3")
	barrier := make(chan error, 1)
	go func() { barrier <- l.loader.Flush(t.Context()) }()
	eventually(t, "the first error", func() bool { return l.loader.Progress().LastError != "" })
	if p := l.loader.Progress(); p.LastError != "attempt 1: connection refused" || p.FailedAt.IsZero() || p.Oldest.IsZero() || p.Events != 0 || !p.Confirmed.IsZero() && p.Confirmed.Compare(l.spool.Durable()) >= 0 {
		t.Errorf("progress %+v", p)
	}
	close(sick)
	if err := <-barrier; err != nil {
		t.Fatal(err)
	}
	for i, attempt := range attempts[:failures] {
		if attempt != attempts[0] {
			t.Errorf("attempt %d brings other rows:\n%s\nthan\n%s", i+1, attempt, attempts[0])
		}
	}
	l.flush(t)
	if p := l.loader.Progress(); p.LastError != "" || p.Retries != 5 || p.Panics != 1 || p.Events != 3 || l.store.len() != 3 {
		t.Errorf("progress %+v", p)
	}
}

// refuseIDs refuses inserts with one of the events.
func refuseIDs(bad ...string) func(context.Context, *meter.EventRows) error {
	return func(_ context.Context, rows *meter.EventRows) error {
		for _, id := range ids(rows) {
			if slices.Contains(bad, id) {
				return fmt.Errorf("value of %s out of range: %w", id, meter.ErrRefused)
			}
		}
		return nil
	}
}

func TestLoader_refusedEvents(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string][]string{
		"first": {"0"}, "last": {"19"}, "some": {"3", "4", "11"}, "most": {"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18", "19"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLoading(t, nil)
			l.store.hook = refuseIDs(bad...)
			l.run(t)
			var all []string
			for i := range 20 {
				all = append(all, strconv.Itoa(i))
			}
			l.send(t, all[:7]...)
			l.send(t, all[7:]...)
			l.flush(t)
			l.flush(t)
			if got := l.store.len(); got != 20-len(bad) {
				t.Errorf("%d events are stored, want %d", got, 20-len(bad))
			}
			letters, _, err := l.dead.List(0, 100)
			if err != nil {
				t.Fatal(err)
			}
			var buried []string
			for _, letter := range letters {
				var event struct{ ID string }
				if err := json.Unmarshal(letter.Event, &event); err != nil || letter.Reason != meter.ReasonStoreRefused || !letter.Acknowledged || !strings.Contains(letter.Detail, "out of range") {
					t.Errorf("letter %+v: %v", letter, err)
				}
				buried = append(buried, event.ID)
			}
			if diff := cmp.Diff(bad, buried); diff != "" {
				t.Error(diff)
			}
			if p := l.loader.Progress(); p.Refused != uint64(len(bad)) || p.Events != uint64(20-len(bad)) {
				t.Errorf("progress %+v", p)
			}
		})
	}
}

// TestLoader_refusesEverything has a store that is set up wrongly: no event may go to the dead letters for that.
func TestLoader_refusesEverything(t *testing.T) {
	t.Parallel()
	l := newLoading(t, nil)
	var mu sync.Mutex
	broken := true
	l.store.hook = func(context.Context, *meter.EventRows) error {
		mu.Lock()
		defer mu.Unlock()
		if broken {
			return fmt.Errorf("no such table: %w", meter.ErrRefused)
		}
		return nil
	}
	l.run(t)
	var all []string
	for i := range 50 {
		all = append(all, strconv.Itoa(i))
	}
	l.send(t, all...)
	barrier := make(chan error, 1)
	go func() { barrier <- l.loader.Flush(t.Context()) }()
	eventually(t, "retries", func() bool { return l.loader.Progress().Retries >= 3 })
	if s := l.dead.Stats(); s.Letters != 0 {
		t.Errorf("%d events are in the dead letters", s.Letters)
	}
	mu.Lock()
	broken = false
	mu.Unlock()
	if err := <-barrier; err != nil || l.store.len() != 50 {
		t.Errorf("%d stored, %v", l.store.len(), err)
	}
}

// TestLoader_refusesWholeBatch has a batch of nothing but bad events: it must not hold up for ever what comes behind it,
// once that proves that the store works.
func TestLoader_refusesWholeBatch(t *testing.T) {
	t.Parallel()
	l := newLoading(t, func(o *meter.LoaderOptions) { o.BatchDelay = time.Millisecond })
	l.store.hook = refuseIDs("bad1", "bad2")
	l.run(t)
	l.send(t, "bad1", "bad2")
	eventually(t, "a failed attempt", func() bool { return l.loader.Progress().Retries > 2 })
	if s := l.dead.Stats(); s.Letters != 0 {
		t.Errorf("%d dead letters before the store is known to work", s.Letters)
	}
	l.send(t, "good")
	l.flush(t)
	if p := l.loader.Progress(); p.Refused != 2 || p.Events != 1 || l.dead.Stats().Letters != 2 {
		t.Errorf("%+v, %d dead letters", p, l.dead.Stats().Letters)
	}
}

func TestLoader_refusedWithoutDeadLetters(t *testing.T) {
	t.Parallel()
	l := newLoading(t, func(o *meter.LoaderOptions) { o.DeadLetters = nil })
	l.store.hook = refuseIDs("1")
	l.run(t)
	v := l.send(t, "0", "1")
	go func() { _ = l.loader.Flush(t.Context()) }()
	eventually(t, "retries", func() bool { return l.loader.Progress().Retries >= 3 })
	if !l.spool.Confirmed().Before(v.Position) {
		t.Error("an event that exists nowhere else was given up")
	}
}

// TestLoader_order has the second of two batches stored before the first.
func TestLoader_order(t *testing.T) {
	t.Parallel()
	l := newLoading(t, func(o *meter.LoaderOptions) { o.BatchEvents = 1 })
	release := make(chan struct{})
	l.store.hook = func(ctx context.Context, rows *meter.EventRows) error {
		if string(rows.ID[0]) == "first" {
			select {
			case <-release:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}
	first := l.send(t, "first")
	l.send(t, "second")
	stop := l.run(t)
	eventually(t, "the second", func() bool { return l.store.len() == 1 })
	if !l.spool.Confirmed().Before(first.Position) {
		t.Error("the first batch is confirmed although it isn't stored")
	}
	// A crash now loads both again.
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v", err)
	}
	close(release)
	l.run(t)
	l.flush(t)
	if l.store.len() != 2 || l.spool.Confirmed() != l.spool.Durable() {
		t.Errorf("%d stored, confirmed %s of %s", l.store.len(), l.spool.Confirmed(), l.spool.Durable())
	}
}

func TestLoader_undecodablePayload(t *testing.T) {
	t.Parallel()
	l := newLoading(t, nil)
	l.send(t, "1")
	if _, err := l.spool.Append(t.Context(), []byte("\x01rubbish that is no payload"), 3); err != nil {
		t.Fatal(err)
	}
	l.send(t, "2")
	l.run(t)
	l.flush(t)
	letters, err := l.dead.Get(1)
	if err != nil || len(letters) != 1 || letters[0].Reason != meter.ReasonUndecodable || string(letters[0].Raw) != "\x01rubbish that is no payload" {
		t.Errorf("letters %+v, %v", letters, err)
	}
	if p := l.loader.Progress(); l.store.len() != 2 || p.Payloads != 1 {
		t.Errorf("%d stored, progress %+v", l.store.len(), p)
	}
	// A payload of a newer program waits for that program.
	if _, err := l.spool.Append(t.Context(), []byte("\x02newer"), 1); err != nil {
		t.Fatal(err)
	}
	go func() { _ = l.loader.Flush(t.Context()) }()
	eventually(t, "retries", func() bool { return l.loader.Progress().Retries >= 3 })
	if p := l.loader.Progress(); !strings.Contains(p.LastError, "version") || p.Payloads != 1 {
		t.Errorf("progress %+v", p)
	}
}

func TestLoader_newCatalog(t *testing.T) {
	t.Parallel()
	l := newLoading(t, func(o *meter.LoaderOptions) {
		scale := meter.NewQuantity(1, 0)
		c, err := meter.NewCatalog([]meter.Meter{{Slug: "other", EventType: "t", Aggregation: meter.Sum, Value: meter.MustParsePath("$.other"), Scale: scale}, {Slug: "c", EventType: "t", Aggregation: meter.Count, Scale: scale}})
		if err != nil {
			panic(err)
		}
		o.Catalog = c
		o.Closed = func(hour time.Time) bool { return hour.Before(time.Now().Add(-2 * time.Hour)) }
	})
	l.run(t)
	l.send(t, "1", "2")
	b := meter.NewBatch()
	defer b.Release()
	b.DecodeJSON([]byte("["+usage("3", `"time":"2026-01-02T15:04:05Z"`)+","+usage("4", `"time":"2026-01-02T15:04:05Z"`)+"]"), meter.DecodeOptions{})
	if _, err := l.ingester.Accept(t.Context(), b, "", meter.AllOrNothing); err != nil {
		t.Fatal(err)
	}
	l.flush(t)
	if p := l.loader.Progress(); p.NoValue != 4 || p.Late != 2 || p.Events != 4 {
		t.Errorf("progress %+v", p)
	}
}

func TestLoader_OnBatch(t *testing.T) {
	t.Parallel()
	type key struct{}
	var traces []string
	var results []error
	l := newLoading(t, func(o *meter.LoaderOptions) {
		o.OnBatch = func(ctx context.Context, traceparents []string, events int) (context.Context, func(error)) {
			traces = append(traces, fmt.Sprint(traceparents, events))
			return context.WithValue(ctx, key{}, "span"), func(err error) { results = append(results, err) }
		}
	})
	failed := errors.New("sick")
	l.store.hook = func(ctx context.Context, _ *meter.EventRows) error {
		if ctx.Value(key{}) != "span" {
			t.Error("the insert has another context")
		}
		if len(results) == 0 {
			return failed
		}
		return nil
	}
	l.send(t, "1", "2")
	l.send(t, "3")
	l.send(t, "3")
	stop := l.run(t)
	eventually(t, "three records", func() bool { l.flush(t); return l.loader.Progress().Events == 4 })
	_ = stop()
	if len(results) < 2 || !errors.Is(results[0], failed) || results[1] != nil {
		t.Errorf("results %v", results)
	}
	if traces[0] != traces[1] || !strings.HasPrefix(traces[0], "[trace of 1") {
		t.Errorf("traces %v", traces)
	}
}

func TestLoader_Run_ends(t *testing.T) {
	t.Parallel()
	l := newLoading(t, nil)
	stop := l.run(t)
	l.send(t, "1")
	l.flush(t)
	if err := l.loader.Run(t.Context()); err == nil {
		t.Error("the loader runs twice")
	}
	waiter := make(chan error, 1)
	go func() { waiter <- l.loader.WaitConfirmed(t.Context(), meter.Position{Segment: 99}) }()
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v", err)
	}
	if err := <-waiter; !errors.Is(err, meter.ErrClosed) {
		t.Errorf("WaitConfirmed = %v", err)
	}
	again, err := meter.NewLoader(l.opts)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- again.Run(context.Background()) }()
	if err := l.spool.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, meter.ErrClosed) {
		t.Errorf("after the spool closed, Run = %v", err)
	}
}

func TestNewLoader_options(t *testing.T) {
	t.Parallel()
	_, err := meter.NewLoader(meter.LoaderOptions{BatchEvents: -1})
	for _, want := range []string{"spool", "store", "catalog", "clock", "logger", "negative"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %q", err, want)
		}
	}
}

// TestLoader_chaos sends from several goroutines while the store fails, writes a part and then fails, panics, refuses
// single events, and while the loader is stopped and started: in the end every event is in the store or in the dead
// letters, and none in both.
func TestLoader_chaos(t *testing.T) {
	t.Parallel()
	l := newLoading(t, func(o *meter.LoaderOptions) {
		o.BatchEvents, o.BatchDelay, o.Inserters = 40, time.Millisecond, 3
		o.RetryMin, o.RetryMax = 10*time.Microsecond, 100*time.Microsecond
	})
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(1, 2))
	refuse := refuseIDs("3-50", "1-7", "1-8")
	l.store.hook = func(ctx context.Context, rows *meter.EventRows) error {
		mu.Lock()
		dice := random.IntN(10)
		part := random.IntN(rows.Len() + 1)
		mu.Unlock()
		if err := refuse(ctx, rows); err != nil {
			return err
		}
		switch dice {
		case 0, 1:
			return errors.New("connection lost before")
		case 2, 3:
			l.store.keep(rows, part)
			return errors.New("connection lost half way")
		case 4:
			l.store.keep(rows, rows.Len())
			return context.DeadlineExceeded // the answer was lost
		case 5:
			panic("dice")
		}
		return nil
	}
	const senders, requests, size = 4, 40, 5
	var all sync.WaitGroup
	for s := range senders {
		all.Go(func() {
			for r := range requests {
				var batch []string
				for i := range size {
					batch = append(batch, fmt.Sprintf("%d-%d", s, r*size+i))
				}
				l.send(t, batch...)
			}
		})
	}
	for range 5 {
		stop := l.run(t)
		eventually(t, "some inserts", func() bool {
			p := l.loader.Progress()
			return p.Batches > 1 || l.spool.Confirmed() == l.spool.Durable()
		})
		if err := stop(); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	all.Wait()
	l.run(t)
	l.flush(t)
	letters, _, err := l.dead.List(0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if len(letters) != 3 {
		t.Errorf("%d dead letters", len(letters))
	}
	if want := senders*requests*size - 3; l.store.len() != want {
		t.Errorf("%d events in the store, want %d", l.store.len(), want)
	}
	for _, id := range []string{"3-50", "1-7", "1-8"} {
		if _, stored := l.store.rows["x/s/"+id]; stored {
			t.Errorf("%s is in the store, too", id)
		}
	}
	if l.spool.Confirmed() != l.spool.Durable() {
		t.Errorf("confirmed %s of %s", l.spool.Confirmed(), l.spool.Durable())
	}
}

// TestLoader_damagedTail has the last record on disk damaged, so that no record leads up to the position waited for.
func TestLoader_damagedTail(t *testing.T) {
	t.Parallel()
	l := newLoading(t, nil)
	l.send(t, "1")
	l.send(t, "2")
	if err := l.spool.Close(); err != nil {
		t.Fatal(err)
	}
	segments, err := filepath.Glob(filepath.Join(l.dir, "spool", "*1*"))
	if err != nil || len(segments) != 1 {
		t.Fatal(segments, err)
	}
	content, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.LastIndex(content, []byte("trace of 2"))
	content[at] ^= 0xff
	if err := os.WriteFile(segments[0], content, 0o600); err != nil {
		t.Fatal(err)
	}
	if l.spool, err = spool.Open(spool.Options{Dir: filepath.Join(l.dir, "spool"), Now: time.Now}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.spool.Close() })
	l.opts.Spool, l.opts.BatchDelay = l.spool, time.Millisecond
	l.run(t)
	l.flush(t)
	if damage := l.spool.Damage(); l.store.len() != 1 || len(damage) != 1 {
		t.Errorf("%d events stored, damage %v", l.store.len(), damage)
	}
}
