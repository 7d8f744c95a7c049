package clock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Scaled runs faster than the machine's clock. Several processes that are given the same text show the same time. A file moves it
// on while it runs, and sets it forth and back as a machine's clock can be set. Use ParseScaled.
type Scaled struct {
	real, shown time.Time // the machine's time at which it shows the other
	speed       int64
	file        string // holds what is added; "" for none

	mu     sync.Mutex
	added  addition
	readAt time.Time // of the file
}

// addition is what the file says: the time that passed in leaps, and how far the wall clock was set.
type addition struct{ passed, step time.Duration }

// How often the file is read, and how long a wait does not look at the time, in real time.
const (
	fileAge   = 10 * time.Millisecond
	scaledNap = 20 * time.Millisecond
)

// ParseScaled reads "REAL,SHOWN,SPEED" or "REAL,SHOWN,SPEED,FILE": at the machine's time REAL (nanoseconds since 1970) the
// clock shows SHOWN (RFC 3339), and runs SPEED times as fast from then on. FILE holds two durations, such as "3h -2h": the time
// that passed in leaps, by every clock, and how far the wall clock was set, of which a monotonic clock knows nothing. It need
// not exist.
func ParseScaled(text string) (*Scaled, error) {
	parts := strings.SplitN(text, ",", 4)
	if len(parts) < 3 {
		return nil, fmt.Errorf("scaled clock: want REAL,SHOWN,SPEED[,FILE] (got %q)", text)
	}
	nanos, err1 := strconv.ParseInt(parts[0], 10, 64)
	shown, err2 := time.Parse(time.RFC3339Nano, parts[1])
	speed, err3 := strconv.ParseInt(parts[2], 10, 32)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("scaled clock: %w", err)
	}
	if speed < 1 {
		return nil, fmt.Errorf("scaled clock: speed must be from 1 on (got %d)", speed)
	}
	s := &Scaled{real: time.Unix(0, nanos), shown: shown.UTC(), speed: speed}
	if len(parts) == 4 {
		s.file = parts[3]
	}
	return s, nil
}

// Now returns the clock's time in UTC.
func (s *Scaled) Now() time.Time {
	a := s.addition()
	return s.shown.Add(s.elapsed() + a.passed + a.step)
}

// Monotonic returns the time since some fixed moment. Setting the clock doesn't change it.
func (s *Scaled) Monotonic() time.Duration { return s.elapsed() + s.addition().passed }

func (s *Scaled) elapsed() time.Duration {
	return time.Since(s.real) * time.Duration(s.speed)
}

// addition is what the file says; one that can't be read leaves what was read before.
func (s *Scaled) addition() addition {
	if s.file == "" {
		return addition{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.readAt) < fileAge {
		return s.added
	}
	s.readAt = time.Now() //nolint:forbidigo // a clock reads the machine's
	text, err := os.ReadFile(s.file)
	if err != nil {
		return s.added
	}
	if fields := strings.Fields(string(text)); len(fields) == 2 {
		passed, err1 := time.ParseDuration(fields[0])
		step, err2 := time.ParseDuration(fields[1])
		if err1 == nil && err2 == nil {
			s.added = addition{passed, step}
		}
	}
	return s.added
}

// WaitUntil returns nil once the clock shows t or later, or was set back by more than a minute, or the context's error.
func (s *Scaled) WaitUntil(ctx context.Context, t time.Time) error {
	for last := s.Now(); ; {
		now := s.Now()
		left := t.Sub(now) / time.Duration(s.speed)
		if left <= 0 || now.Before(last.Add(-time.Minute)) {
			return ctx.Err()
		}
		last = now
		if err := wait(ctx, min(left, scaledNap), nil); err != nil {
			return err
		}
	}
}
