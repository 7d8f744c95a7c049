package spool

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/meterd/meterd/meter/spool/internal/vfs"
)

// Recovery tells what [Open] found and did.
type Recovery struct {
	// Segments is how many segment files hold unconfirmed records.
	Segments int
	// Records and Events are those readable and not confirmed, Bytes what they
	// take on disk. Only the headers of all but the last segment were read:
	// a damaged body there is found by the reader.
	Records, Events, Bytes int64
	// Newest is the latest time of an append that the segment files tell of,
	// confirmed records included; zero if there is none. A clock that shows
	// less has gone back since.
	Newest time.Time
	// TornBytes were cut off the end: a group that was being written when the
	// process or the machine stopped, and that nobody got an acknowledgement for.
	TornBytes int64
	// Damage lists unreadable stretches and missing files, oldest first,
	// those known from an earlier run included.
	Damage []Damage
	// Checkpoint says in what state the consumer's position was found.
	Checkpoint CheckpointState
	// Took is how long the recovery took.
	Took time.Duration
}

// CheckpointState is the state in which Open found the confirmed position.
// Unless it is good, records that had been confirmed may be delivered again.
type CheckpointState string

// The states of the checkpoint at Open.
const (
	// CheckpointGood means that reading goes on where it was confirmed.
	CheckpointGood CheckpointState = "good"
	// CheckpointMissing means that there was no file: a new spool, or a lost
	// file; everything still on disk is delivered.
	CheckpointMissing CheckpointState = "missing"
	// CheckpointDamaged means that the file could not be read or its checksum
	// was wrong; everything still on disk is delivered.
	CheckpointDamaged CheckpointState = "damaged"
	// CheckpointForeign means that the file points to a place that the data
	// does not have (a restored backup, a file from elsewhere); everything
	// still on disk is delivered.
	CheckpointForeign CheckpointState = "foreign"
)

// recovered is a segment file while Open works on it.
type recovered struct {
	*segment
	header   segmentHeader
	headerOK bool
	size     int64
	file     vfs.File

	gaps   []gap
	floor  int64 // All before it was durable, by the evidence of later groups.
	oldest int64 // appendedAt of the first record read, if records > 0.
	newest int64 // The latest appendedAt read, or when the segment was begun.
	counters
	atEnd      counters // After the last record read.
	atEndKnown bool
	blind      bool // Some block could not be read.
}

// recover brings the directory into order and fills in the state of s.
func (s *Spool) recover() error {
	begun := s.opts.Now()
	segs, err := s.loadSegments()
	defer func() {
		for _, r := range segs {
			_ = r.file.Close() // Only read; cutting reopens.
		}
	}()
	if err != nil {
		return err
	}
	segs = s.dropAbandoned(segs)
	cp, state := s.loadCheckpoint(segs)
	s.recovery.Checkpoint = state
	s.confirmed, s.confirmedAt, s.confirmedSalt = cp.confirmed, cp.confirmedAt, cp.salt
	segs = s.dropConfirmed(segs)
	for i, r := range segs {
		if err := s.examine(segs, i, cp); err != nil {
			return fmt.Errorf("read segment %d: %w", r.number, err)
		}
	}
	if err := s.settle(segs, cp); err != nil {
		return err
	}
	s.noteMissing(segs, cp, state)
	s.noteNewest(segs)
	s.recovery.Damage = s.listDamage()
	s.recovery.Took = s.opts.Now().Sub(begun)
	s.logRecovery()
	return nil
}

// examine reads segment i from the confirmed position on: headers, and bodies
// too in the last one, whose end may be torn.
func (s *Spool) examine(segs []*recovered, i int, cp checkpoint) error {
	r, last := segs[i], i == len(segs)-1
	sc := scanner{
		src: r.file, segment: r.number, off: segmentHeaderSize, limit: r.size, verify: last, lossy: true,
		salt: r.salt, saltKnown: r.saltKnown,
	}
	if i > 0 && !r.headerOK && segs[i-1].number+1 == r.number {
		r.first, r.firstKnown = segs[i-1].atEnd, segs[i-1].atEndKnown
	}
	sc.next, sc.nextKnown = r.first, r.firstKnown
	r.end, r.floor = r.size, segmentHeaderSize
	if !last && segs[i+1].headerOK && segs[i+1].header.prev.Segment == r.number {
		// What lies behind was never acknowledged.
		r.end = segs[i+1].header.prev.Offset
		sc.limit = min(r.size, r.end)
		sc.end, sc.endKnown = segs[i+1].header.before, true
	}
	if last && cp.durable == r.endPosition() { // As after a clean close.
		sc.end, sc.endKnown = cp.durableThrough, true
	}
	if !r.headerOK {
		r.gaps = append(r.gaps, gap{length: segmentHeaderSize, fault: "segment header is damaged", counted: true})
	}
	if s.confirmed.Segment == r.number && s.confirmed.Offset > sc.off {
		sc.off, sc.next, sc.nextKnown = s.confirmed.Offset, cp.confirmedAt, true
	}
	r.atEnd, r.atEndKnown = sc.next, sc.nextKnown
	if err := r.scan(&sc); err != nil {
		return err
	}
	r.salt, r.saltKnown, r.blind = sc.salt, sc.saltKnown, sc.blind
	if sc.limit < r.end {
		g := gap{off: sc.limit, length: r.end - sc.limit, fault: "the file is too short"}
		if sc.nextKnown {
			g.lost, g.counted = sc.end.minus(sc.next), true
		}
		r.gaps = append(r.gaps, g)
	}
	if sc.endKnown {
		r.atEnd, r.atEndKnown = sc.end, true
	}
	return nil
}

func (r *recovered) scan(sc *scanner) error {
	for {
		fr, g, err := sc.read()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case g != nil:
			r.gaps = append(r.gaps, *g)
			continue
		}
		if r.records == 0 {
			r.oldest = fr.appendedAt
		}
		r.newest = max(r.newest, fr.appendedAt)
		r.atEnd, r.atEndKnown = fr.after(), true
		r.floor = max(r.floor, int64(fr.group))
		r.records++
		r.events += uint64(fr.events)
	}
}

func (s *Spool) logRecovery() {
	r := &s.recovery
	s.opts.Logger.Info("spool opened", "dir", s.opts.Dir, "checkpoint", string(r.Checkpoint),
		"confirmed", s.confirmed.String(), "durable", s.durable.String(), "records", r.Records, "events", r.Events,
		"torn_bytes", r.TornBytes, "damaged_ranges", len(r.Damage), "took", r.Took)
	if r.Checkpoint == CheckpointDamaged || r.Checkpoint == CheckpointForeign {
		s.opts.Logger.Warn("spool checkpoint cannot be used, confirmed records may be delivered again",
			"dir", s.opts.Dir, "checkpoint", string(r.Checkpoint))
	}
}
