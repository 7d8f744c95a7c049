package sender

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// batch is a request's worth of events.
type batch struct {
	BatchInfo

	body      []byte // as transmitted, the same for every attempt
	positions []Position
}

// what names the batch in errors.
func (b *batch) what() string {
	first, last := b.positions[0], b.positions[len(b.positions)-1]
	return fmt.Sprintf("batch of %d events (%s to %s)", b.Events, first, last)
}

// run is one call of Send.
type run struct {
	o       Options
	url     string
	started time.Time

	mu  sync.Mutex // guards sum and err, and serialises OnAccepted
	sum Summary

	before sync.Mutex // serialises OnBatch
}

// Send reads src to its end and posts its events. It returns when every batch was accepted, or after the first error: then
// nothing more is begun, attempts under way are waited for, and the summary says what was accepted. When ctx ends,
// attempts under way are given up. After an error sending the same input again is safe. Faults of the options are reported
// before anything is read.
//
// The error is an [*InputError] for events that can't be read, a [*RefusedError] for events the daemon won't take, and
// anything else for requests that failed for longer than Options.RetryFor.
func Send(ctx context.Context, o Options, src Source) (Summary, error) {
	o, target, err := o.complete()
	if err != nil {
		return Summary{}, err
	}
	r := &run{o: o, url: target, started: o.Now()}
	// going ends with the first error of a batch: nothing new begins then. Attempts under way listen to ctx alone.
	going, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	batches := make(chan *batch)
	var workers sync.WaitGroup
	for range o.Concurrency {
		workers.Go(func() { // ends when batches is closed
			for b := range batches {
				if err := r.deliver(ctx, going, b); err != nil {
					stop(err)
				}
			}
		})
	}
	err = r.read(going, src, batches)
	close(batches)
	workers.Wait()
	if going.Err() != nil {
		err = context.Cause(going)
	}
	return r.summary(), err
}

func (r *run) summary() Summary {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sum
	s.Elapsed = r.o.Now().Sub(r.started)
	return s
}

// read cuts the source into batches and hands them over.
func (r *run) read(ctx context.Context, src Source, batches chan<- *batch) error {
	a := assembler{o: r.o}
	hand := func() error {
		b, err := a.finish()
		if err != nil || b == nil {
			return err
		}
		select {
		case batches <- b:
			return r.pace(ctx, a.total)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for ctx.Err() == nil && (r.o.Limit == 0 || a.total < r.o.Limit) {
		e, err := src.Next()
		if errors.Is(err, io.EOF) {
			return hand()
		}
		if err != nil {
			return err
		}
		text, err := a.encode(&e)
		if err != nil {
			return err
		}
		if a.full(text) {
			if err := hand(); err != nil {
				return err
			}
		}
		a.add(&e, text)
		if a.events() == r.o.Batch {
			if err := hand(); err != nil {
				return err
			}
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return hand()
}

// pace waits until the rate permits more than the n events handed over so far.
func (r *run) pace(ctx context.Context, n int64) error {
	if r.o.Rate == 0 {
		return nil
	}
	due := time.Duration(n/r.o.Rate)*time.Second + time.Duration(n%r.o.Rate)*time.Second/time.Duration(r.o.Rate)
	if wait := due - r.o.Now().Sub(r.started); wait > 0 {
		return r.o.Sleep(ctx, wait)
	}
	return nil
}

// assembler builds batches.
type assembler struct {
	o         Options
	index     int64
	total     int64 // events so far
	body      []byte
	text      []byte // of one event, reused
	positions []Position
	info      BatchInfo
}

func (a *assembler) events() int { return len(a.positions) }

// encode returns an event as JSON, valid until the next call.
func (a *assembler) encode(e *Event) ([]byte, error) {
	var err error
	if a.text, err = e.AppendJSON(a.text[:0]); err != nil {
		return nil, &InputError{e.Pos, err}
	}
	return a.text, nil
}

// full tells whether the batch has no room for an event.
func (a *assembler) full(text []byte) bool {
	return len(a.positions) > 0 && len(a.body)+len(text)+2 > a.o.BatchBytes
}

// add appends an event.
func (a *assembler) add(e *Event, text []byte) {
	if len(a.positions) == 0 {
		a.body = append(make([]byte, 0, cap(a.body)), '[')
	} else {
		a.body = append(a.body, ',')
	}
	a.body = append(a.body, text...)
	a.positions = append(a.positions, e.Pos)
	a.total++
	if e.Time.IsZero() {
		return
	}
	if a.info.First.IsZero() || e.Time.Before(a.info.First) {
		a.info.First = e.Time
	}
	if e.Time.After(a.info.Last) {
		a.info.Last = e.Time
	}
}

// finish returns the batch; nil if it would be empty.
func (a *assembler) finish() (*batch, error) {
	if len(a.positions) == 0 {
		return nil, nil
	}
	b := &batch{BatchInfo: a.info, body: append(a.body, ']'), positions: a.positions}
	b.Index, b.Events = a.index, len(a.positions)
	a.index++
	a.positions, a.info = nil, BatchInfo{}
	if !a.o.Gzip {
		return b, nil
	}
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	if _, err := zw.Write(b.body); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	if err := zw.Close(); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	b.body = buf.Bytes()
	return b, nil
}

// deliver makes the daemon accept a batch.
func (r *run) deliver(ctx, going context.Context, b *batch) error {
	if going.Err() != nil {
		return context.Cause(going)
	}
	if err := r.announce(going, b.BatchInfo); err != nil {
		return err
	}
	r.mu.Lock()
	r.sum.Sent += int64(b.Events)
	r.mu.Unlock()
	if err := r.postUntilAccepted(ctx, going, b); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sum.add(b.BatchInfo, len(b.body))
	if r.o.OnAccepted != nil {
		sum := r.sum
		sum.Elapsed = r.o.Now().Sub(r.started)
		r.o.OnAccepted(b.BatchInfo, sum)
	}
	return nil
}

func (r *run) announce(ctx context.Context, info BatchInfo) error {
	if r.o.OnBatch == nil {
		return nil
	}
	r.before.Lock()
	defer r.before.Unlock()
	return r.o.OnBatch(ctx, info)
}
