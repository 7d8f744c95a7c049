package spool

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/meterd/meterd/meter/spool/internal/vfs"
)

// settle cuts the torn end, quarantines the damage and sets up the state of s.
func (s *Spool) settle(segs []*recovered, cp checkpoint) error {
	if n := len(segs); n > 0 {
		if err := s.settleLast(segs[n-1], cp); err != nil {
			return err
		}
	}
	s.durable, s.durableAt = cp.confirmed, cp.confirmedAt
	var bad []gapOf
	for _, r := range segs {
		for _, g := range r.gaps {
			bad = append(bad, gapOf{r, g})
		}
		s.segments = append(s.segments, r.segment)
		if r.end > segmentHeaderSize { // A record's end, not the begin of an empty segment.
			s.durable = r.endPosition()
		}
		if r.atEndKnown {
			s.durableAt = r.atEnd
		}
		r.endAt = s.durableAt
		if r.records > 0 {
			s.recovery.Segments++
			if s.oldest.IsZero() {
				s.oldest = time.Unix(0, r.oldest).UTC()
			}
		}
		s.recovery.Records += clampInt(r.records)
		s.recovery.Events += clampInt(r.events)
	}
	// A later number may be in the checkpoint than in the data: never count back.
	if cp.durableThrough.records > s.durableAt.records {
		s.durableAt = cp.durableThrough
	}
	if s.confirmed.IsZero() && len(segs) > 0 {
		s.confirmedAt = segs[0].first
	}
	s.unconfirmed = s.countUnconfirmed(s.confirmed)
	s.recovery.Bytes = s.unconfirmed
	for _, b := range bad {
		s.quarantine(b.segment, b.file, b.gap)
	}
	return nil
}

type gapOf struct {
	*recovered
	gap gap
}

// settleLast decides which gaps of the last segment are the rest of a group
// that was never acknowledged, cuts such an end off, and makes what remains
// durable: the last process may have stopped between write and sync.
//
// A sync alone would not do, because the last process may have stopped after a
// sync that failed: then the last group is in the page cache, marked clean, and
// not on the disk. So that group is written once more, byte for byte.
func (s *Spool) settleLast(r *recovered, cp checkpoint) error {
	floor := r.floor
	if cp.durable.Segment == r.number {
		floor = max(floor, cp.durable.Offset)
	}
	for i := range r.gaps {
		// What the disk refused to read may be whole, so it is not cut off.
		if g := &r.gaps[i]; g.off >= floor && !r.blind {
			g.fault, g.lost, g.counted = faultTorn, counters{}, true
		}
	}
	for n := len(r.gaps); n > 0; n-- {
		g := r.gaps[n-1]
		if g.fault != faultTorn || g.off+g.length != r.end {
			break
		}
		s.keepTorn(r, g)
		r.gaps = r.gaps[:n-1]
		r.end = g.off
		s.recovery.TornBytes += g.length
	}
	f, err := s.fs.OpenFile(s.path(r.number), os.O_RDWR)
	if err != nil {
		return err
	}
	if r.end < r.size {
		err = f.Truncate(r.end)
	}
	if err == nil && !r.blind {
		err = rewrite(f, floor, r.end)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("repair segment %d: %w", r.number, err)
	}
	return nil
}

// rewrite writes a part of a file once more, so that the next sync carries it.
func rewrite(f vfs.File, from, to int64) error {
	for from < to {
		b := make([]byte, min(copyChunk, to-from))
		if _, err := readFull(f, b, from, false); err != nil {
			return err
		}
		if _, err := f.WriteAt(b, from); err != nil {
			return err
		}
		from += int64(len(b))
	}
	return nil
}

// noteMissing reports records that the numbering proves to be gone: whole
// segment files, or the end of the data.
func (s *Spool) noteMissing(segs []*recovered, cp checkpoint, state CheckpointState) {
	at, known := cp.confirmedAt, state == CheckpointGood
	where := cp.confirmed
	for _, r := range segs {
		if known && r.headerOK && r.number > where.Segment {
			s.missing(where, r.first.minus(at), fmt.Sprintf("segments between %d and %d are missing", where.Segment, r.number))
		}
		at, known, where = r.atEnd, r.atEndKnown, r.endPosition()
	}
	if state == CheckpointGood && known {
		s.missing(where, cp.durableThrough.minus(at), "the end of the data, known to be durable up to "+cp.durable.String()+", is missing")
	}
}

func (s *Spool) missing(where Position, lost counters, fault string) {
	if lost != (counters{}) {
		s.quarantine(&segment{number: where.Segment}, nil, gap{off: where.Offset, fault: fault, lost: lost, counted: true})
	}
}

// noteNewest fills in Recovery.Newest. What examine has passed over, the
// confirmed part of a segment, is walked for it: after a clean stop that is all
// there is.
func (s *Spool) noteNewest(segs []*recovered) {
	for _, r := range segs {
		if r.number == s.confirmed.Segment {
			r.walkConfirmed(min(s.confirmed.Offset, r.end))
		}
		if at := time.Unix(0, r.newest).UTC(); r.newest > 0 && at.After(s.recovery.Newest) {
			s.recovery.Newest = at
		}
	}
}

// walkConfirmed reads the headers before limit for the time of the latest.
func (r *recovered) walkConfirmed(limit int64) {
	sc := scanner{
		src: r.file, segment: r.number, off: segmentHeaderSize, limit: limit, lossy: true,
		salt: r.salt, saltKnown: r.saltKnown,
	}
	for {
		fr, _, err := sc.read()
		if err != nil {
			return // The end: what can't be read counts as zeros.
		}
		if fr != nil {
			r.newest = max(r.newest, fr.appendedAt)
		}
	}
}
