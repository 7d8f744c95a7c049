package koogallery

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// smallOffset is below what the Date header, in whole seconds, and the way of the answer can tell from zero.
	smallOffset = 5 * time.Second
	// maxRetryAfter bounds what a server may ask for, so that a mistaken one can't stop reporting for days.
	maxRetryAfter = time.Hour
)

// clockOffset is how far the marketplace's clock is ahead of ours; known only if the answer had a Date header.
type clockOffset struct {
	ahead time.Duration
	known bool
}

// offsetFrom compares a Date header with the middle of the exchange.
func offsetFrom(date string, started, ended time.Time) clockOffset {
	server, err := http.ParseTime(date)
	if err != nil {
		return clockOffset{}
	}
	middle := started.Add(ended.Sub(started) / 2)
	return clockOffset{ahead: server.Sub(middle).Round(time.Second), known: true}
}

// large reports whether the clocks differ by more than the measurement can.
func (o clockOffset) large() bool { return o.known && o.ahead.Abs() > smallOffset }

// correction is what to add to our time to get the marketplace's: 0 unless the offset is large.
func (o clockOffset) correction() time.Duration {
	if o.large() {
		return o.ahead
	}
	return 0
}

// String says the offset for people.
func (o clockOffset) String() string {
	switch {
	case !o.known:
		return "the answer had no Date header to compare clocks with"
	case !o.large():
		return "our clock agrees with the marketplace's within 5s"
	case o.ahead > 0:
		return "our clock is " + o.ahead.String() + " behind the marketplace's"
	default:
		return "our clock is " + (-o.ahead).String() + " ahead of the marketplace's"
	}
}

// retryAfter reads a Retry-After header, in seconds or as a date by the marketplace's clock. Anything else is 0.
func retryAfter(value string, offset clockOffset, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now.Add(offset.ahead)).Round(time.Second), 0), maxRetryAfter)
}

// seenClock remembers the marketplace's clock as it was last seen.
type seenClock struct {
	mu    sync.Mutex
	ahead time.Duration // of the marketplace's clock before ours
	at    time.Time     // by our clock; zero: never
}

func (s *seenClock) note(o clockOffset, at time.Time) {
	if !o.known {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ahead, s.at = o.ahead, at
}

// ClockOffset returns how far our clock was ahead of the marketplace's (negative: behind) by its last answer with a Date header,
// to any call or probe, and when that was by our clock; ok is false before the first. The header has whole seconds, so offsets
// of a few seconds mean nothing.
func (c *Client) ClockOffset() (offset time.Duration, at time.Time, ok bool) {
	c.seen.mu.Lock()
	defer c.seen.mu.Unlock()
	return -c.seen.ahead, c.seen.at, !c.seen.at.IsZero()
}
