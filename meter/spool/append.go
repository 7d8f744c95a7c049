package spool

import (
	"context"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"sync"
	"time"
)

// request is one record on its way to the disk.
type request struct {
	header frameHeader // Without the fields that depend on its place.
	frame  []byte      // Room for the header, then the body.
	state  requestState
	end    Position
	err    error
	done   chan struct{} // Receives once, when end and err are set.
}

type requestState uint8

const (
	queued    requestState = iota // In Spool.queue; may be withdrawn.
	taken                         // The committer has it.
	withdrawn                     // Out of the queue, never written.
)

// maxPooledFrame keeps one huge record from pinning its buffer for ever.
const maxPooledFrame = 4 << 20

var requests = sync.Pool{New: func() any { return &request{done: make(chan struct{}, 1)} }}

// Append stores one record and returns its end position once a sync has made it
// durable; concurrent calls share syncs. payload is copied before anything
// else and may be reused as soon as Append returns, however it returns. events
// is the number of usage events in the payload, kept for counting.
//
// The errors are [ErrFull], [ErrTooLarge] and [ErrClosed] (nothing was
// written), the context's error, or that of the disk. When ctx ends before the
// record's group is begun, the record is withdrawn: the context's error alone
// means that it was not and will not be stored. With [ErrUncertain] in the
// error the record may be stored all the same.
func (s *Spool) Append(ctx context.Context, payload []byte, events int) (end Position, err error) {
	if err := s.admit(ctx, payload, events); err != nil {
		return Position{}, fmt.Errorf("append to spool: %w", err)
	}
	r := newRequest(payload, events, s.opts.Now())
	if err := s.enqueue(r); err != nil {
		r.recycle()
		return Position{}, fmt.Errorf("append to spool: %w", err)
	}
	if err := s.await(ctx, r); err != nil {
		return Position{}, fmt.Errorf("append to spool: %w", err)
	}
	end = r.end
	r.recycle()
	return end, nil
}

// await returns nil when r is durable; then, and only then, the caller still
// owns r.
func (s *Spool) await(ctx context.Context, r *request) error {
	select {
	case <-r.done:
	case <-ctx.Done():
		if s.withdraw(r) {
			r.recycle()
			return ctx.Err()
		}
		select {
		case <-r.done: // Finished in the meantime: the answer is known.
		default:
			// The committer still holds r, so r is left to the collector.
			return fmt.Errorf("%w: %w", ctx.Err(), ErrUncertain)
		}
	}
	err := r.err
	if err != nil {
		r.recycle()
	}
	return err
}

// admit refuses early what cannot succeed, before work is spent on it.
func (s *Spool) admit(ctx context.Context, payload []byte, events int) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case len(payload) > s.opts.MaxRecordBytes:
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTooLarge, len(payload), s.opts.MaxRecordBytes)
	case events < 0 || int64(events) > math.MaxUint32:
		return fmt.Errorf("events: must be from 0 to %d (got %d)", uint32(math.MaxUint32), events)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.room(frameHeaderSize)
}

// room says whether n more bytes may be written. s.mu is held.
func (s *Spool) room(n int64) error {
	if s.closed {
		return ErrClosed
	}
	if used := s.unconfirmed + s.pending; used+n > s.opts.MaxBytes {
		s.stats.FullRefusals++
		return fmt.Errorf("%w: %d of %d bytes wait to be confirmed", ErrFull, used, s.opts.MaxBytes)
	}
	return nil
}

func newRequest(payload []byte, events int, now time.Time) *request {
	r := requests.Get().(*request)
	r.state, r.err, r.end = queued, nil, Position{}
	frame := slices.Grow(r.frame[:0], frameHeaderSize+len(payload))[:frameHeaderSize]
	frame, how := encodeBody(frame, payload)
	body := frame[frameHeaderSize:]
	r.frame = frame
	r.header = frameHeader{
		appendedAt: now.UnixNano(),
		events:     u32(events),
		stored:     u32(len(body)),
		raw:        u32(len(payload)),
		codec:      how,
		bodyCRC:    crc32.Checksum(body, castagnoli),
	}
	return r
}

func (r *request) recycle() {
	if cap(r.frame) <= maxPooledFrame {
		requests.Put(r)
	}
}

func (s *Spool) enqueue(r *request) error {
	size := int64(len(r.frame))
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.room(size); err != nil {
		return err
	}
	s.pending += size
	s.queue = append(s.queue, r)
	if len(s.queue) == 1 {
		s.work.Signal()
	}
	return nil
}

// withdraw takes a request back out of the queue. It reports false when the
// committer already has it.
func (s *Spool) withdraw(r *request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.state != queued {
		return false
	}
	r.state = withdrawn
	s.queue = slices.DeleteFunc(s.queue, func(q *request) bool { return q == r })
	s.pending -= int64(len(r.frame))
	return true
}

// uncertain marks a disk error after which the record may survive.
func uncertain(err error) error {
	return fmt.Errorf("%w: %w", err, ErrUncertain)
}
