package reporter_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/reporter"
)

// table is the whole table of transitions, written down a second time on purpose: a change must be made in both places.
const table = `
new:         pending held unbillable carried written_off dry_run
pending:     sending expired held written_off unbillable shadowed dry_run
sending:     accepted pending unknown rejected expired held shadowed
accepted:    confirmed failed
confirmed:
failed:      written_off unbillable confirmed replaced
unknown:     sending expired held written_off accepted confirmed failed shadowed
rejected:    pending written_off unbillable held replaced
expired:     written_off unbillable pending
held:        pending written_off unbillable expired replaced
written_off:
unbillable:
carried:
shadowed:
dry_run:
replaced:
`

func TestStateTransitions(t *testing.T) {
	t.Parallel()
	allowed := map[string][]string{}
	for line := range strings.Lines(strings.TrimSpace(table)) {
		from, to, _ := strings.Cut(line, ":")
		allowed[from] = strings.Fields(to)
	}
	if len(allowed) != len(reporter.States())+1 {
		t.Fatalf("the table has %d states, want %d", len(allowed), len(reporter.States())+1)
	}
	for _, from := range append([]reporter.State{0}, reporter.States()...) {
		name := from.String()
		if from == 0 {
			name = "new"
		}
		for _, to := range append([]reporter.State{0}, reporter.States()...) {
			want := to != 0 && slices.Contains(allowed[name], to.String())
			if got := from.CanBecome(to); got != want {
				t.Errorf("%s.CanBecome(%q) = %v, want %v", name, to, got, want)
			}
		}
	}
}

func TestStateNumbersNeverChange(t *testing.T) {
	t.Parallel()
	var names []string
	for i, s := range reporter.States() {
		if int(s) != i+1 {
			t.Errorf("state %s has number %d, want %d", s, s, i+1)
		}
		names = append(names, s.String())
	}
	want := []string{
		"pending", "sending", "accepted", "confirmed", "failed", "unknown", "rejected", "expired", "held", "written_off",
		"unbillable", "carried", "shadowed", "dry_run", "replaced",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("States() differ (-want +got):\n%s", diff)
	}
}

func TestStateTextRoundTrip(t *testing.T) {
	t.Parallel()
	for _, s := range reporter.States() {
		text, err := s.MarshalText()
		if err != nil {
			t.Fatalf("%d.MarshalText: %v", s, err)
		}
		var back reporter.State
		if err := back.UnmarshalText(text); err != nil || back != s {
			t.Errorf("UnmarshalText(%s) = %v, %v, want %v", text, back, err, s)
		}
	}
	var s reporter.State
	if err := s.UnmarshalText([]byte("sent")); err == nil {
		t.Error("UnmarshalText(sent) = nil, want an error")
	}
}

func TestDueAndSettledExcludeEachOther(t *testing.T) {
	t.Parallel()
	var due []string
	for _, s := range reporter.States() {
		if s.Due() == s.Settled() {
			t.Errorf("%s: Due and Settled are both %v", s, s.Due())
		}
		if s.Due() {
			due = append(due, s.String())
		}
	}
	if diff := cmp.Diff([]string{"pending", "sending", "unknown"}, due); diff != "" {
		t.Errorf("due states differ (-want +got):\n%s", diff)
	}
	if reporter.State(0).Settled() || reporter.State(0).Due() {
		t.Error("the zero state is due or settled, want neither")
	}
}
