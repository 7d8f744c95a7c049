package meter_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/meter"
)

func TestAggregate(t *testing.T) {
	t.Parallel()
	value := func(at, received int64, quantity, text string) meter.TimedValue {
		return meter.TimedValue{Time: at, Received: received, Quantity: meter.MustParseQuantity(quantity), Text: text}
	}
	values := []meter.TimedValue{
		value(2, 10, "0.1", "a"), value(5, 11, "0.2", "b"), value(5, 13, "3", "a"), value(5, 12, "7", "A"), value(1, 14, "0", ""),
	}
	for a, want := range map[meter.Aggregation]string{
		meter.Sum: "10.3", meter.Count: "5", meter.Max: "7", meter.Min: "0", meter.Latest: "3", meter.UniqueCount: "4",
	} {
		for range 2 { // the order of the values doesn't matter
			if got := meter.Aggregate(a, values); got.String() != want {
				t.Errorf("%s = %s, want %s", a, got, want)
			}
			slices.Reverse(values)
		}
		if got := meter.Aggregate(a, nil); !got.IsZero() {
			t.Errorf("%s of nothing = %s", a, got)
		}
	}
}

// row is one row for the tests of deduplication: hours and minutes are those of its time.
type row struct {
	id             string
	hours, minutes int
	received       int64
	stamped        bool
}

func rowsOf(c *meter.Catalog, list []row) *meter.EventRows {
	var rows meter.EventRows
	x := c.NewExtractor()
	for i, r := range list {
		ev := meter.Event{
			ID: []byte(r.id), Source: []byte("s"), Subject: []byte("x"), Type: []byte("t"), Stamped: r.stamped,
			Time: (time.Duration(r.hours)*time.Hour + time.Duration(r.minutes)*time.Minute).Nanoseconds(),
			Data: fmt.Appendf(nil, `{"n":%d}`, r.received),
		}
		rows.Subject, rows.Source, rows.ID, rows.Type = append(rows.Subject, ev.Subject), append(rows.Source, ev.Source), append(rows.ID, ev.ID), append(rows.Type, ev.Type)
		rows.Key, rows.Content = append(rows.Key, meter.KeyOf(&ev)), append(rows.Content, meter.ContentDigest(&ev))
		rows.Time, rows.Received, rows.Stamped = append(rows.Time, ev.Time), append(rows.Received, r.received), append(rows.Stamped, r.stamped)
		rows.Data, rows.Extensions = append(rows.Data, ev.Data), append(rows.Extensions, nil)
		x.Values(&rows, i, &ev)
	}
	return &rows
}

func TestDeduplicate(t *testing.T) {
	t.Parallel()
	c := newCatalog(t, meter.Meter{Slug: "sum", Aggregation: meter.Sum, Value: meter.MustParsePath("$.n")})
	tests := map[string]struct {
		rows []row
		want []int
	}{
		"nothing":                      {nil, nil},
		"different":                    {[]row{{id: "a", received: 1}, {id: "b", received: 2}}, []int{0, 1}},
		"resent":                       {[]row{{id: "a", received: 1}, {id: "a", received: 2}}, []int{0}},
		"resent, stored backwards":     {[]row{{id: "a", received: 2}, {id: "a", received: 1}}, []int{1}},
		"inserted twice":               {[]row{{id: "a", received: 1}, {id: "a", received: 1}}, []int{0}},
		"other time, same hour":        {[]row{{id: "a", minutes: 59, received: 1}, {id: "a", received: 2}}, []int{0}},
		"other hour, explicit":         {[]row{{id: "a", hours: 1, received: 1}, {id: "a", hours: 2, received: 2}}, []int{0, 1}},
		"next hour, stamped":           {[]row{{id: "a", hours: 1, minutes: 59, received: 1, stamped: true}, {id: "a", hours: 2, received: 2, stamped: true}}, []int{0}},
		"stamped, stored backwards":    {[]row{{id: "a", hours: 2, received: 2, stamped: true}, {id: "a", hours: 1, received: 1, stamped: true}}, []int{1}},
		"24 hours later":               {[]row{{id: "a", hours: 1, received: 1, stamped: true}, {id: "a", hours: 25, minutes: 59, received: 2, stamped: true}}, []int{0}},
		"25 hours later":               {[]row{{id: "a", hours: 1, received: 1, stamped: true}, {id: "a", hours: 26, received: 2, stamped: true}}, []int{0, 1}},
		"a chain of retries":           {[]row{{id: "a", hours: 1, received: 1, stamped: true}, {id: "a", hours: 20, received: 2, stamped: true}, {id: "a", hours: 40, received: 3, stamped: true}}, []int{0}},
		"stamped after explicit":       {[]row{{id: "a", hours: 1, received: 1}, {id: "a", hours: 2, received: 2, stamped: true}}, []int{0, 1}},
		"explicit after stamped":       {[]row{{id: "a", hours: 1, received: 1, stamped: true}, {id: "a", hours: 2, received: 2}}, []int{0, 1}},
		"stamped behind an explicit":   {[]row{{id: "a", hours: 1, received: 1}, {id: "a", hours: 1, received: 2, stamped: true}, {id: "a", hours: 2, received: 3, stamped: true}}, []int{0}},
		"stamped, others between them": {[]row{{id: "a", hours: 1, received: 1, stamped: true}, {id: "b", hours: 2, received: 2, stamped: true}, {id: "a", hours: 3, received: 3, stamped: true}}, []int{0, 1}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, meter.Deduplicate(rowsOf(c, tt.rows), meter.StampedLookback)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestDeduplicate_properties: what counts doesn't depend on the order of the rows nor on how often one was inserted.
func TestDeduplicate_properties(t *testing.T) {
	t.Parallel()
	c := newCatalog(t, meter.Meter{Slug: "sum", Aggregation: meter.Sum, Value: meter.MustParsePath("$.n")})
	counted := func(list []row) []string {
		rows := rowsOf(c, list)
		var all []string
		for _, i := range meter.Deduplicate(rows, meter.StampedLookback) {
			all = append(all, fmt.Sprint(list[i]))
		}
		slices.Sort(all)
		return all
	}
	rapid.Check(t, func(t *rapid.T) {
		var list []row
		for i := range rapid.IntRange(0, 12).Draw(t, "rows") {
			list = append(list, row{
				id: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "id"), hours: rapid.IntRange(0, 60).Draw(t, "hour"),
				received: int64(i), stamped: rapid.Bool().Draw(t, "stamped"),
			})
		}
		want := counted(list)
		if len(list) > 0 && len(want) == 0 {
			t.Fatal("nothing counts")
		}
		again := rapid.Permutation(append(slices.Clone(list), list...)).Draw(t, "order")
		if diff := cmp.Diff(want, counted(again)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAggregateRows(t *testing.T) {
	t.Parallel()
	c := newCatalog(t, meter.Meter{Slug: "sum", Aggregation: meter.Sum, Value: meter.MustParsePath("$.n")}, meter.Meter{Slug: "n", Aggregation: meter.Count})
	rows := rowsOf(c, []row{
		{id: "a", hours: 1, received: 1}, {id: "a", hours: 1, received: 2}, {id: "b", hours: 1, minutes: 59, received: 3}, {id: "c", hours: 2, received: 4},
	})
	rows.Subject[2] = []byte("y")
	w := meter.HourOf(time.Unix(3600, 0))
	sum, _ := c.Meter("sum")
	got := fmt.Sprint(meter.AggregateRows(rows, sum, w, meter.StampedLookback))
	if want := "map[x:{1 1} y:{3 1}]"; got != want {
		t.Errorf("sum %s, want %s", got, want)
	}
	n, _ := c.Meter("n")
	if got, want := fmt.Sprint(meter.AggregateRows(rows, n, w.Next(), 0)), "map[x:{1 1}]"; got != want {
		t.Errorf("count %s, want %s", got, want)
	}
}
