package spool_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter/spool"
	"github.com/meterd/meterd/meter/spool/internal/vfs/memfs"
)

const dir = "/spool"

// smallOptions make segments of a few records, so that tests see rotation.
func smallOptions() spool.Options {
	return spool.Options{Dir: dir, MaxBytes: 64 << 10, SegmentBytes: 4 << 10, Now: time.Now}
}

func mustOpen(tb testing.TB, fsys *memfs.FS, o spool.Options) *spool.Spool {
	tb.Helper()
	s, err := spool.OpenFS(o, fsys)
	if err != nil {
		tb.Fatalf("Open: %v", err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

func mustAppend(tb testing.TB, s *spool.Spool, payload string) spool.Position {
	tb.Helper()
	end, err := s.Append(tb.Context(), []byte(payload), 1)
	if err != nil {
		tb.Fatalf("Append(%.20q): %v", payload, err)
	}
	return end
}

func mustConfirm(tb testing.TB, s *spool.Spool, pos spool.Position) {
	tb.Helper()
	if err := s.Confirm(pos); err != nil {
		tb.Fatal(err)
	}
}

func mustClose(tb testing.TB, s io.Closer) {
	tb.Helper()
	if err := s.Close(); err != nil {
		tb.Fatal(err)
	}
}

// drain reads from a position until nothing durable is left.
func drain(tb testing.TB, s *spool.Spool, from spool.Position) []spool.Record {
	tb.Helper()
	r := s.NewReader(from)
	defer func() { _ = r.Close() }()
	var recs []spool.Record
	for r.Position().Before(s.Durable()) {
		// A reader that waits although nothing durable is left before it
		// would hang: damage at the very end has nothing behind it.
		ctx, cancel := context.WithTimeout(tb.Context(), 100*time.Millisecond)
		rec, err := r.Next(ctx)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		if err != nil {
			tb.Fatalf("Next: %v", err)
		}
		rec.Payload = append([]byte(nil), rec.Payload...)
		recs = append(recs, rec)
	}
	return recs
}

func payloads(recs []spool.Record) []string {
	out := []string{}
	for _, r := range recs {
		out = append(out, string(r.Payload))
	}
	return out
}

// incompressible returns a payload of n bytes that begins with name.
func incompressible(name string, n int) string {
	rng := rand.New(rand.NewPCG(uint64(len(name)), uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	copy(b, name)
	return string(b)
}

func TestSpool_AppendReadConfirm(t *testing.T) {
	t.Parallel()
	fsys := memfs.New()
	now := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	o := smallOptions()
	o.Now = func() time.Time { return now }
	s := mustOpen(t, fsys, o)

	want := []string{"", "one", strings.Repeat("compresses well ", 100), incompressible("two", 2000)}
	var ends []spool.Position
	for i, p := range want {
		end, err := s.Append(t.Context(), []byte(p), i)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end)
	}
	if got := s.Durable(); got != ends[3] {
		t.Errorf("Durable() = %v, want %v", got, ends[3])
	}
	recs := drain(t, s, spool.Position{})
	if diff := cmp.Diff(want, payloads(recs)); diff != "" {
		t.Fatalf("records (-want +got):\n%s", diff)
	}
	for i, r := range recs {
		if r.End != ends[i] || r.Events != i || !r.AppendedAt.Equal(now) {
			t.Errorf("record %d = %v, %d events at %v; want %v, %d events at %v", i, r.End, r.Events, r.AppendedAt, ends[i], i, now)
		}
		if got := payloads(drain(t, s, r.Start)); len(got) != 4-i {
			t.Errorf("reader from the start of record %d gives %d records, want %d", i, len(got), 4-i)
		}
	}
	st := s.Stats()
	if st.UnconfirmedRecords != 4 || st.UnconfirmedEvents != 6 || !st.OldestUnconfirmedAt.Equal(now) {
		t.Errorf("Stats() = %d records, %d events since %v; want 4, 6, %v", st.UnconfirmedRecords, st.UnconfirmedEvents, st.OldestUnconfirmedAt, now)
	}
	mustConfirm(t, s, ends[1])
	mustConfirm(t, s, ends[0]) // Going back is no error and does nothing.
	if got := s.Confirmed(); got != ends[1] {
		t.Errorf("Confirmed() = %v, want %v", got, ends[1])
	}
	if st := s.Stats(); st.UnconfirmedRecords != 2 || st.UnconfirmedEvents != 5 {
		t.Errorf("after Confirm: %d records, %d events; want 2, 5", st.UnconfirmedRecords, st.UnconfirmedEvents)
	}
	mustConfirm(t, s, ends[3])
	if st := s.Stats(); st.UnconfirmedBytes != 0 || !st.OldestUnconfirmedAt.IsZero() {
		t.Errorf("after Confirm of all: %d bytes since %v, want none", st.UnconfirmedBytes, st.OldestUnconfirmedAt)
	}
}

func TestSpool_Reopen(t *testing.T) {
	t.Parallel()
	fsys := memfs.New()
	s := mustOpen(t, fsys, smallOptions())
	var ends []spool.Position
	var want []string
	for i := range 20 {
		p := incompressible(fmt.Sprint("record ", i), 900)
		want = append(want, p)
		ends = append(ends, mustAppend(t, s, p))
	}
	if got := ends[19].Segment; got < 5 {
		t.Errorf("20 records of 960 bytes are in %d segments of 4 KiB, want at least 5", got)
	}
	mustConfirm(t, s, ends[6])
	if st := s.Stats(); st.Segments != 4 {
		t.Errorf("after confirming 7 of 20 records there are %d segments, want 4", st.Segments)
	}
	mustClose(t, s)

	s = mustOpen(t, fsys, smallOptions())
	rec := s.Recovery()
	if rec.Checkpoint != spool.CheckpointGood || rec.Records != 13 || rec.Events != 13 || len(rec.Damage) != 0 || rec.TornBytes != 0 {
		t.Errorf("Recovery() = %+v, want a good checkpoint, 13 records and no damage", rec)
	}
	if st := s.Stats(); st.UnconfirmedRecords != 13 || st.OldestUnconfirmedAt.IsZero() {
		t.Errorf("Stats() = %d records since %v, want 13", st.UnconfirmedRecords, st.OldestUnconfirmedAt)
	}
	if diff := cmp.Diff(want[7:], payloads(drain(t, s, s.Confirmed()))); diff != "" {
		t.Errorf("records after reopening (-want +got):\n%s", diff)
	}
	end := mustAppend(t, s, "later")
	if !ends[19].Before(end) {
		t.Errorf("position %v after reopening is not behind %v", end, ends[19])
	}
	mustConfirm(t, s, end)
	mustClose(t, s)
	s = mustOpen(t, fsys, smallOptions())
	if got := drain(t, s, s.Confirmed()); len(got) != 0 {
		t.Errorf("%d records after all were confirmed, want none", len(got))
	}
}

func TestSpool_RefusesBadCalls(t *testing.T) {
	t.Parallel()
	o := smallOptions()
	o.MaxRecordBytes = 100
	s := mustOpen(t, memfs.New(), o)
	if _, err := s.Append(t.Context(), make([]byte, 101), 1); !errors.Is(err, spool.ErrTooLarge) {
		t.Errorf("Append of 101 bytes: %v, want ErrTooLarge", err)
	}
	if _, err := s.Append(t.Context(), nil, -1); err == nil {
		t.Error("Append with -1 events succeeds")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Append(ctx, nil, 1); !errors.Is(err, context.Canceled) || errors.Is(err, spool.ErrUncertain) {
		t.Errorf("Append with an ended context: %v, want context.Canceled and certainty", err)
	}
	if err := s.Confirm(spool.Position{Segment: 9, Offset: 1}); err == nil {
		t.Error("Confirm ahead of the data succeeds")
	}
	if got := s.Stats(); got.Records != 0 || got.Syncs != 0 {
		t.Errorf("refused appends wrote %d records in %d syncs", got.Records, got.Syncs)
	}
	mustClose(t, s)
	mustClose(t, s)
	if _, err := s.Append(t.Context(), nil, 1); !errors.Is(err, spool.ErrClosed) {
		t.Errorf("Append after Close: %v, want ErrClosed", err)
	}
	if err := s.Confirm(spool.Position{Segment: 1, Offset: 100}); !errors.Is(err, spool.ErrClosed) {
		t.Errorf("Confirm after Close: %v, want ErrClosed", err)
	}
	if _, err := s.NewReader(spool.Position{}).Next(t.Context()); !errors.Is(err, spool.ErrClosed) {
		t.Errorf("Next after Close: %v, want ErrClosed", err)
	}
}

func TestSpool_Full(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, memfs.New(), smallOptions())
	var ends []spool.Position
	payload := incompressible("x", 1000)
	for {
		end, err := s.Append(t.Context(), []byte(payload), 1)
		if errors.Is(err, spool.ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end)
	}
	st := s.Stats()
	if st.UnconfirmedBytes > st.CapacityBytes || st.UnconfirmedBytes+1060 <= st.CapacityBytes || st.FullRefusals != 1 {
		t.Errorf("full at %d of %d bytes after %d refusals", st.UnconfirmedBytes, st.CapacityBytes, st.FullRefusals)
	}
	// Every record that is confirmed makes room for one more, for ever.
	for i := range 3 * len(ends) {
		mustConfirm(t, s, ends[i])
		ends = append(ends, mustAppend(t, s, payload))
		if st := s.Stats(); st.DiskBytes > st.CapacityBytes+4<<10+int64(st.Segments)*spool.SegmentHeaderSize {
			t.Fatalf("%d bytes on disk with a bound of %d and segments of 4 KiB", st.DiskBytes, st.CapacityBytes)
		}
	}
}

func TestSpool_GroupCommit(t *testing.T) {
	t.Parallel()
	fsys := memfs.New()
	release := make(chan struct{})
	var once sync.Once
	s := mustOpen(t, fsys, smallOptions())
	mustAppend(t, s, "first") // The segment exists now.
	before := s.Stats().Syncs
	fsys.Inject(func(op memfs.Op, _ string) error {
		if op == memfs.OpWrite {
			once.Do(func() { <-release })
		}
		return nil
	})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if _, err := s.Append(t.Context(), fmt.Appendf(nil, "r%d", i), 1); err != nil {
				t.Error(err)
			}
		})
	}
	waitFor(t, func() bool { return s.Stats().QueuedBytes >= 20*spool.FrameHeaderSize })
	close(release)
	wg.Wait()
	if got := s.Stats().Syncs - before; got > 2 {
		t.Errorf("20 appends at once took %d syncs, want at most 2", got)
	}
	if got := len(drain(t, s, spool.Position{})); got != 21 {
		t.Errorf("%d records, want 21", got)
	}
}

// waitFor polls until the condition holds.
func waitFor(tb testing.TB, cond func() bool) {
	tb.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	timeout := time.After(10 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-timeout:
			tb.Fatal("condition does not come true")
		}
	}
}

func TestSpool_ContextEndsWhileQueued(t *testing.T) {
	t.Parallel()
	fsys := memfs.New()
	s := mustOpen(t, fsys, smallOptions())
	mustAppend(t, s, "first")
	writing, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	fsys.Inject(func(op memfs.Op, _ string) error {
		if op == memfs.OpWrite {
			once.Do(func() { close(writing); <-release })
		}
		return nil
	})
	taken := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, err := s.Append(ctx, []byte("taken"), 1)
		taken <- err
	}()
	<-writing
	queued := make(chan error)
	go func() {
		_, err := s.Append(ctx, []byte("queued"), 1)
		queued <- err
	}()
	two := int64(2*spool.FrameHeaderSize + len("taken") + len("queued"))
	// The in-memory file system is held up, so only counters may be asked.
	waitFor(t, func() bool { return s.Stats().QueuedBytes == two })
	cancel()
	if err := <-taken; !errors.Is(err, context.Canceled) || !errors.Is(err, spool.ErrUncertain) {
		t.Errorf("record being written: %v, want context.Canceled and ErrUncertain", err)
	}
	if err := <-queued; !errors.Is(err, context.Canceled) || errors.Is(err, spool.ErrUncertain) {
		t.Errorf("record still queued: %v, want context.Canceled alone", err)
	}
	close(release)
	mustAppend(t, s, "last")
	want := []string{"first", "taken", "last"}
	if diff := cmp.Diff(want, payloads(drain(t, s, spool.Position{}))); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	if st := s.Stats(); st.QueuedBytes != 0 {
		t.Errorf("%d bytes stay reserved", st.QueuedBytes)
	}
}

func TestReader_WaitsForRecords(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, memfs.New(), smallOptions())
	r := s.NewReader(s.Confirmed())
	got := make(chan string)
	go func() {
		for {
			rec, err := r.Next(t.Context())
			if err != nil {
				close(got)
				return
			}
			got <- string(rec.Payload)
		}
	}()
	for i := range 10 { // Across segments, too.
		want := incompressible(strconv.Itoa(i), 1500)
		mustAppend(t, s, want)
		if p := <-got; p != want {
			t.Fatalf("Next() = %.10q…, want %.10q…", p, want)
		}
	}
	mustClose(t, s)
	if p, open := <-got; open {
		t.Errorf("Next() = %q after Close", p)
	}
}

func TestOpen_Locked(t *testing.T) {
	t.Parallel()
	o := spool.Options{Dir: t.TempDir(), Now: time.Now, Logger: slog.New(slog.DiscardHandler)}
	s, err := spool.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	_, err = spool.Open(o)
	if !errors.Is(err, spool.ErrLocked) || !strings.Contains(err.Error(), o.Dir) {
		t.Errorf("second Open: %v, want ErrLocked and the directory's name", err)
	}
	mustClose(t, s)
	s, err = spool.Open(o)
	if err != nil {
		t.Fatalf("Open after Close: %v", err)
	}
	mustClose(t, s)
}

func TestOpen_BadOptions(t *testing.T) {
	t.Parallel()
	good := spool.Options{Dir: dir, Now: time.Now}
	tests := map[string]struct {
		change func(*spool.Options)
		want   string
	}{
		"no directory":      {func(o *spool.Options) { o.Dir = "" }, "Dir:"},
		"no clock":          {func(o *spool.Options) { o.Now = nil }, "Now:"},
		"segment too large": {func(o *spool.Options) { o.SegmentBytes = 2 << 30 }, "SegmentBytes:"},
		"bound too small":   {func(o *spool.Options) { o.MaxBytes, o.SegmentBytes = 1<<20, 1<<20 }, "MaxBytes:"},
		"negative bound":    {func(o *spool.Options) { o.MaxBytes = -1 }, "MaxBytes:"},
		"record too large":  {func(o *spool.Options) { o.SegmentBytes, o.MaxRecordBytes = 1<<20, 1<<20 }, "MaxRecordBytes:"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := good
			tt.change(&o)
			if _, err := spool.OpenFS(o, memfs.New()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Open: %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestParsePosition(t *testing.T) {
	t.Parallel()
	for _, p := range []spool.Position{{}, {Segment: 1, Offset: 72}, {Segment: 1<<64 - 1, Offset: 1<<63 - 1}} {
		if got, err := spool.ParsePosition(p.String()); err != nil || got != p {
			t.Errorf("ParsePosition(%q) = %v, %v", p, got, err)
		}
	}
	for _, s := range []string{"", "1", "1:", ":1", "-1:2", "1:-2", "a:b", "1:2:3", "1:9223372036854775808"} {
		if got, err := spool.ParsePosition(s); err == nil {
			t.Errorf("ParsePosition(%q) = %v, want an error", s, got)
		}
	}
}
