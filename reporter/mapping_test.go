package reporter_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// billed returns a billed meter with the template.
func billed(slug, template string) meter.Meter {
	m := tokens("1")
	m.Slug, m.Instance, m.ProductID = slug, template, "product-of-"+slug
	return m
}

func TestNewMapperReportsEveryFault(t *testing.T) {
	t.Parallel()
	unbilled := billed("seen", "{subject}")
	unbilled.Billed = false
	meters := []meter.Meter{
		billed("tokens", "{subject}"), billed("calls", "{subject}"), billed("fixed", "one-for-all"), billed("bytes", ""),
		billed("bytes", ""), unbilled,
	}
	_, err := reporter.NewMapper(meters, []reporter.Mapping{
		{Subject: "a", Meter: "bytes", InstanceID: "i-1"},
		{Subject: "a", Meter: "bytes", InstanceID: "i-2"},
		{Subject: "b", Meter: "bytes", InstanceID: "i-1"},
		{Subject: "", Meter: "nonsense", InstanceID: ""},
		{Subject: "c", Meter: "seen", InstanceID: "i-3"},
	})
	if err == nil {
		t.Fatal("NewMapper = nil, want faults")
	}
	for _, want := range []string{
		`"tokens" and "calls" both have instance = "{subject}"`, `give one of them another template such as "{subject}-calls"`,
		`"fixed": instance "one-for-all" lacks {subject}`, `"bytes" is declared twice`,
		`mappings[1]: subject "a" and meter "bytes" are mapped twice`,
		`mappings[2]: instance_id: "i-1" is already mapped for subject "a" and meter "bytes"`,
		`mappings[3]: subject: is required`, `mappings[3]: instance_id: is required`, `mappings[3]: meter: there is no meter "nonsense"`,
		`mappings[4]: meter: "seen" is not billed`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q:\n%v", want, err)
		}
	}
	if got := len(strings.Split(err.Error(), "\n")); got != 9 {
		t.Errorf("%d faults, want 9:\n%v", got, err)
	}
}

func TestMapperTarget(t *testing.T) {
	t.Parallel()
	unbilled := billed("seen", "{subject}")
	unbilled.Billed = false
	m := mapper(t, []meter.Meter{billed("tokens", "{subject}"), billed("calls", "{subject}-calls"), billed("bytes", ""), unbilled},
		reporter.Mapping{Subject: "a", Meter: "tokens", InstanceID: "i-1"},
		reporter.Mapping{Subject: "a", Meter: "bytes", InstanceID: "i-2", ProductID: "special"})
	tests := map[string]struct {
		subject, meter string
		want           reporter.Target
		ok             bool
	}{
		"explicit":             {"a", "tokens", reporter.Target{InstanceID: "i-1", ProductID: "product-of-tokens"}, true},
		"explicit product":     {"a", "bytes", reporter.Target{InstanceID: "i-2", ProductID: "special"}, true},
		"template":             {"b", "tokens", reporter.Target{InstanceID: "b", ProductID: "product-of-tokens"}, true},
		"template with suffix": {"a", "calls", reporter.Target{InstanceID: "a-calls", ProductID: "product-of-calls"}, true},
		"no template":          {"b", "bytes", reporter.Target{}, false},
		"not billed":           {"b", "seen", reporter.Target{}, false},
		"unknown meter":        {"b", "nonsense", reporter.Target{}, false},
		"no subject":           {"", "tokens", reporter.Target{}, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, ok := m.Target(tc.subject, tc.meter)
			if got != tc.want || ok != tc.ok {
				t.Errorf("Target(%q, %q) = %v, %v, want %v, %v", tc.subject, tc.meter, got, ok, tc.want, tc.ok)
			}
		})
	}
}

func TestMapperClaimants(t *testing.T) {
	t.Parallel()
	m := mapper(t, []meter.Meter{billed("tokens", "{subject}"), billed("calls", "{subject}-calls"), billed("twice", "{subject}.{subject}")},
		reporter.Mapping{Subject: "a", Meter: "tokens", InstanceID: "i-1"},
		reporter.Mapping{Subject: "i-2", Meter: "tokens", InstanceID: "i-2"})
	tests := map[string][]reporter.SubjectMeter{
		"i-1":     {{Subject: "a", Meter: "tokens"}, {Subject: "i-1", Meter: "tokens"}},
		"i-2":     {{Subject: "i-2", Meter: "tokens"}},
		"a":       nil, // the only subject that could is mapped elsewhere
		"x-calls": {{Subject: "x", Meter: "calls"}, {Subject: "x-calls", Meter: "tokens"}},
		"-calls":  {{Subject: "-calls", Meter: "tokens"}},
		"b.b":     {{Subject: "b.b", Meter: "tokens"}, {Subject: "b", Meter: "twice"}},
		"b.c":     {{Subject: "b.c", Meter: "tokens"}},
		"":        nil,
	}
	for id, want := range tests {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(want, m.Claimants(id)); diff != "" {
				t.Errorf("Claimants(%q) differ (-want +got):\n%s", id, diff)
			}
		})
	}
}

// Every target leads back to its subject and meter.
func TestMapperClaimantsInvertTarget(t *testing.T) {
	t.Parallel()
	meters := []meter.Meter{billed("m1", "{subject}"), billed("m2", "{subject}-b"), billed("m3", "a{subject}"), billed("m4", "{subject}-{subject}")}
	rapid.Check(t, func(t *rapid.T) {
		subject := rapid.StringMatching(`[ab-]{1,5}`)
		var mappings []reporter.Mapping
		used := map[string]bool{}
		for range rapid.IntRange(0, 3).Draw(t, "mappings") {
			mp := reporter.Mapping{
				Subject: subject.Draw(t, "subject"), Meter: rapid.SampledFrom(meters).Draw(t, "meter").Slug,
				InstanceID: subject.Draw(t, "instance"),
			}
			if !used[mp.Subject+"/"+mp.Meter] && !used[mp.InstanceID] {
				mappings = append(mappings, mp)
			}
			used[mp.Subject+"/"+mp.Meter], used[mp.InstanceID] = true, true
		}
		m, err := reporter.NewMapper(meters, mappings)
		if err != nil {
			t.Fatalf("NewMapper: %v", err)
		}
		pair := reporter.SubjectMeter{Subject: subject.Draw(t, "asked"), Meter: rapid.SampledFrom(meters).Draw(t, "of").Slug}
		target, ok := m.Target(pair.Subject, pair.Meter)
		if !ok {
			t.Fatalf("Target(%s) = none", pair)
		}
		found := 0
		for _, claimant := range m.Claimants(target.InstanceID) {
			if back, _ := m.Target(claimant.Subject, claimant.Meter); back.InstanceID != target.InstanceID {
				t.Fatalf("Claimants(%s) has %s, whose instance is %s", target.InstanceID, claimant, back.InstanceID)
			}
			if claimant == pair {
				found++
			}
		}
		if found != 1 {
			t.Fatalf("Claimants(%s) = %v, want %s once", target.InstanceID, m.Claimants(target.InstanceID), pair)
		}
	})
}
