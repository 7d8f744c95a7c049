package reporter

import (
	"errors"
	"fmt"
	"time"
)

// Backoff is an exponential back-off with jitter: the delay doubles from Min to Max with every failure in a row.
type Backoff struct{ Min, Max time.Duration }

// validate reports what is wrong with the settings.
func (b Backoff) validate() error {
	if b.Min <= 0 || b.Max < b.Min {
		return fmt.Errorf("retry: the shortest delay must be positive and not above the longest (got %s and %s)", b.Min, b.Max)
	}
	return nil
}

// Delay returns how long to wait after the given number of failures in a row; the first failure is 1, and anything below
// counts as 1. random gives numbers in [0, 1) and decides where in [d/2, d] the delay falls, so that reporters that
// failed together do not come back together.
func (b Backoff) Delay(failures int, random func() float64) time.Duration {
	d := b.Min
	for i := 1; i < failures && d < b.Max; i++ {
		if d > b.Max/2 { // doubling would pass Max, or overflow
			d = b.Max
			break
		}
		d *= 2
	}
	return jitter(d, random)
}

// jitter returns a duration in [d/2, d].
func jitter(d time.Duration, random func() float64) time.Duration {
	return d/2 + time.Duration(float64(d/2)*random())
}

// RetryPolicy decides when what could not be closed or delivered is tried again. KooGallery collects records at minute 15
// of the following hour and asks for them within two hours at the latest (usage push, section 4.1).
type RetryPolicy struct {
	// Backoff applies until Deadline after the end of the newest window that waits. The zero value means 2 s to 1 m.
	Backoff Backoff
	// Deadline is the end of the time in which a report is on time, counted from the end of the window; 0 means 15 m.
	Deadline time.Duration
	// LateInterval applies after Deadline up to LateLimit; 0 means 3 m.
	LateInterval time.Duration
	// LateLimit is how long a window counts as merely late; 0 means 2 h.
	LateLimit time.Duration
	// SlowInterval applies beyond LateLimit; 0 means 1 h.
	SlowInterval time.Duration
}

// withDefaults fills what was left zero and reports what is wrong.
func (p RetryPolicy) withDefaults() (RetryPolicy, error) {
	if p.Backoff == (Backoff{}) {
		p.Backoff = Backoff{Min: 2 * time.Second, Max: time.Minute}
	}
	setDefault(&p.Deadline, 15*time.Minute)
	setDefault(&p.LateInterval, 3*time.Minute)
	setDefault(&p.LateLimit, 2*time.Hour)
	setDefault(&p.SlowInterval, time.Hour)
	err := p.Backoff.validate()
	if p.Deadline < 0 || p.LateInterval < 0 || p.LateLimit < p.Deadline || p.SlowInterval < 0 {
		err = errors.Join(err, errors.New("retry: no interval may be negative, and the late limit not before the deadline"))
	}
	return p, err
}

// setDefault sets a duration that was left zero.
func setDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// Next returns when to try again what the marketplace did not take. newestEnd is the end of the newest window that waits: the
// most urgent one decides, and the older ones go along. No attempt comes before notBefore, the time the marketplace or the
// breaker asked for. While the deadline nears, attempts come closer together.
func (p RetryPolicy) Next(now, newestEnd time.Time, failures int, notBefore time.Time, random func() float64) time.Time {
	age := now.Sub(newestEnd)
	var delay time.Duration
	switch {
	case age < p.Deadline:
		left := p.Deadline - max(age, 0)
		delay = min(p.Backoff.Delay(failures, random), max(left/4, p.Backoff.Min))
	case age < p.LateLimit:
		delay = jitter(p.LateInterval, random)
	default:
		delay = jitter(p.SlowInterval, random)
	}
	at := now.Add(delay)
	if at.Before(notBefore) {
		return notBefore
	}
	return at
}

// AfterFault returns when to try again what our own side could not do: the books or the barrier failed, or the clock can't be
// trusted. That is repeated soon whatever the hour, because nobody else's rest depends on it.
func (p RetryPolicy) AfterFault(now time.Time, failures int, random func() float64) time.Time {
	return now.Add(p.Backoff.Delay(failures, random))
}

// AfterBreaker returns when to try again while the breaker permits no call before notBefore: as soon as it does as long as the
// newest window can still be on time, because the breaker's own pace is the one at which the endpoint is to be probed.
func (p RetryPolicy) AfterBreaker(now, newestEnd time.Time, failures int, notBefore time.Time, random func() float64) time.Time {
	if now.Sub(newestEnd) < p.Deadline && notBefore.After(now) {
		return notBefore
	}
	return p.Next(now, newestEnd, failures, notBefore, random)
}
