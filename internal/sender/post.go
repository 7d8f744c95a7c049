package sender

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	contentType   = "application/cloudevents-batch+json"
	maxAnswer     = 4 << 20 // 10,000 events with a problem each, and some
	maxRetryAfter = time.Hour
)

// postUntilAccepted posts a batch, again and again while it makes sense. The bytes are the same each time, so a batch whose
// answer was lost counts once. Attempts listen to ctx, going ends the repeating.
func (r *run) postUntilAccepted(ctx, going context.Context, b *batch) error {
	started := r.o.Now()
	for attempt := 0; ; attempt++ {
		r.count(attempt)
		wait, err := r.post(ctx, b)
		if err == nil {
			return nil
		}
		if _, final := errors.AsType[*RefusedError](err); final {
			return err
		}
		if going.Err() != nil {
			return context.Cause(going)
		}
		if wait == 0 {
			wait = r.backoff(attempt)
		}
		if spent := r.o.Now().Sub(started); spent+wait > r.o.RetryFor {
			return fmt.Errorf("%s: not accepted after %d attempts in %s: %w", b.what(), attempt+1, spent.Round(time.Second), err)
		}
		r.o.Logger.WarnContext(ctx, "batch not accepted, will be sent again",
			"first", b.positions[0].String(), "batch_size", b.Events, "attempt", attempt+1, "wait", wait.String(), "err", err)
		if err := r.o.Sleep(going, wait); err != nil {
			return err
		}
	}
}

func (r *run) count(attempt int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sum.Requests++
	if attempt > 0 {
		r.sum.Retries++
	}
}

// backoff is RetryMin doubled with each attempt, up to RetryMax, of which a random half is taken off: senders that failed
// together should not come back together.
func (r *run) backoff(attempt int) time.Duration {
	d := r.o.RetryMax
	if attempt < 30 {
		d = min(r.o.RetryMin<<attempt, r.o.RetryMax)
	}
	return d/2 + rand.N(d/2+1) //nolint:gosec // spreads load, protects nothing
}

// post makes one attempt. The wait is what the daemon asked for, 0 if nothing. A [*RefusedError] is final.
func (r *run) post(ctx context.Context, b *batch) (wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.o.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, bytes.NewReader(b.body))
	if err != nil {
		return 0, fmt.Errorf("build request: %w", err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", "meterd-send")
	if r.o.Gzip {
		req.Header.Set("Content-Encoding", "gzip")
	}
	if r.o.Key != "" {
		req.Header.Set("Authorization", "Bearer "+string(r.o.Key))
	}
	resp, err := r.o.Client.Do(req)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return 0, fmt.Errorf("no answer within %s", r.o.Timeout)
		}
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case resp.StatusCode/100 == 2:
		// The status alone says that the events are durable; what may follow is a report.
		return 0, nil
	case repeatable(resp.StatusCode):
		return retryAfter(resp.Header.Get("Retry-After"), r.o.Now()), fmt.Errorf("the daemon answered %s", statusText(resp, answer))
	case err != nil:
		return 0, fmt.Errorf("read answer: %w", err)
	}
	return 0, newRefusedError(resp.StatusCode, answer, b)
}

// repeatable tells which statuses may be different next time.
func repeatable(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	}
	return status >= 500
}

func statusText(resp *http.Response, answer []byte) string {
	text := strconv.Itoa(resp.StatusCode) + " " + http.StatusText(resp.StatusCode)
	if p := parseProblem(answer); p.Detail != "" || p.Title != "" {
		text += ": " + clean(strings.TrimPrefix(p.Title+": "+p.Detail, ": "))
	}
	return text
}

// retryAfter reads the header of that name, in seconds or as a date.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(strings.TrimSpace(value), 10, 31); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}
