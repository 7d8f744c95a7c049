package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// load is what a client is to send.
type load struct {
	url         string // of the server
	path        string
	connections int
	batch       int           // events in a request
	duration    time.Duration // 0: until the events are sent
	events      uint64        // at most so many in all; 0: as many as go into the duration
	instances   int
	hour        time.Time
	first       *atomic.Uint64 // number of the next event, shared by all loads of a server, so that no id comes twice
	// hold, if set, is asked before each request and may wait.
	hold func(ctx context.Context) error
}

// sent is what became of it.
type sent struct {
	requests, events uint64
	tokens           uint64 // sum of the quantities
	took             time.Duration
	p50, p99         time.Duration // from the first byte of a request to the answer
}

func (s sent) eventRate() float64   { return float64(s.events) / s.took.Seconds() }
func (s sent) requestRate() float64 { return float64(s.requests) / s.took.Seconds() }

// send sends the load and counts what was acknowledged. Any other answer than 204 is an error: a benchmark that is refused
// measures nothing.
func (l load) send(ctx context.Context) (sent, error) {
	u, err := url.Parse(l.url)
	if err != nil {
		return sent{}, err
	}
	senders := make([]*sender, l.connections)
	for i := range senders {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
		if err != nil {
			return sent{}, err
		}
		defer conn.Close()
		senders[i] = &sender{load: &l, conn: conn, template: newTemplate(l.batch, l.hour, l.path), answer: make([]byte, 4096)}
	}
	var left atomic.Int64
	left.Store(1<<63 - 1)
	if l.events > 0 {
		left.Store(int64(l.events)) //nolint:gosec // far below 2^63
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	began := clockNow()
	for _, s := range senders {
		// A read that waits for an answer ends with the context, and the first error ends all.
		defer context.AfterFunc(ctx, func() { _ = s.conn.SetDeadline(began) })()
		group.Go(func() {
			if err := s.run(ctx, began, &left); err != nil {
				cancel(err)
			}
		})
	}
	group.Wait()
	err = context.Cause(ctx)
	total := sent{took: time.Since(began)}
	var latencies []time.Duration
	for _, s := range senders {
		total.requests += s.done.requests
		total.events += s.done.events
		total.tokens += s.done.tokens
		latencies = append(latencies, s.latencies...)
	}
	total.p50, total.p99 = quantile(latencies, 0.5), quantile(latencies, 0.99)
	if err == nil && total.requests == 0 {
		err = errors.New("no request was answered in time")
	}
	return total, err
}

// sender is one connection.
type sender struct {
	*load
	conn      net.Conn
	template  *template
	answer    []byte
	done      sent
	latencies []time.Duration
}

// run sends one request after the other until there is nothing left or the time is over.
func (s *sender) run(ctx context.Context, began time.Time, left *atomic.Int64) error {
	size := uint64(s.batch) //nolint:gosec // positive
	for s.duration == 0 || time.Since(began) < s.duration {
		if left.Add(-int64(s.batch)) < 0 {
			return nil
		}
		if s.hold != nil {
			if err := s.hold(ctx); err != nil {
				return err
			}
		}
		tokens := s.template.fill(s.first.Add(size)-size, s.instances)
		start := clockNow()
		if err := s.roundTrip(); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
		s.latencies = append(s.latencies, time.Since(start))
		s.done.requests++
		s.done.events += size
		s.done.tokens += tokens
	}
	return nil
}

var (
	noContent = []byte("HTTP/1.1 204")
	headEnd   = []byte("\r\n\r\n")
)

// roundTrip writes the request and reads the answer.
func (s *sender) roundTrip() error {
	if _, err := s.conn.Write(s.template.request); err != nil {
		return fmt.Errorf("send events: %w", err)
	}
	read := 0
	for {
		n, err := s.conn.Read(s.answer[read:])
		read += n
		if answer := s.answer[:read]; bytes.HasSuffix(answer, headEnd) && bytes.HasPrefix(answer, noContent) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read answer: %w (so far: %q)", err, s.answer[:read])
		}
		if read == len(s.answer) || read > len(noContent) && !bytes.HasPrefix(s.answer, noContent) {
			return fmt.Errorf("answer is not 204: %s", strings.TrimSpace(string(s.answer[:read])))
		}
	}
}

// quantile sorts the values and returns one of them; 0 when there are none.
func quantile[T ~int64 | ~float64](values []T, q float64) T {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[int(float64(len(values)-1)*q)]
}
