package spool

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"
)

const (
	defaultMaxBytes     = 8 << 30
	defaultSegmentBytes = 64 << 20
	defaultRecordBytes  = 8 << 20
	minSegmentBytes     = 4 << 10
	maxSegmentBytes     = 1 << 30
)

// Options say where a spool lives and how large it may grow.
type Options struct {
	// Dir is the spool's own directory; it is created if missing. Required.
	Dir string
	// MaxBytes bounds the bytes on disk that are not confirmed yet. The files
	// can be larger by the confirmed part of the oldest unconfirmed segment,
	// so by less than SegmentBytes. The quarantine is not counted. 0 means 8 GiB.
	MaxBytes int64
	// SegmentBytes is the size at which a new segment file is begun, at most
	// half of MaxBytes and 1 GiB. 0 means 64 MiB or an eighth of MaxBytes,
	// whichever is less.
	SegmentBytes int64
	// MaxRecordBytes bounds one payload; a record must fit into one segment.
	// 0 means 8 MiB, or what fits into a segment if that is less.
	MaxRecordBytes int
	// Now is the clock for AppendedAt and for durations. Required.
	Now func() time.Time
	// Logger gets state changes: repairs, damage, a disk that fails and
	// recovers. Payloads are never logged. nil discards.
	Logger *slog.Logger
	// OnCommit, if set, is called after each group has been made durable, on
	// the committing goroutine: it must be quick and must not call the spool.
	OnCommit func(Commit)
}

// Commit describes one group of records that one sync made durable.
type Commit struct {
	Records int
	Events  int
	// Bytes is what was written, headers included, after compression.
	Bytes int64
	// Write and Sync are the times that the two system calls took.
	Write, Sync time.Duration
}

// withDefaults fills the zero fields and checks the rest; it reports every
// fault at once.
func (o Options) withDefaults() (Options, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = defaultMaxBytes
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = max(minSegmentBytes, min(defaultSegmentBytes, o.MaxBytes/8))
	}
	room := o.SegmentBytes - segmentHeaderSize - frameHeaderSize
	if o.MaxRecordBytes == 0 {
		o.MaxRecordBytes = int(min(defaultRecordBytes, max(room, 0)))
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(o.Dir != "", "Dir: must name a directory")
	check(o.Now != nil, "Now: a clock is required")
	check(o.SegmentBytes >= minSegmentBytes && o.SegmentBytes <= maxSegmentBytes,
		"SegmentBytes: must be from %d to %d (got %d)", minSegmentBytes, maxSegmentBytes, o.SegmentBytes)
	check(o.MaxBytes <= math.MaxInt64/2 && o.MaxBytes/2 >= o.SegmentBytes,
		"MaxBytes: must be at least twice SegmentBytes, %d (got %d)", 2*o.SegmentBytes, o.MaxBytes)
	check(o.MaxRecordBytes > 0 && int64(o.MaxRecordBytes) <= room,
		"MaxRecordBytes: must be from 1 to %d, to fit into a segment (got %d)", room, o.MaxRecordBytes)
	return o, errors.Join(errs...)
}
