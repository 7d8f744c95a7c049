package simulation_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"
)

// scheduler runs tasks one at a time in virtual time. A task runs until it parks; which of several that could go on does is
// drawn from the seed. Nothing else decides, so one seed gives one history.
type scheduler struct {
	rng   *rand.Rand
	now   time.Time
	tasks []*task
	steps int
}

// task is one thread of what happens.
type task struct {
	s      *scheduler
	name   string
	wake   time.Time
	resume chan struct{} // the scheduler lets the task go on
	parked chan struct{} // the task parked or ended
	ended  bool
	killed bool // the task ends as soon as it would go on
	cancel context.CancelFunc

	stopping bool // the task was asked to end in good order
}

// start makes a task that begins at the time.
func (s *scheduler) start(name string, at time.Time, run func(ctx context.Context, t *task)) *task {
	ctx, cancel := context.WithCancel(context.Background())
	t := &task{s: s, name: name, wake: at, resume: make(chan struct{}), parked: make(chan struct{}), cancel: cancel}
	s.tasks = append(s.tasks, t)
	go func() {
		defer cancel()
		defer func() {
			t.ended = true
			t.parked <- struct{}{}
		}()
		<-t.resume
		if !t.killed {
			run(ctx, t)
		}
	}()
	return t
}

// run lets tasks go on until the time is reached or the check finds something.
func (s *scheduler) run(until time.Time, check func(t *task) bool) {
	for {
		s.tasks = slices.DeleteFunc(s.tasks, func(t *task) bool { return t.ended })
		if len(s.tasks) == 0 {
			s.now = until
			return
		}
		first := slices.MinFunc(s.tasks, func(x, y *task) int { return x.wake.Compare(y.wake) }).wake
		if first.After(until) {
			s.now = until
			return
		}
		if first.After(s.now) {
			s.now = first
		}
		var able []*task
		for _, t := range s.tasks {
			if !t.wake.After(s.now) {
				able = append(able, t)
			}
		}
		t := able[s.rng.IntN(len(able))]
		s.steps++
		t.goOn()
		if !check(t) {
			return
		}
	}
}

func (t *task) goOn() {
	t.resume <- struct{}{}
	<-t.parked
}

// park lets others go on and returns when the time has come. A task that was killed meanwhile ends here, without coming back.
func (t *task) park(wake time.Time) {
	t.wake = wake
	t.parked <- struct{}{}
	<-t.resume
	if t.killed {
		runtime.Goexit()
	}
}

// die ends the running task.
func (t *task) die() {
	t.killed = true
	runtime.Goexit()
}

// stop ends every task, so that no goroutine is left behind.
func (s *scheduler) stop() {
	for _, t := range s.tasks {
		if !t.ended {
			t.killed = true
			t.goOn()
		}
	}
}

// clock is the clock of one task's process. Waiting parks the task.
type clock struct {
	t    *task
	skew time.Duration
}

func (c clock) Now() time.Time { return c.t.s.now.Add(c.skew) }

// longestWait bounds a wait: nothing in a daemon sleeps longer in one go.
const longestWait = 30 * 24 * time.Hour

var errClock = errors.New("asked to wait for no time")

func (c clock) WaitUntil(ctx context.Context, until time.Time) error {
	if until.IsZero() || until.Sub(c.Now()) > longestWait {
		return fmt.Errorf("%w: %s at %s", errClock, until, c.Now())
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if until.After(c.Now()) {
		c.t.park(until.Add(-c.skew))
	}
	return ctx.Err()
}

// chance reports true with a probability.
func (s *scheduler) chance(p float64) bool { return s.rng.Float64() < p }

// between draws a duration.
func (s *scheduler) between(from, to time.Duration) time.Duration {
	return from + time.Duration(s.rng.Int64N(int64(to-from)+1))
}

// pick draws one of several.
func pick[T any](s *scheduler, list []T) T { return list[s.rng.IntN(len(list))] }

// weighted draws a name by weight.
func weighted(s *scheduler, weights map[string]int) string {
	names := make([]string, 0, len(weights))
	sum := 0
	for name, w := range weights {
		names = append(names, name)
		sum += w
	}
	slices.SortFunc(names, cmp.Compare)
	n := s.rng.IntN(sum)
	for _, name := range names {
		if n -= weights[name]; n < 0 {
			return name
		}
	}
	return names[0]
}
