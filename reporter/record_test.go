package reporter_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// The numbers below are in marketplaces' books. If this test fails, the code is wrong, never the test.
func TestRecordIdentityGolden(t *testing.T) {
	t.Parallel()
	base := reporter.RecordIdentity{Seller: "acme", InstanceID: "7f141bf1-aec8-4859-8323-fb3a8ad50721", Window: noon}
	tests := map[string]struct {
		change func(*reporter.RecordIdentity)
		want   reporter.MeteringSN
	}{
		"plain":        {func(*reporter.RecordIdentity) {}, "cfbea55b3e5d70b4c6415a38e4f490c9"},
		"seller":       {func(id *reporter.RecordIdentity) { id.Seller = "other" }, "29063d594e3fc83efb931e2a1f246685"},
		"instance":     {func(id *reporter.RecordIdentity) { id.InstanceID = "i" }, "15d08b9f2832f4d63a722c0d6ddcaf29"},
		"revision":     {func(id *reporter.RecordIdentity) { id.Revision = 1 }, "ace28e3f2fcdbfeea52649209c5e4429"},
		"next window":  {func(id *reporter.RecordIdentity) { id.Window = noon.Next() }, "20a5a17f0b3dbd729a67c247f35804cf"},
		"no instance":  {func(id *reporter.RecordIdentity) { id.InstanceID = ""; id.Subject, id.Meter = "s", "m" }, "1fcf6df4d6f61d44855d8d1eeb77d6cc"},
		"other meter":  {func(id *reporter.RecordIdentity) { id.InstanceID = ""; id.Subject, id.Meter = "s", "n" }, "7f3009a4cd81a4a57d11779b59236f8d"},
		"shifted text": {func(id *reporter.RecordIdentity) { id.InstanceID = ""; id.Subject, id.Meter = "sm", "" }, "7c001d9d81a122616a62183bd16ccf82"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := base
			tc.change(&id)
			if got := id.SN(); got != tc.want {
				t.Errorf("SN() = %s, want %s", got, tc.want)
			}
		})
	}
}

func TestRecordIdentityIgnoresZoneAndSubject(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("UTC+8", 8*3600)
	id := reporter.RecordIdentity{Seller: "acme", InstanceID: "i", Window: noon}
	same := id
	same.Window = meter.Window{Start: noon.Start.In(zone), End: noon.End.In(zone)}
	same.Subject, same.Meter = "s", "m"
	if id.SN() != same.SN() {
		t.Errorf("SN() = %s in UTC and %s in UTC+8 with a subject, want the same", id.SN(), same.SN())
	}
}

func TestRecordIdentityTellsApart(t *testing.T) {
	t.Parallel()
	gen := rapid.Custom(func(t *rapid.T) reporter.RecordIdentity {
		text := rapid.StringMatching(`[ab:1]{0,3}`)
		return reporter.RecordIdentity{
			Seller: text.Draw(t, "seller"), InstanceID: text.Draw(t, "instance"), Revision: rapid.Uint32Range(0, 2).Draw(t, "revision"),
			Subject: text.Draw(t, "subject"), Meter: text.Draw(t, "meter"),
			Window: meter.HourOf(noon.Start.Add(time.Duration(rapid.IntRange(0, 2).Draw(t, "hour")) * time.Hour)),
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := gen.Draw(t, "a"), gen.Draw(t, "b")
		if a.InstanceID != "" {
			a.Subject, a.Meter = "", ""
		}
		if b.InstanceID != "" {
			b.Subject, b.Meter = "", ""
		}
		if (a == b) != (a.SN() == b.SN()) {
			t.Fatalf("%+v and %+v have the numbers %s and %s", a, b, a.SN(), b.SN())
		}
	})
}

func ExampleRecordIdentity_SN() {
	id := reporter.RecordIdentity{
		Seller: "acme", InstanceID: "7f141bf1-aec8-4859-8323-fb3a8ad50721",
		Window: meter.HourOf(time.Date(2026, 3, 1, 12, 34, 56, 0, time.UTC)),
	}
	fmt.Println(id.SN())
	// Output: cfbea55b3e5d70b4c6415a38e4f490c9
}
