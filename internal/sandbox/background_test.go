package sandbox_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/internal/sandbox"
)

// TestRecordCodes gives every code of KooGallery usage push, section 1.6, its record. The clock stands at 09:10.
func TestRecordCodes(t *testing.T) {
	t.Parallel()
	declare := func(inst sandbox.Instance) func(*sandbox.Options) {
		inst.ID = testInstance
		return func(o *sandbox.Options) { o.Instances = []sandbox.Instance{inst} }
	}
	hour := func(h, m int) time.Time { return time.Date(2022, 8, 9, h, m, 0, 0, time.UTC) }
	g := good("sn")
	for name, tc := range map[string]struct {
		opts    func(*sandbox.Options)
		records []fields
		want    []string
	}{
		"valid":                       {nil, []fields{g}, []string{"valid"}},
		"001 strict":                  {func(o *sandbox.Options) { o.Strict = true }, []fields{g}, []string{"abnormal 001"}},
		"001 declared unknown":        {declare(sandbox.Instance{State: sandbox.InstanceUnknown}), []fields{g}, []string{"abnormal 001"}},
		"002 no such month":           {nil, []fields{g.with("begin_time", "20221309T080000Z")}, []string{"abnormal 002"}},
		"002 no such day":             {nil, []fields{g.with("end_time", "20220230T080000Z")}, []string{"abnormal 002"}},
		"002 hour 24":                 {nil, []fields{g.with("record_time", "20220809T240000Z")}, []string{"abnormal 002"}},
		"002 late format":             {lateFormats, []fields{g.with("begin_time", "20220809T08000.5Z")}, []string{"abnormal 002"}},
		"003 zero":                    {nil, []fields{g.with("usage_value", "0")}, []string{"abnormal 003"}},
		"003 zero with decimals":      {nil, []fields{g.with("usage_value", "0.0000")}, []string{"abnormal 003"}},
		"003 negative":                {nil, []fields{g.with("usage_value", "-1")}, []string{"abnormal 003"}},
		"003 five decimals":           {nil, []fields{g.with("usage_value", "1.00000")}, []string{"abnormal 003"}},
		"003 too large":               {nil, []fields{g.with("usage_value", "100000000")}, []string{"abnormal 003"}},
		"003 late format":             {lateFormats, []fields{g.with("usage_value", "1e3")}, []string{"abnormal 003"}},
		"largest value":               {nil, []fields{g.with("usage_value", "99999999.9999")}, []string{"valid"}},
		"smallest value":              {nil, []fields{g.with("usage_value", "0.0001")}, []string{"valid"}},
		"004 empty":                   {nil, []fields{g.with("metering_sn", "")}, []string{"abnormal 004"}},
		"004 late format":             {lateFormats, []fields{g.with("metering_sn", nil)}, []string{"abnormal 004"}},
		"005 same sn":                 {nil, []fields{g, g.window(-1)}, []string{"valid", "abnormal 005"}},
		"005 whole record again":      {nil, []fields{g, g}, []string{"valid", "abnormal 005"}},
		"005 sn of an abnormal":       {nil, []fields{g.with("usage_value", "0"), g}, []string{"abnormal 003", "abnormal 005"}},
		"006":                         {declare(sandbox.Instance{Delisted: true}), []fields{g}, []string{"abnormal 006"}},
		"009 foreign":                 {declare(sandbox.Instance{Foreign: true}), []fields{g}, []string{"abnormal 009"}},
		"009 other seller":            {declare(sandbox.Instance{Seller: "other"}), []fields{g}, []string{"abnormal 009"}},
		"010 same window":             {nil, []fields{g, g.with("metering_sn", "b"), g.with("metering_sn", "c")}, []string{"valid", "abnormal 010", "abnormal 010"}},
		"other instance, same window": {nil, []fields{g, g.with("metering_sn", "b", "instance_id", "other")}, []string{"valid", "valid"}},
		"same begin, other end":       {nil, []fields{g, g.with("metering_sn", "b", "end_time", "20220809T083000Z")}, []string{"valid", "valid"}},
		"window of an abnormal is free": {
			nil,
			[]fields{g.with("usage_value", "0"), g.with("metering_sn", "b"), g.with("metering_sn", "c")},
			[]string{"abnormal 003", "valid", "abnormal 010"},
		},
		"011 begin is end":     {nil, []fields{g.with("begin_time", "20220809T090000Z")}, []string{"abnormal 011"}},
		"011 begin after end":  {nil, []fields{g.with("begin_time", "20220809T090001Z")}, []string{"abnormal 011"}},
		"011 end in future":    {nil, []fields{g.with("end_time", "20220809T091001Z")}, []string{"abnormal 011"}},
		"end is upload time":   {nil, []fields{g.with("end_time", "20220809T091000Z")}, []string{"valid"}},
		"011 before start":     {declare(sandbox.Instance{Start: hour(8, 1)}), []fields{g}, []string{"abnormal 011"}},
		"begin is start":       {declare(sandbox.Instance{Start: hour(8, 0)}), []fields{g}, []string{"valid"}},
		"011 after close":      {declare(sandbox.Instance{State: sandbox.InstanceClosed, ClosedAt: hour(8, 59)}), []fields{g}, []string{"abnormal 011"}},
		"end is close":         {declare(sandbox.Instance{State: sandbox.InstanceClosed, ClosedAt: hour(9, 0)}), []fields{g}, []string{"valid"}},
		"012":                  {declare(sandbox.Instance{Package: true}), []fields{g}, []string{"abnormal 012"}},
		"013 abnormal":         {declare(sandbox.Instance{State: sandbox.InstanceAbnormal}), []fields{g}, []string{"abnormal 013"}},
		"013 closed some time": {declare(sandbox.Instance{State: sandbox.InstanceClosed}), []fields{g}, []string{"abnormal 013"}},
		"013 frozen":           {declare(sandbox.Instance{State: sandbox.InstanceFrozen}), []fields{g}, []string{"abnormal 013"}},
		"013 frozen before":    {declare(sandbox.Instance{State: sandbox.InstanceFrozen, FrozenAt: hour(8, 59)}), []fields{g}, []string{"abnormal 013"}},
		"frozen after":         {declare(sandbox.Instance{State: sandbox.InstanceFrozen, FrozenAt: hour(9, 0)}), []fields{g}, []string{"valid"}},
		"the lowest code wins": {declare(sandbox.Instance{Package: true, Delisted: true}), []fields{g.with("usage_value", "0")}, []string{"abnormal 003"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMarket(t, tc.opts)
			m.mustPush(t, tc.records...)
			if diff := cmp.Diff(tc.want, m.codes(t)); diff != "" {
				t.Errorf("states (-want +got):\n%s", diff)
			}
		})
	}
}

// TestExpired: 007 is for a record that was young enough at upload and too old when the background came to it.
func TestExpired(t *testing.T) {
	t.Parallel()
	m := newMarket(t, nil)
	m.mustPush(t, good("a").with("begin_time", "20220719T091000Z"), good("b").with("begin_time", "20220719T091005Z"))
	m.clock.Add(sandbox.DefaultValidationDelay)
	if diff := cmp.Diff([]string{"abnormal 007", "valid"}, m.codes(t)); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
}

// TestDuplicatesAcrossCalls: the rules hold across calls, collections and both APIs.
func TestDuplicatesAcrossCalls(t *testing.T) {
	t.Parallel()
	m := newMarket(t, func(o *sandbox.Options) { o.SellerKeys = map[string]string{"second": "another-demo-key"} })
	m.mustPush(t, good("a"))
	m.clock.Add(time.Hour)
	m.mustPush(t, good("a"))
	m.mustPush(t, good("b"))
	oldBody := bodyOf(t, good("").oldForm(), good("").oldForm().window(-1))
	if got := do(t, m, oldRequest(t, m.clock.Now(), oldBody)); got.Code != "MKT.0000" {
		t.Fatalf("old push = %+v", got)
	}
	m.mustPush(t, good("c").window(-1))
	// A unique id is unique within its seller.
	body := bodyOf(t, good("a").window(-2))
	r := newRequest(t, m.clock.Now(), body)
	r.Header.Set("signature", sign("another-demo-key", r.Header.Get("ts"), r.Header.Get("nonce"), body))
	if got := do(t, m, r); got.Code != "MKT.0000" {
		t.Fatalf("second seller = %+v", got)
	}
	want := []string{"collected", "abnormal 005", "abnormal 010", "abnormal 010", "valid", "abnormal 010", "valid"}
	if diff := cmp.Diff(want, m.codes(t)); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	if got := m.Summary().Total; got.UsageValue != "297" || got.CollectedValue != "99" || got.Records != 3 {
		t.Errorf("total = %+v, want 297 in 3 records, 99 collected", got)
	}
}

// TestCollectionEdge: what arrived before minute 15 is collected then, what arrived at minute 15 an hour later.
func TestCollectionEdge(t *testing.T) {
	t.Parallel()
	at := time.Date(2022, 8, 9, 9, 15, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		received  time.Time
		collected time.Time
	}{
		"1 ns before": {at.Add(-1), at},
		"exactly":     {at, at.Add(time.Hour)},
		"1 ns after":  {at.Add(1), at.Add(time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMarket(t, nil)
			m.clock.Set(tc.received)
			m.mustPush(t, good("sn"))
			state := func() (sandbox.State, time.Time) {
				if err := m.Advance(); err != nil {
					t.Fatal(err)
				}
				r := m.Records()[0]
				return r.State, r.CollectedAt
			}
			m.clock.Set(tc.collected.Add(-1))
			if s, _ := state(); s == sandbox.StateCollected {
				t.Errorf("collected 1 ns before %s", tc.collected)
			}
			m.clock.Set(tc.collected)
			if s, when := state(); s != sandbox.StateCollected || !when.Equal(tc.collected) {
				t.Errorf("at %s: %s at %s", tc.collected, s, when)
			}
		})
	}
}

func TestDailyCollection(t *testing.T) {
	t.Parallel()
	m := newMarket(t, func(o *sandbox.Options) { o.Collection = sandbox.CollectDaily })
	m.mustPush(t, good("sn"))
	want := time.Date(2022, 8, 9, 17, 0, 0, 0, time.UTC) // 01:00 at UTC+8.
	m.clock.Set(want.Add(-1))
	if err := m.Advance(); err != nil {
		t.Fatal(err)
	}
	if s := m.Records()[0].State; s != sandbox.StateValid {
		t.Errorf("1 ns before: %s", s)
	}
	m.clock.Set(want.Add(72 * time.Hour))
	if err := m.Advance(); err != nil {
		t.Fatal(err)
	}
	if r := m.Records()[0]; r.State != sandbox.StateCollected || !r.CollectedAt.Equal(want) {
		t.Errorf("record = %s at %s, want collected at %s", r.State, r.CollectedAt, want)
	}
}

// TestLife follows one record through its states and times.
func TestLife(t *testing.T) {
	t.Parallel()
	m := newMarket(t, nil)
	m.mustPush(t, good("sn"))
	look := func(at time.Time) string {
		m.clock.Set(at)
		if err := m.Advance(); err != nil {
			t.Fatal(err)
		}
		r := m.Records()[0]
		return fmt.Sprintf("%s v=%s c=%s", r.State, r.ValidatedAt.Format("15:04:05"), r.CollectedAt.Format("15:04:05"))
	}
	got := []string{
		look(start), look(start.Add(5*time.Second - 1)), look(start.Add(5 * time.Second)),
		look(start.Add(5*time.Minute - 1)), look(start.Add(5 * time.Minute)), look(start.Add(48 * time.Hour)),
	}
	const none = "00:00:00"
	want := []string{
		"received v=" + none + " c=" + none, "received v=" + none + " c=" + none, "valid v=09:10:05 c=" + none,
		"valid v=09:10:05 c=" + none, "collected v=09:10:05 c=09:15:00", "collected v=09:10:05 c=09:15:00",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("life (-want +got):\n%s", diff)
	}
}

// TestCollectedIsImmutable: what is declared or injected after the collection does not touch the record.
func TestCollectedIsImmutable(t *testing.T) {
	t.Parallel()
	m := newMarket(t, nil)
	m.mustPush(t, good("sn"))
	m.clock.Add(time.Hour)
	if err := m.Advance(); err != nil {
		t.Fatal(err)
	}
	before := m.Records()
	if err := m.Declare(sandbox.Instance{ID: testInstance, State: sandbox.InstanceUnknown}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Inject(sandbox.Fault{Kind: sandbox.FaultReject, Code: "013"}); err != nil {
		t.Fatal(err)
	}
	if err := m.AdvanceBy(1000 * time.Hour); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, m.Records()); diff != "" {
		t.Errorf("records changed (-before +after):\n%s", diff)
	}
}

// TestLazinessDoesNotMatter: whether the state is advanced often or once at the end, the records end up the same.
func TestLazinessDoesNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		delay := rapid.SampledFrom([]time.Duration{-1, time.Second, 7 * time.Minute, 90 * time.Minute}).Draw(rt, "delay")
		steps := rapid.SliceOfN(rapid.IntRange(0, 5400), 1, 12).Draw(rt, "steps")
		hours := rapid.SliceOfN(rapid.IntRange(-6, 0), len(steps), len(steps)).Draw(rt, "hours")
		run := func(eager bool) []sandbox.Record {
			m := newMarket(t, func(o *sandbox.Options) { o.ValidationDelay = delay })
			for i, step := range steps {
				for range step / 60 {
					m.clock.Add(time.Minute)
					if eager {
						if err := m.Advance(); err != nil {
							rt.Fatal(err)
						}
					}
				}
				m.mustPush(t, good(fmt.Sprint("sn", hours[i])).window(hours[i]).with("instance_id", fmt.Sprint("i", i%3)))
			}
			m.clock.Add(2 * time.Hour)
			if err := m.Advance(); err != nil {
				rt.Fatal(err)
			}
			return m.Records()
		}
		if diff := cmp.Diff(run(true), run(false)); diff != "" {
			rt.Fatalf("eager and lazy differ (-eager +lazy):\n%s", diff)
		}
	})
}

// TestClockGoesBack: a clock that jumps back neither loses nor uncollects anything.
func TestClockGoesBack(t *testing.T) {
	t.Parallel()
	m := newMarket(t, nil)
	m.mustPush(t, good("a"))
	m.clock.Add(3 * time.Hour)
	m.mustPush(t, good("b").window(1))
	m.clock.Set(start)
	m.mustPush(t, good("c").window(-1))
	m.clock.Set(start.Add(5 * time.Hour))
	if diff := cmp.Diff([]string{"collected", "collected", "collected"}, m.codes(t)); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
}

func TestUnits(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"99": 990000, "0.1250": 1250, "0.0001": 1, "99999999.9999": 999999999999, "007": 70000, "00000000000000000.5": 5000,
	} {
		if got, ok := sandbox.ParseUnits(text); !ok || got != want {
			t.Errorf("ParseUnits(%q) = %d, %v, want %d", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "-", "-1", "+1", ".5", "5.", "1e3", "1.23456", "100000000", "0", "0.0000", " 1", "1 ", "١", "0x1", "1_0"} {
		if got, ok := sandbox.ParseUnits(text); ok {
			t.Errorf("ParseUnits(%q) = %d, want a refusal", text, got)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		units := rapid.Int64Range(1, 999_999_999_999).Draw(rt, "units")
		text := sandbox.FormatUnits(units)
		if got, ok := sandbox.ParseUnits(text); !ok || got != units || strings.HasSuffix(text, ".") {
			rt.Fatalf("units %d print as %q and read as %d, %v", units, text, got, ok)
		}
	})
}
