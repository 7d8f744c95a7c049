package spool

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/meterd/meterd/internal/killpoint"
)

// Confirm records durably that everything before pos has been dealt with, and
// deletes the segments that are confirmed as a whole. pos must come from this
// spool: a record's Start or End, or [Spool.Durable]. Confirming what is
// confirmed already does nothing; the position never goes back. When Confirm
// fails, the old position holds and records may be delivered again after a
// restart.
func (s *Spool) Confirm(pos Position) error {
	s.confirmMu.Lock()
	defer s.confirmMu.Unlock()
	if err := s.confirm(pos); err != nil {
		return fmt.Errorf("confirm %s in spool: %w", pos, err)
	}
	return nil
}

func (s *Spool) confirm(pos Position) error {
	s.mu.Lock()
	if err := s.mayConfirm(pos); err != nil || !s.confirmed.Before(pos) {
		s.mu.Unlock()
		return err
	}
	pos = s.skipDamage(pos)
	place, seg := s.normalize(pos)
	durable, durableAt := s.durable, s.durableAt
	var read segment
	if seg != nil {
		read = *seg
	}
	s.mu.Unlock()

	at, oldest := durableAt, time.Time{}
	if pos != durable && place.Offset < read.end {
		var err error
		if at, oldest, err = s.recordAt(read, place); err != nil {
			return err
		}
	}
	s.mu.Lock()
	salt := s.confirmedSalt
	if seg := s.find(pos.Segment); seg != nil && seg.number == pos.Segment {
		salt = seg.salt
	}
	cp := s.checkpointLocked(pos, at, salt)
	s.mu.Unlock()
	killpoint.Hit("spool.checkpoint.before")
	if err := writeCheckpoint(s.fs, s.opts.Dir, cp); err != nil {
		return err
	}
	killpoint.Hit("spool.checkpoint.durable")
	for _, seg := range s.advance(cp, oldest) {
		killpoint.Hit("spool.discard.before")
		s.discard(seg)
		killpoint.Hit("spool.discard.done")
	}
	return nil
}

// mayConfirm checks that pos is a place in the data. s.mu is held.
func (s *Spool) mayConfirm(pos Position) error {
	if s.closed {
		return ErrClosed
	}
	if s.durable.Before(pos) {
		return fmt.Errorf("the position is ahead of the durable end %s", s.durable)
	}
	if seg := s.find(pos.Segment); seg != nil && seg.number == pos.Segment && pos.Offset > seg.end {
		return fmt.Errorf("the segment ends at %d", seg.end)
	}
	return nil
}

// skipDamage moves pos over damage that begins right there, so that damage at
// the end of the data does not stay unconfirmed for ever. Only what a reader
// has passed counts: what Open could not read may be readable again. s.mu is held.
func (s *Spool) skipDamage(pos Position) Position {
	for {
		place, _ := s.normalize(pos)
		to, ok := s.passed[place]
		if !ok {
			return pos
		}
		pos = to
	}
}

// recordAt reads the header of the record at place: how many records and
// events lie before it, and when it was appended. If it is damaged the next
// readable one answers.
func (s *Spool) recordAt(seg segment, place Position) (counters, time.Time, error) {
	f, err := s.fs.OpenFile(s.path(seg.number), os.O_RDONLY)
	if err != nil {
		return counters{}, time.Time{}, err
	}
	sc := scanner{
		src: f, segment: seg.number, off: place.Offset, limit: seg.end, lossy: true,
		salt: seg.salt, saltKnown: seg.saltKnown,
	}
	for {
		fr, _, err := sc.read()
		if fr == nil && err == nil {
			continue // Damage: its end is where the next record begins.
		}
		closeErr := f.Close()
		if err != nil { // Nothing readable is left in this segment.
			return seg.endAt, time.Time{}, nil
		}
		return fr.before, time.Unix(0, fr.appendedAt).UTC(), closeErr
	}
}

// advance takes over a position that is durable in the checkpoint and returns
// the segments that nobody needs any more.
func (s *Spool) advance(cp checkpoint, oldest time.Time) []*segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	pos := cp.confirmed
	s.confirmed, s.confirmedAt, s.confirmedSalt = pos, cp.confirmedAt, cp.salt
	s.unconfirmed = s.countUnconfirmed(pos)
	switch {
	case pos == s.durable:
		s.oldest = time.Time{}
	case !oldest.IsZero():
		s.oldest = oldest
	default:
		s.oldest = s.opts.Now().UTC() // It was appended while the checkpoint was being written.
	}
	var done []*segment
	maps.DeleteFunc(s.passed, func(_, to Position) bool { return !pos.Before(to) })
	s.segments = slices.DeleteFunc(s.segments, func(seg *segment) bool {
		if pos.Before(seg.endPosition()) || s.active(seg) {
			return false
		}
		done = append(done, seg)
		return true
	})
	return done
}

// active reports whether the committer may still append to seg: only to the
// last one, and after Open the last one is finished, but waits here for the
// next to be begun so that its end is on record. s.mu is held.
func (s *Spool) active(seg *segment) bool {
	return seg == s.segments[len(s.segments)-1]
}

// pass notes that a reader has gone past damage, and confirms it if all before
// it is confirmed.
func (s *Spool) pass(from, to Position) {
	s.confirmMu.Lock()
	defer s.confirmMu.Unlock()
	s.mu.Lock()
	s.passed[from] = to
	place, _ := s.normalize(s.confirmed)
	pos := s.skipDamage(place)
	s.mu.Unlock()
	if pos == place {
		return
	}
	if err := s.confirm(pos); err != nil && !errors.Is(err, ErrClosed) {
		s.opts.Logger.Warn("cannot confirm past damage in the spool", "position", pos.String(), "err", err)
	}
}
