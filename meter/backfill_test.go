package meter_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/meter/spool"
)

// decoded is a batch of a body.
func decoded(t *testing.T, body string) *meter.Batch {
	t.Helper()
	b := meter.NewBatch()
	t.Cleanup(b.Release)
	b.DecodeJSON([]byte(body), meter.DecodeOptions{})
	return b
}

// TestIngester_Backfill takes old events through its own door only, and with the rows that a preview counts.
func TestIngester_Backfill(t *testing.T) {
	t.Parallel()
	in := newIngest(t, nil)
	old := "[" + usage("1", `"time":"2025-06-02T15:00:00Z"`) + "," + usage("2", `"time":"2026-01-02T15:30:00Z"`) + "]"
	if v := in.accept(t, meter.AllOrNothing, old); v.Stored || len(v.Problems) != 1 || v.Problems[0].Reason != meter.ReasonTimeTooOld {
		t.Fatalf("the ordinary door: %+v", v)
	}
	before := in.Stats()
	b := decoded(t, old)
	v, rows := in.CheckBackfill(b)
	if len(v.Problems) != 0 || v.Accepted != 2 || v.Stored || rows.Len() != 2 || len(rows.Values) != 2 {
		t.Fatalf("preview: %+v, %+v", v, rows)
	}
	if len(in.spool.payloads) != 0 || !cmp.Equal(before, in.Stats()) {
		t.Error("a preview stored or counted something")
	}
	if rows.Received[0] < testNow.UnixNano() || rows.Received[1] <= rows.Received[0] {
		t.Errorf("received %v", rows.Received)
	}
	// The same batch is committed after it was checked.
	v, err := in.AcceptBackfill(t.Context(), b, "")
	if err != nil || !v.Stored || v.Accepted != 2 {
		t.Fatalf("commit: %+v, %v", v, err)
	}
	events, _ := in.spool.events(t)
	if got := showAll(events); len(got) != 2 || got[0].Time != "2025-06-02T15:00:00Z" {
		t.Errorf("stored %+v", got)
	}
}

// TestIngester_BackfillRefuses what no backfill may bring; nothing of the request is stored.
func TestIngester_BackfillRefuses(t *testing.T) {
	t.Parallel()
	in := newIngest(t, nil)
	body := "[" + usage("1", `"time":"2025-06-02T15:00:00Z"`) + "," + usage("2", "") + "," + usage("3", `"time":"2026-01-03T15:00:00Z"`) +
		"," + usage("4", `"time":"2024-06-02T15:00:00Z"`) + "]"
	want := []meter.Reason{meter.ReasonMissing, meter.ReasonTimeInFuture, meter.ReasonTimeTooOld}
	v, rows := in.CheckBackfill(decoded(t, body))
	var got []meter.Reason
	for _, p := range v.Problems {
		got = append(got, p.Reason)
	}
	if d := cmp.Diff(want, got); d != "" || rows != nil || names(v.Statuses) != "refused rejected rejected rejected" {
		t.Errorf("preview: %s, rows %v, statuses %s", d, rows, names(v.Statuses))
	}
	if len(in.Stats().Rejected) != 0 {
		t.Error("a preview counted refusals")
	}
	v, err := in.AcceptBackfill(t.Context(), decoded(t, body), "")
	if err != nil || v.Stored || len(v.Problems) != 3 || len(in.spool.payloads) != 0 {
		t.Errorf("commit: %+v, %v", v, err)
	}
	in.spool.err = spool.ErrFull
	if _, err := in.AcceptBackfill(t.Context(), decoded(t, usage("1", `"time":"2025-06-02T15:00:00Z"`)), ""); !errors.Is(err, meter.ErrSpoolFull) {
		t.Errorf("full spool: %v", err)
	}
}
