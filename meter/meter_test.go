package meter_test

import (
	"strings"
	"testing"
	"time"

	"github.com/meterd/meterd/meter"
)

func validMeter() meter.Meter {
	return meter.Meter{
		Slug: "tokens_total", EventType: "prompt", Aggregation: meter.Sum, Value: meter.MustParsePath("$.tokens"),
		Scale: meter.NewQuantity(1, 0), GroupBy: []meter.Dimension{{Name: "model", Path: meter.MustParsePath("$.model")}},
		Instance: "{subject}-x",
	}
}

func TestMeter_Validate(t *testing.T) {
	t.Parallel()
	if err := validMeter().Validate(); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		change func(*meter.Meter)
		want   string
	}{
		"no slug":          {func(m *meter.Meter) { m.Slug = "" }, "slug:"},
		"upper case":       {func(m *meter.Meter) { m.Slug = "Tokens" }, "slug:"},
		"two underscores":  {func(m *meter.Meter) { m.Slug = "a__b" }, "slug:"},
		"long slug":        {func(m *meter.Meter) { m.Slug = strings.Repeat("a", 65) }, "slug:"},
		"no type":          {func(m *meter.Meter) { m.EventType = "" }, "event_type:"},
		"no aggregation":   {func(m *meter.Meter) { m.Aggregation = 0 }, "aggregation:"},
		"count with value": {func(m *meter.Meter) { m.Aggregation = meter.Count }, "value: count takes no value"},
		"sum of nothing":   {func(m *meter.Meter) { m.Value = meter.Path{} }, "value: sum needs"},
		"zero scale":       {func(m *meter.Meter) { m.Scale = meter.Quantity{} }, "scale:"},
		"negative scale":   {func(m *meter.Meter) { m.Scale = meter.NewQuantity(-1, 0) }, "scale:"},
		"placeholder":      {func(m *meter.Meter) { m.Instance = "{tenant}" }, "instance:"},
		"nameless":         {func(m *meter.Meter) { m.GroupBy[0].Name = "" }, "group_by:"},
		"same name twice":  {func(m *meter.Meter) { m.GroupBy = append(m.GroupBy, m.GroupBy[0]) }, "group_by:"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := validMeter()
			tt.change(&m)
			if err := m.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestAggregation_text(t *testing.T) {
	t.Parallel()
	for a := meter.Sum; a <= meter.UniqueCount; a++ {
		text, err := a.MarshalText()
		if back, parseErr := meter.ParseAggregation(strings.ToUpper(string(text))); err != nil || parseErr != nil || back != a {
			t.Errorf("%s reads back as %v: %v, %v", text, back, err, parseErr)
		}
	}
	if _, err := meter.ParseAggregation("avg"); err == nil || !strings.Contains(err.Error(), "unique_count") {
		t.Errorf("unknown name: %v", err)
	}
}

// TestMeter_Fingerprint fixes the fingerprint: it is stored beside every value, so it must never change by accident.
func TestMeter_Fingerprint(t *testing.T) {
	t.Parallel()
	m := validMeter()
	const want = 0x4c8cce078105834a
	if got := m.Fingerprint(); got != want {
		t.Errorf("fingerprint %#x, want %#x", got, uint64(want))
	}
	same := map[string]func(*meter.Meter){
		"slug":        func(m *meter.Meter) { m.Slug = "other" },
		"scale":       func(m *meter.Meter) { m.Scale = meter.NewQuantity(1000, 0) },
		"aggregation": func(m *meter.Meter) { m.Aggregation = meter.Max },
		"billing":     func(m *meter.Meter) { m.Billed = !m.Billed },
	}
	for name, change := range same {
		other := validMeter()
		if change(&other); other.Fingerprint() != want {
			t.Errorf("another %s gives another fingerprint", name)
		}
	}
	different := map[string]func(*meter.Meter){
		"event type":      func(m *meter.Meter) { m.EventType = "other" },
		"path":            func(m *meter.Meter) { m.Value = meter.MustParsePath("$.other") },
		"kind":            func(m *meter.Meter) { m.Aggregation = meter.UniqueCount },
		"dimension":       func(m *meter.Meter) { m.GroupBy[0].Name = "other" },
		"dimension path":  func(m *meter.Meter) { m.GroupBy[0].Path = meter.MustParsePath("$.other") },
		"fewer":           func(m *meter.Meter) { m.GroupBy = nil },
		"type and path":   func(m *meter.Meter) { m.EventType, m.Value = "prompt8:$.token", meter.MustParsePath("$.s") },
		"count":           func(m *meter.Meter) { m.Aggregation, m.Value = meter.Count, meter.Path{} },
		"dimension order": func(m *meter.Meter) { m.GroupBy = append([]meter.Dimension{{Name: "a", Path: m.Value}}, m.GroupBy...) },
	}
	for name, change := range different {
		other := validMeter()
		if change(&other); other.Fingerprint() == want {
			t.Errorf("another %s gives the same fingerprint", name)
		}
	}
}

func TestWindow(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 20, 34, 5, 6, time.FixedZone("", 5*3600+30*60))
	w := meter.HourOf(at)
	if got, want := w.String(), "2026-01-02T15:00:00Z/2026-01-02T16:00:00Z"; got != want {
		t.Errorf("HourOf = %s, want %s", got, want)
	}
	for _, tt := range []struct {
		at   time.Time
		want bool
	}{{w.Start, true}, {w.End.Add(-1), true}, {w.End, false}, {w.Start.Add(-1), false}} {
		if w.Contains(tt.at) != tt.want {
			t.Errorf("Contains(%s) = %v", tt.at, !tt.want)
		}
	}
	if next := w.Next(); !next.Start.Equal(w.End) || next.End.Sub(next.Start) != time.Hour {
		t.Errorf("Next = %s", next)
	}
	if w.IsZero() || !(meter.Window{}).IsZero() {
		t.Error("IsZero")
	}
}
