package e2e_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meterd/meterd/internal/killpoint"
	"github.com/meterd/meterd/store/storetest"
)

// How many times the kill loop ends the daemon, unless METERD_KILLS says another number, from which number on every point must
// have been reached, and how much time passes with each of its lives, about.
const (
	killsUsual = 20
	killsFull  = 100
	lifeLength = 15 * time.Minute
)

// killsWanted is how many times the kill loop ends the daemon.
func killsWanted(t *testing.T) int {
	t.Helper()
	text := os.Getenv("METERD_KILLS")
	if text == "" {
		return killsUsual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("METERD_KILLS must be a positive number (got %q)", text)
	}
	return n
}

// TestKilledAtNamedPoints kills the daemon, or its engine, over and over at the named points, while events stream in and the
// marketplace fails at random, and hours end and are closed all the time. In the end the books are in order, and nothing
// that was acknowledged is missing or counted twice, by an independent sum.
func TestKilledAtNamedPoints(t *testing.T) {
	t.Parallel()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		newKillLoop(t, seeded(t), func(string) bool { return true }).run(t)
	})
	t.Run("server", func(t *testing.T) {
		t.Parallel()
		random := seeded(t)
		server := storetest.StartServer(t)
		noEngine := func(name string) bool { return !strings.HasPrefix(name, "engine.") }
		newKillLoop(t, random, noEngine, serverEnv(server)...).run(t)
	})
}

// killLoop is a daemon that is killed again and again.
type killLoop struct {
	random *rand.Rand
	clock  *fastClock
	m      *market
	d      *daemon
	l      *load
	people *acts
	heavy  atomic.Bool // the load makes large events
	// caughtUp is set when a booking was delivered since the last hour ended.
	caughtUp bool

	names  []string       // of the points
	kills  map[string]int // by point
	chance int            // kills at no point
	notHit map[string]int // lives that should have ended at the point, and did not
}

// newKillLoop prepares everything but the daemon's first start.
func newKillLoop(t *testing.T, random *rand.Rand, exists func(point string) bool, env ...string) *killLoop {
	t.Helper()
	k := &killLoop{
		random: random, clock: newFastClock(t), kills: map[string]int{}, notHit: map[string]int{},
		caughtUp: true,
		names:    slices.DeleteFunc(killpoint.Names(), func(name string) bool { return !exists(name) }),
	}
	k.m = startFastSandbox(t, k.clock)
	k.d = newFastDaemon(t, k.clock, k.m.url, env...)
	for _, fault := range []string{
		`"kind":"drop_answer","probability":0.12`,
		`"kind":"http_status","status":503,"probability":0.06`,
		`"kind":"http_status","status":502,"probability":0.06,"after":true`,
		`"kind":"throttle","probability":0.04`,
		`"kind":"error_code","code":"MKT.0102","probability":0.04`,
		`"kind":"latency","delay":"30ms","probability":0.3`,
	} {
		k.m.inject(t, fmt.Sprintf(`{%s,"seed":%d}`, fault, random.Uint32()))
	}
	return k
}

// run kills, then lets everything come to its end and compares.
func (k *killLoop) run(t *testing.T) {
	t.Helper()
	want := killsWanted(t)
	k.l = startLoadOf(t, k.random, k.d.url, loadOptions{most: 20, pace: 150 * time.Millisecond, gap: 400 * time.Millisecond, maker: maker{
		when: lateTimes(k.clock),
		pad: func() int {
			if k.heavy.Load() {
				return 20_000
			}
			return 0
		},
	}})
	k.people = startActs(k.l, k.random, k.clock)
	begun := time.Now()
	// Some more for points that were not reached by then.
	for n, lives := 0, 1; n < want || want >= killsFull && len(k.untried()) > 0 && lives < 2*want; lives++ {
		n += k.life(t)
		if lives%10 == 0 {
			t.Logf("%d kills in %d lives after %s; not reached yet: %v", n, lives, time.Since(begun).Round(time.Second), k.untried())
		}
	}
	k.heavy.Store(false)
	k.m.heal(t)
	k.d.start(t)
	k.l.drain()
	k.people.finish()
	t.Logf("acts: %v", k.people.counts)
	k.d.awaitReported(t, k.clock.endHour(t))
	k.d.checkConserved(t, k.m, &k.l.ledger)
	k.report(t)
}

// life starts the daemon and returns how often it or its engine was killed until it ended.
func (k *killLoop) life(t *testing.T) (kills int) {
	t.Helper()
	if k.caughtUp {
		k.clock.leap(t, between(k.random, 0, 2*lifeLength))
	}
	targets := k.choose()
	k.heavy.Store(slices.Contains(targets, "spool.segment.sealed"))
	plan, limit := make([]string, len(targets)), 1500*time.Millisecond
	for i, name := range targets {
		plan[i] = fmt.Sprintf("%s:%d", name, 1+k.random.IntN(often(name)))
		switch group(name) {
		case "booking", "commit", "sending", "push", "outcome", "settle":
			if k.caughtUp { // else there are hours enough
				k.clock.endHour(t)
				k.caughtUp = false
			}
			limit = 12 * time.Second
		case "void", "life", "deadletters", "engine":
			limit = 12 * time.Second
		case "spool":
			limit = max(limit, 3*time.Second)
		}
	}
	k.d.launch(t, "METERD_KILL_AT="+strings.Join(plan, ","))
	k.untilEnd(t, between(k.random, limit/2, limit))
	output := k.d.stderr.String()
	k.caughtUp = k.caughtUp || strings.Contains(output, "booking settled") || strings.Contains(output, "killpoint settle")
	for _, name := range killedAt(output) {
		k.kills[name]++
		kills++
		targets = slices.DeleteFunc(targets, func(target string) bool { return target == name })
	}
	for _, name := range targets {
		k.notHit[name]++
	}
	return kills
}

// often is how often a point is passed, about, while another is passed once.
func often(name string) int {
	switch group(name) {
	case "spool":
		if strings.HasPrefix(name, "spool.segment") || strings.HasPrefix(name, "spool.discard") {
			return 1
		}
		return 30
	case "loader", "engine", "insert":
		return 6
	case "booking", "commit", "push":
		return 3
	default:
		return 1
	}
}

// group is the first part of a point's name.
func group(name string) string {
	first, _, _ := strings.Cut(name, ".")
	return first
}

// choose picks points to be killed at, whichever is reached first: those with the fewest kills so far more likely.
func (k *killLoop) choose() []string {
	names := slices.Clone(k.names)
	k.random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	slices.SortStableFunc(names, func(a, b string) int {
		return cmp.Compare(k.kills[a]+k.notHit[a]/3, k.kills[b]+k.notHit[b]/3)
	})
	switch group(names[0]) {
	case "sending", "push", "outcome", "settle":
		return names[:1] // the daemon rarely gets that far in a life that may end elsewhere
	}
	return names[:3]
}

// untilEnd waits until the daemon has killed itself, and kills it when it has not in time.
func (k *killLoop) untilEnd(t *testing.T, limit time.Duration) {
	t.Helper()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	announced := false
	for {
		if !announced {
			announced = k.d.tryAnnounced()
		}
		select {
		case <-ticker.C:
		case <-k.d.exited:
			if code := k.d.cmd.ProcessState.ExitCode(); code != -1 {
				t.Fatalf("the daemon ended by itself: exit code %d", code)
			}
			return
		case <-timer.C:
			k.d.kill(t)
			k.chance++
			return
		}
	}
}

var killpointLine = regexp.MustCompile(`killpoint ([a-z_.]+)`)

// killedAt lists the points that a daemon's output names as those where it, or an engine of its, was killed.
func killedAt(output string) (names []string) {
	for _, match := range killpointLine.FindAllStringSubmatch(output, -1) {
		names = append(names, match[1])
	}
	return names
}

// untried lists the points at which the daemon was not killed yet.
func (k *killLoop) untried() []string {
	return slices.DeleteFunc(slices.Clone(k.names), func(name string) bool { return k.kills[name] > 0 })
}

// report says where the kills were, and wants every point to have been one of them.
func (k *killLoop) report(t *testing.T) {
	t.Helper()
	var text strings.Builder
	total := 0
	for _, name := range k.names {
		fmt.Fprintf(&text, " %s=%d", name, k.kills[name])
		total += k.kills[name]
		if k.kills[name] == 0 && killsWanted(t) >= killsFull {
			t.Errorf("the daemon never got killed at %s in %d lives that should have ended there", name, k.notHit[name])
		}
	}
	t.Logf("%d kills at named points, %d elsewhere;%s", total, k.chance, &text)
}
