package simulation_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/meterd/meterd/reporter"
)

// coverage counts what happened over many seeds: a simulation in which nothing happens would prove nothing.
type coverage struct {
	mu     sync.Mutex
	seeds  int
	counts map[string]int
}

func (c *coverage) add(w *world) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seeds++
	if c.counts == nil {
		c.counts = map[string]int{}
	}
	for what, n := range w.counts {
		c.counts[what] += n
	}
	for _, b := range w.books.Log() {
		c.counts["booking "+b.Kind.String()]++
		for _, a := range w.books.RowsOf(b.Version).Adjustments {
			c.counts["adjustment "+a.Into.String()]++
		}
	}
	for _, r := range w.books.All() {
		c.counts["state "+r.Last.State.String()]++
	}
	for _, s := range w.books.Sums(false, w.plan.meters) {
		if s.Balance.Sign() < 0 {
			c.counts["credit"]++
		}
	}
}

// check reports what never happened.
func (c *coverage) check(t *testing.T) {
	t.Helper()
	want := []string{
		"booking close", "booking recount", "booking release", "booking freeze", "booking decision", "booking resend",
		"booking taken by another", "credit", "process ended", "outcome lost", "restart",
	}
	for _, into := range []reporter.Destination{
		reporter.IntoBalance, reporter.IntoHeld, reporter.IntoWrittenOff, reporter.IntoUnbillable, reporter.IntoRecord,
	} {
		want = append(want, "adjustment "+into.String())
	}
	for _, s := range []reporter.State{
		reporter.StateAccepted, reporter.StateFailed, reporter.StateRejected, reporter.StateHeld, reporter.StateWrittenOff,
		reporter.StateUnbillable, reporter.StateCarried, reporter.StateShadowed, reporter.StateDryRun, reporter.StateReplaced,
	} {
		want = append(want, "state "+s.String())
	}
	for _, mood := range slices.Sorted(maps.Keys(moods)) {
		want = append(want, "call "+mood)
	}
	for _, what := range want {
		if c.counts[what] == 0 {
			t.Errorf("in %d seeds there was never: %s", c.seeds, what)
		}
	}
	var lines []string
	for _, what := range slices.Sorted(maps.Keys(c.counts)) {
		lines = append(lines, fmt.Sprintf("%s %d", what, c.counts[what]))
	}
	t.Logf("%d seeds: %s", c.seeds, strings.Join(lines, ", "))
}
