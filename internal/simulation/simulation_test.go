package simulation_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/meterd/meterd/store/storetest"
)

var (
	seedFlag = flag.Uint64("simulation.seed", 0, "run only this seed, and show all of its history")
	seeds    = flag.Uint64("simulation.seeds", 200, "how many seeds to run")
	hours    = flag.Int("simulation.hours", 48, "simulated hours of each seed")
	soak     = flag.Duration("simulation.soak", 0, "how long to run random seeds")
)

var background = context.Background()

// TestMain gives memory for speed: a simulation makes much garbage and keeps little.
func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	storetest.Main(m)
}

// simulate runs one seed and reports what is wrong.
func simulate(t *testing.T, seed uint64, hours int) *world {
	t.Helper()
	w, err := newWorld(seed, mutant{})
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	w.all = *seedFlag != 0
	w.run(hours)
	t.Logf("seed %d: %d steps, %d bookings, history %s", seed, w.steps, w.oracle.seen, w.sum())
	if len(w.faults) > 0 {
		t.Errorf("seed %d: after %d steps, at %s:\n\t%s\nreproduce it with: go test ./internal/simulation -run 'Simulation/seed=%d$' "+
			"-simulation.seed=%d -simulation.hours=%d\nwhat happened before:\n%s", seed, w.steps, w.now.Format(time.RFC3339),
			strings.Join(w.faults, "\n\t"), seed, seed, hours, w.tail())
	}
	return w
}

// The books are exact, whatever happens.
func TestSimulation(t *testing.T) {
	t.Parallel()
	first, last := uint64(1), *seeds
	if *seedFlag != 0 {
		first, last = *seedFlag, *seedFlag
	}
	var covered coverage
	t.Cleanup(func() {
		if covered.seeds >= 100 {
			covered.check(t)
		}
	})
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			covered.add(simulate(t, seed, *hours))
		})
	}
}

// One seed gives one history, or a seed that fails would be worth nothing.
func TestSameSeedSameHistory(t *testing.T) {
	t.Parallel()
	for _, seed := range []uint64{3, 14, 159} {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			one, two := simulate(t, seed, 24), simulate(t, seed, 24)
			if one.sum() != two.sum() || one.steps != two.steps {
				t.Errorf("seed %d: %d steps with digest %s, then %d with %s", seed, one.steps, one.sum(), two.steps, two.sum())
			}
		})
	}
}

// TestSoak runs random seeds as long as it is told to; make soak does.
func TestSoak(t *testing.T) {
	t.Parallel()
	if *soak == 0 {
		t.Skip("runs with -simulation.soak=DURATION only")
	}
	until := time.Now().Add(*soak)
	for worker := range 2 {
		t.Run(fmt.Sprintf("worker=%d", worker), func(t *testing.T) {
			t.Parallel()
			n := 0
			for ; time.Now().Before(until) && !t.Failed(); n++ {
				simulate(t, rand.Uint64N(1<<40), *hours)
			}
			t.Logf("%d seeds", n)
		})
	}
}
