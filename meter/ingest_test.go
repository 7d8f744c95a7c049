package meter_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/meter/spool"
)

// memorySpool keeps payloads, or fails.
type memorySpool struct {
	mu       sync.Mutex
	payloads [][]byte
	err      error
	failFrom int // number of the first append that fails with err
}

func (s *memorySpool) Append(_ context.Context, payload []byte, _ int) (meter.Position, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil && len(s.payloads) >= s.failFrom {
		return meter.Position{}, s.err
	}
	s.payloads = append(s.payloads, append([]byte(nil), payload...))
	return meter.Position{Segment: 1, Offset: int64(len(s.payloads))}, nil
}

// events decodes all that was appended, each with its time of receipt.
func (s *memorySpool) events(t *testing.T) (events []meter.Event, received []int64) {
	t.Helper()
	for _, payload := range s.payloads {
		var p meter.Payload
		if err := meter.DecodePayload(payload, &p); err != nil {
			t.Fatal(err)
		}
		for i, ev := range p.Events {
			events = append(events, ev)
			received = append(received, p.Received+int64(i))
		}
	}
	return events, received
}

// ingest is an ingester over a memory spool, with a clock that the test moves.
type ingest struct {
	*meter.Ingester
	spool memorySpool
	now   time.Time
	dead  *meter.DeadLetters
}

var testNow = time.Date(2026, 1, 2, 15, 30, 0, 0, time.UTC)

func newIngest(t *testing.T, change func(*meter.IngestOptions)) *ingest {
	t.Helper()
	in := &ingest{now: testNow, dead: openDeadLetters(t, t.TempDir()+"/dead.ndjson", 0)}
	opts := meter.IngestOptions{
		Catalog: newCatalog(t, meter.Meter{Slug: "sum", Aggregation: meter.Sum, Value: meter.MustParsePath("$.n")}),
		Spool:   &in.spool, DeadLetters: in.dead, MaxFuture: 10 * time.Minute, MaxAge: 24 * time.Hour,
		Now: func() time.Time { return in.now }, Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&opts)
	}
	var err error
	if in.Ingester, err = meter.NewIngester(opts); err != nil {
		t.Fatal(err)
	}
	return in
}

// accept decodes and accepts a body.
func (in *ingest) accept(t *testing.T, mode meter.Mode, body string) meter.Verdicts {
	t.Helper()
	b := meter.NewBatch()
	t.Cleanup(b.Release)
	b.DecodeJSON([]byte(body), meter.DecodeOptions{})
	v, err := in.Accept(t.Context(), b, "", mode)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// usage is an event with an id and members in front.
func usage(id, members string) string {
	if members != "" {
		members += ","
	}
	return fmt.Sprintf(`{%s"id":%q,"source":"s","type":"t","subject":"x","data":{"n":1}}`, members, id)
}

func names(statuses []meter.Status) string {
	var all []string
	for _, s := range statuses {
		all = append(all, s.String())
	}
	return strings.Join(all, " ")
}

func TestIngester_Accept(t *testing.T) {
	t.Parallel()
	in := newIngest(t, nil)
	v := in.accept(t, meter.AllOrNothing, "["+usage("1", `"time":"2026-01-02T15:00:00Z"`)+","+usage("2", "")+`,{"id":"3","source":"s","type":"unknown","subject":"x"}]`)
	if !v.Stored || v.Accepted != 3 || v.Stamped != 2 || v.WithoutMeter != 1 || !v.ReceivedAt.Equal(testNow) || v.Position.IsZero() {
		t.Errorf("verdicts %+v", v)
	}
	if got, want := names(v.Statuses), "accepted accepted accepted"; got != want {
		t.Errorf("statuses %s", got)
	}
	events, received := in.spool.events(t)
	want := []plain{
		{ID: "1", Source: "s", Type: "t", Subject: "x", Time: "2026-01-02T15:00:00Z", Data: `{"n":1}`},
		{ID: "2", Source: "s", Type: "t", Subject: "x", Time: "stamped", Data: `{"n":1}`},
		{ID: "3", Source: "s", Type: "unknown", Subject: "x", Time: "stamped"},
	}
	if diff := cmp.Diff(want, showAll(events)); diff != "" {
		t.Error(diff)
	}
	if events[1].Time != received[1] || received[1] != testNow.UnixNano()+1 {
		t.Errorf("stamped with %d, received %d", events[1].Time, received[1])
	}
	stats := in.Stats()
	if stats.Batches != 1 || stats.Accepted != 3 || stats.Stamped != 2 || stats.WithoutMeter != 1 || len(stats.Rejected) != 0 {
		t.Errorf("stats %+v", stats)
	}
}

// bad is a request in which the events 1, 3 and 4 are bad, for reasons found by decoding, by the clock and by a meter.
var bad = "[" + strings.Join([]string{
	usage("0", ""), `{"id":"1"}`, usage("2", ""), usage("3", `"time":"2026-01-02T15:40:00.000000001Z"`),
	`{"id":"4","source":"s","type":"t","subject":"x","data":{"n":-1}}`, usage("5", ""),
}, ",") + "]"

func problemsOf(problems []meter.Problem) string {
	var all []string
	for _, p := range problems {
		all = append(all, fmt.Sprintf("%d:%s", p.Index, p.Reason))
	}
	return strings.Join(all, " ")
}

func TestIngester_Accept_allOrNothing(t *testing.T) {
	t.Parallel()
	in := newIngest(t, nil)
	v := in.accept(t, meter.AllOrNothing, bad)
	if v.Stored || len(in.spool.payloads) != 0 || v.Refused != 3 || v.Rejected != 3 || v.Accepted != 0 {
		t.Errorf("verdicts %+v", v)
	}
	if got, want := names(v.Statuses), "refused rejected refused rejected rejected refused"; got != want {
		t.Errorf("statuses %s", got)
	}
	if got, want := problemsOf(v.Problems), "1:missing_attribute 3:time_in_future 4:value_negative"; got != want {
		t.Errorf("problems %s, want %s", got, want)
	}
	stats := in.Stats()
	wantRejected := map[meter.Reason]uint64{meter.ReasonMissing: 1, meter.ReasonTimeInFuture: 1, meter.ReasonValueNegative: 1}
	if diff := cmp.Diff(wantRejected, stats.Rejected); diff != "" || stats.Refused != 3 || stats.Accepted != 0 {
		t.Errorf("stats %+v %s", stats, diff)
	}
}

func TestIngester_Accept_keepGood(t *testing.T) {
	t.Parallel()
	in := newIngest(t, nil)
	v := in.accept(t, meter.KeepGood, bad)
	if !v.Stored || v.Accepted != 3 || v.Rejected != 3 || v.Refused != 0 {
		t.Errorf("verdicts %+v", v)
	}
	if got, want := names(v.Statuses), "accepted rejected accepted rejected rejected accepted"; got != want {
		t.Errorf("statuses %s", got)
	}
	events, _ := in.spool.events(t)
	if len(events) != 3 || string(events[0].ID)+string(events[1].ID)+string(events[2].ID) != "025" {
		t.Errorf("stored %+v", showAll(events))
	}
	letters, _, err := in.dead.List(0, 10)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range letters {
		got = append(got, fmt.Sprintf("%s %s %s", l.Reason, l.Meter, l.Event))
	}
	want := []string{
		`missing_attribute  {"id":"1"}`,
		`time_in_future  ` + usage("3", `"time":"2026-01-02T15:40:00.000000001Z"`),
		`value_negative sum {"id":"4","source":"s","type":"t","subject":"x","data":{"n":-1}}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !letters[0].ReceivedAt.Equal(testNow) {
		t.Errorf("received at %s", letters[0].ReceivedAt)
	}
}

func TestIngester_Accept_times(t *testing.T) {
	t.Parallel()
	for at, want := range map[string]meter.Reason{
		"2026-01-02T15:40:00Z":           "",
		"2026-01-02T15:40:00.000000001Z": meter.ReasonTimeInFuture,
		"2261-01-01T00:00:00Z":           meter.ReasonTimeInFuture,
		"2026-01-01T15:30:00Z":           "",
		"2026-01-01T15:29:59.999999999Z": meter.ReasonTimeTooOld,
		"1970-01-01T00:00:00Z":           meter.ReasonTimeTooOld,
	} {
		in := newIngest(t, nil)
		v := in.accept(t, meter.KeepGood, usage("1", fmt.Sprintf(`"time":%q`, at)))
		if (len(v.Problems) == 0) != (want == "") || (want != "" && (v.Problems[0].Reason != want || v.Problems[0].Field != "time")) {
			t.Errorf("%s: problems %+v, want %q", at, v.Problems, want)
		}
	}
	in := newIngest(t, func(o *meter.IngestOptions) { o.MaxAge, o.MaxFuture = 0, 0 })
	if v := in.accept(t, meter.KeepGood, "["+usage("1", `"time":"1970-01-01T00:00:00Z"`)+","+usage("2", `"time":"2261-01-01T00:00:00Z"`)+"]"); v.Accepted != 2 {
		t.Errorf("without bounds: %+v", v.Problems)
	}
}

func TestIngester_Accept_duplicates(t *testing.T) {
	t.Parallel()
	in := newIngest(t, nil)
	other := func(source, subject, data string) string {
		return fmt.Sprintf(`{"id":"1","source":%q,"type":"t","subject":%q,"data":{"n":%s}}`, source, subject, data)
	}
	body := strings.Join([]string{
		other("s", "x", "1"), other("s", "x", "1"), other("s", "x", "2"), other("s", "y", "1"), other("r", "x", "1"),
		usage("1", `"time":"2026-01-02T15:00:00Z"`), usage("2", `"time":"2026-01-02T15:00:00Z"`), usage("2", `"time":"2026-01-02T16:00:00+01:00"`),
		usage("2", `"time":"2026-01-02T15:00:01Z"`), usage("1", `"region":"eu"`),
	}, ",")
	v := in.accept(t, meter.AllOrNothing, "["+body+"]")
	want := "accepted duplicate conflict accepted accepted conflict accepted duplicate conflict conflict"
	if got := names(v.Statuses); got != want {
		t.Errorf("statuses\n%s, want\n%s", got, want)
	}
	if v.Accepted != 10 || v.Duplicates != 2 || v.Conflicts != 4 {
		t.Errorf("verdicts %+v", v)
	}
	if events, _ := in.spool.events(t); len(events) != 10 {
		t.Errorf("%d events are stored; the store decides what counts", len(events))
	}
}

// TestIngester_received has the clock stand still and go back, across a restart as well.
func TestIngester_received(t *testing.T) {
	t.Parallel()
	in := newIngest(t, nil)
	for _, step := range []time.Duration{0, 0, -time.Hour, time.Nanosecond, time.Minute} {
		in.now = in.now.Add(step)
		in.accept(t, meter.AllOrNothing, "["+usage("1", "")+","+usage("2", "")+"]")
	}
	_, received := in.spool.events(t)
	for i := 1; i < len(received); i++ {
		if received[i] <= received[i-1] {
			t.Errorf("received %v does not increase", received)
		}
	}
	last := time.Unix(0, received[len(received)-1])
	again := newIngest(t, func(o *meter.IngestOptions) { o.ReceivedAfter = last })
	again.now = last.Add(-time.Hour)
	if v := again.accept(t, meter.AllOrNothing, usage("1", "")); !v.ReceivedAt.After(last) {
		t.Errorf("after the restart: %s, before it: %s", v.ReceivedAt, last)
	}
}

// TestIngester_stampedAfterWrongClock has the clock be a year ahead for a moment: events that come without a time are dated
// with the clock all the same, in the spool as well, and receipts don't go back.
func TestIngester_stampedAfterWrongClock(t *testing.T) {
	t.Parallel()
	in := newIngest(t, nil)
	in.now = testNow.AddDate(1, 0, 0)
	in.accept(t, meter.AllOrNothing, usage("wrong", ""))
	in.now = testNow
	in.accept(t, meter.AllOrNothing, "["+usage("1", "")+","+usage("2", "")+"]")
	events, received := in.spool.events(t)
	for i, want := range []time.Time{testNow.AddDate(1, 0, 0), testNow, testNow.Add(1)} {
		if got := time.Unix(0, events[i].Time).UTC(); !got.Equal(want) || !events[i].Stamped {
			t.Errorf("event %s is dated %s, want %s", events[i].ID, got, want)
		}
		if i > 0 && received[i] <= received[i-1] {
			t.Errorf("received %v does not increase", received)
		}
	}
}

func TestIngester_received_concurrently(t *testing.T) {
	t.Parallel()
	in := newIngest(t, nil)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				b := meter.NewBatch()
				b.DecodeJSON([]byte("["+usage("1", "")+","+usage("2", "")+"]"), meter.DecodeOptions{})
				if _, err := in.Accept(t.Context(), b, "", meter.AllOrNothing); err != nil {
					t.Error(err)
				}
				b.Release()
			}
		})
	}
	all.Wait()
	_, received := in.spool.events(t)
	seen := map[int64]bool{}
	for _, r := range received {
		seen[r] = true
	}
	if len(seen) != 800 {
		t.Errorf("%d times of receipt for 800 events", len(seen))
	}
}

func TestIngester_Accept_splits(t *testing.T) {
	t.Parallel()
	in := newIngest(t, func(o *meter.IngestOptions) { o.MaxPayloadBytes = 150 })
	var events []string
	for i := range 20 {
		events = append(events, usage(strconv.Itoa(i), ""))
	}
	events[7] = usage("7", fmt.Sprintf(`"long":%q`, strings.Repeat("x", 1000)))
	v := in.accept(t, meter.AllOrNothing, "["+strings.Join(events, ",")+"]")
	if !v.Stored || v.Position.Offset != int64(len(in.spool.payloads)) || len(in.spool.payloads) < 5 {
		t.Errorf("%d payloads, verdicts %+v", len(in.spool.payloads), v)
	}
	stored, received := in.spool.events(t)
	for i, ev := range stored {
		if string(ev.ID) != strconv.Itoa(i) || received[i] != received[0]+int64(i) || ev.Time != received[i] {
			t.Errorf("event %d: %s received %d", i, ev.ID, received[i])
		}
	}
	for i, p := range in.spool.payloads {
		if len(p) > 150 && len(p) < 1000 {
			t.Errorf("payload %d has %d bytes", i, len(p))
		}
	}
	// A failure in the middle acknowledges nothing.
	in.spool.err, in.spool.failFrom = spool.ErrFull, len(in.spool.payloads)+2
	b := meter.NewBatch()
	defer b.Release()
	b.DecodeJSON([]byte("["+strings.Join(events, ",")+"]"), meter.DecodeOptions{})
	if v, err := in.Accept(t.Context(), b, "", meter.AllOrNothing); !errors.Is(err, meter.ErrSpoolFull) || v.Stored || v.Statuses != nil {
		t.Errorf("%+v, %v", v, err)
	}
	if failed := in.Stats().Failed; failed["full"] != 20 {
		t.Errorf("failed %v", failed)
	}
}

func TestIngester_Accept_errors(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		err, want error
		cause     string
	}{
		"full":     {fmt.Errorf("append: %w", spool.ErrFull), meter.ErrSpoolFull, "full"},
		"closed":   {spool.ErrClosed, meter.ErrClosed, "closed"},
		"large":    {spool.ErrTooLarge, meter.ErrBatchTooLarge, "too_large"},
		"disk":     {errors.New("no space left on device"), meter.ErrUnavailable, "unavailable"},
		"canceled": {fmt.Errorf("append: %w", context.Canceled), context.Canceled, "canceled"},
		"deadline": {context.DeadlineExceeded, context.DeadlineExceeded, "canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := newIngest(t, nil)
			in.spool.err = tt.err
			b := meter.NewBatch()
			defer b.Release()
			b.DecodeJSON([]byte(usage("1", "")), meter.DecodeOptions{})
			v, err := in.Accept(t.Context(), b, "", meter.AllOrNothing)
			if !errors.Is(err, tt.want) || !errors.Is(err, tt.err) || v.Stored {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if stats := in.Stats(); stats.Failed[tt.cause] != 1 || stats.Accepted != 0 {
				t.Errorf("stats %+v", stats)
			}
		})
	}
}

// confirmer answers WaitConfirmed with an error.
type confirmer struct {
	pos meter.Position
	err error
}

func (c *confirmer) WaitConfirmed(_ context.Context, pos meter.Position) error {
	c.pos = pos
	return c.err
}

func TestIngester_Accept_ackStore(t *testing.T) {
	t.Parallel()
	c := &confirmer{}
	in := newIngest(t, func(o *meter.IngestOptions) { o.Ack, o.Confirmer = meter.AckStore, c })
	if v := in.accept(t, meter.AllOrNothing, usage("1", "")); v.Position != c.pos || !v.Stored {
		t.Errorf("waited for %s, stored at %s", c.pos, v.Position)
	}
	c.err = context.DeadlineExceeded
	b := meter.NewBatch()
	defer b.Release()
	b.DecodeJSON([]byte(usage("1", "")), meter.DecodeOptions{})
	if v, err := in.Accept(t.Context(), b, "", meter.AllOrNothing); !errors.Is(err, meter.ErrUnavailable) || v.Stored {
		t.Errorf("%+v, %v", v, err)
	}
	if got := in.Stats().Failed; got["unavailable"] != 1 || len(got) != 1 {
		t.Errorf("failed %v, want one event for want of the store", got)
	}
}

func TestIngester_Accept_nothing(t *testing.T) {
	t.Parallel()
	in := newIngest(t, nil)
	if v := in.accept(t, meter.AllOrNothing, "[]"); v.Stored || len(v.Statuses) != 0 || len(in.spool.payloads) != 0 {
		t.Errorf("%+v", v)
	}
	if v := in.accept(t, meter.KeepGood, "[{}]"); v.Stored || v.Rejected != 1 || len(in.spool.payloads) != 0 {
		t.Errorf("%+v", v)
	}
}

func TestIngester_Accept_brokenArray(t *testing.T) {
	t.Parallel()
	in := newIngest(t, nil)
	v := in.accept(t, meter.KeepGood, "["+usage("1", "")+`,{"id":`+usage("3", ""))
	if v.Accepted != 1 || names(v.Statuses) != "accepted rejected" {
		t.Errorf("%+v", v)
	}
	letters, _, err := in.dead.List(0, 10)
	if err != nil || len(letters) != 1 || string(letters[0].Raw) != `{"id":`+usage("3", "") {
		t.Errorf("%+v, %v", letters, err)
	}
}

func TestIngester_traceparent(t *testing.T) {
	t.Parallel()
	for trace, want := range map[string]string{"00-abc-def-01": "00-abc-def-01", strings.Repeat("x", 200): "", "": ""} {
		in := newIngest(t, nil)
		b := meter.NewBatch()
		b.DecodeJSON([]byte(usage("1", "")), meter.DecodeOptions{})
		if _, err := in.Accept(t.Context(), b, trace, meter.AllOrNothing); err != nil {
			t.Fatal(err)
		}
		b.Release()
		var p meter.Payload
		if err := meter.DecodePayload(in.spool.payloads[0], &p); err != nil || p.Traceparent != want {
			t.Errorf("%q, %v, want %q", p.Traceparent, err, want)
		}
	}
}

func TestNewIngester_options(t *testing.T) {
	t.Parallel()
	_, err := meter.NewIngester(meter.IngestOptions{Ack: meter.AckStore, MaxAge: -1})
	for _, want := range []string{"catalog", "spool", "clock", "logger", "confirmer", "negative"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %q", err, want)
		}
	}
}

func TestAccept_doesNotAllocate(t *testing.T) {
	in, err := meter.NewIngester(meter.IngestOptions{
		Catalog: newCatalog(t, meter.Meter{Slug: "sum", Aggregation: meter.Sum, Value: meter.MustParsePath("$.tokens"), EventType: "prompt"}),
		Spool:   &devNull{}, Now: func() time.Time { return testNow }, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	body := benchBody(1000)
	b := meter.NewBatch()
	defer b.Release()
	ctx := t.Context()
	allocs := testing.AllocsPerRun(20, func() {
		b.DecodeJSON(body, meter.DecodeOptions{})
		if v, err := in.Accept(ctx, b, "", meter.AllOrNothing); err != nil || v.Accepted != 1000 {
			t.Fatal(err)
		}
	})
	if allocs > 1 {
		t.Errorf("%v allocations for 1000 events", allocs)
	}
}

// TestIngester_Accept_problemOrder has problems that are found late belong to earlier events.
func TestIngester_Accept_problemOrder(t *testing.T) {
	t.Parallel()
	in := newIngest(t, nil)
	negative := `{"id":"%d","source":"s","type":"t","subject":"x","data":{"n":-1}}`
	v := in.accept(t, meter.KeepGood, "["+fmt.Sprintf(negative, 0)+`,{"id":"1"},`+usage("2", "")+","+fmt.Sprintf(negative, 3)+`,{"id":"4"}]`)
	if got, want := problemsOf(v.Problems), "0:value_negative 1:missing_attribute 3:value_negative 4:missing_attribute"; got != want {
		t.Errorf("problems %s, want %s", got, want)
	}
	letters, _, err := in.dead.List(0, 10)
	if err != nil || len(letters) != 4 || string(letters[1].Event) != `{"id":"1"}` || string(letters[3].Event) != `{"id":"4"}` {
		t.Errorf("the dead letters are mixed up: %+v, %v", letters, err)
	}
}
