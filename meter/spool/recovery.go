package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	s.recovery.Damage = s.listDamage()
	s.recovery.Took = s.opts.Now().Sub(begun)
	s.logRecovery()
	return nil
}

// loadSegments opens all segment files, oldest first, and reads their headers.
func (s *Spool) loadSegments() ([]*recovered, error) {
	names, err := s.fs.List(s.opts.Dir)
	if err != nil {
		return nil, err
	}
	var segs []*recovered
	s.w.nextNumber = 1
	for _, name := range names {
		if strings.HasSuffix(name, ".tmp") {
			_ = s.fs.Remove(filepath.Join(s.opts.Dir, name)) // A leftover; overwritten if it stays.
		}
		number, ok := parseSegmentName(name)
		if !ok {
			continue
		}
		s.w.nextNumber = max(s.w.nextNumber, number+1)
		r, err := s.loadSegment(number)
		if err != nil {
			return segs, fmt.Errorf("segment file %s: %w", name, err)
		}
		if r != nil {
			segs = append(segs, r)
		}
	}
	slices.SortFunc(segs, func(a, b *recovered) int { return a.endPosition().Compare(b.endPosition()) })
	return segs, nil
}

// loadSegment returns nil for the leftover of a segment whose creation was
// interrupted: without a good header and without room for a record.
func (s *Spool) loadSegment(number uint64) (*recovered, error) {
	f, err := s.fs.OpenFile(s.path(number), os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	r := &recovered{segment: &segment{number: number}, file: f}
	b := make([]byte, segmentHeaderSize)
	if r.size, err = f.Size(); err == nil {
		_, err = readFull(f, b, 0, true)
	}
	if err == nil {
		r.header, err = parseSegmentHeader(b, number)
	}
	switch {
	case err == nil:
		r.headerOK = true
		r.salt, r.saltKnown = r.header.salt, true
		r.first, r.firstKnown = r.header.before, true
		return r, nil
	case !errors.Is(err, errBadHeader):
		return nil, errors.Join(err, f.Close())
	case r.size > segmentHeaderSize:
		return r, nil
	}
	_ = f.Close() // Only read.
	s.opts.Logger.Info("removing a spool segment that was never begun", "segment", number)
	return nil, s.fs.Remove(s.path(number))
}

// loadCheckpoint reads the checkpoint and judges whether it belongs to these
// segments. When it does not, the position is zero: delivering records twice
// is harmless, skipping them is not.
func (s *Spool) loadCheckpoint(segs []*recovered) (checkpoint, CheckpointState) {
	cp, err := readCheckpoint(s.fs, s.opts.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return checkpoint{}, CheckpointMissing
	case err != nil:
		return checkpoint{}, CheckpointDamaged
	}
	// Numbers are not used again even if the files that had them are gone.
	if n := max(cp.confirmed.Segment, cp.durable.Segment); n < math.MaxUint64 {
		s.w.nextNumber = max(s.w.nextNumber, n+1)
	}
	older := false
	for _, r := range segs {
		if r.number == cp.confirmed.Segment {
			if r.size >= cp.confirmed.Offset && r.learnSalt() == cp.salt {
				return cp, CheckpointGood
			}
			return checkpoint{}, CheckpointForeign
		}
		if r.headerOK && r.header.prev == cp.confirmed && r.header.before == cp.confirmedAt {
			return cp, CheckpointGood // The end of a segment that has been deleted since.
		}
		older = older || r.number < cp.confirmed.Segment
	}
	if older { // They would be deleted on the word of a file that nothing bears out.
		return checkpoint{}, CheckpointForeign
	}
	return cp, CheckpointGood
}

// learnSalt returns the segment's salt, from its records if need be.
func (r *recovered) learnSalt() uint32 {
	sc := scanner{src: r.file, segment: r.number, off: segmentHeaderSize, limit: r.size, lossy: true}
	for !r.saltKnown {
		fr, _, err := sc.read()
		if err != nil {
			break
		}
		if fr != nil {
			r.salt, r.saltKnown = fr.salt, true
		}
	}
	return r.salt
}

// dropAbandoned deletes files that were given up after a failed write or sync
// and could not be deleted then: the next segment neither follows them nor
// counts a record of theirs, so nothing in them was ever acknowledged.
func (s *Spool) dropAbandoned(segs []*recovered) []*recovered {
	kept := make([]*recovered, 0, len(segs))
	for i, r := range segs {
		if i+1 < len(segs) && r.headerOK && segs[i+1].headerOK &&
			segs[i+1].header.prev.Segment != r.number && segs[i+1].header.before == r.header.before {
			_ = r.file.Close() // Only read.
			s.opts.Logger.Info("removing a spool segment that was given up", "segment", r.number)
			s.discard(r.segment)
			continue
		}
		kept = append(kept, r)
	}
	return kept
}

// dropConfirmed deletes the segments that lie wholly before the confirmed
// position: those whose deletion a crash undid or prevented.
func (s *Spool) dropConfirmed(segs []*recovered) []*recovered {
	return slices.DeleteFunc(segs, func(r *recovered) bool {
		if r.number >= s.confirmed.Segment {
			return false
		}
		_ = r.file.Close() // Only read.
		s.discard(r.segment)
		return true
	})
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
		r.atEnd, r.atEndKnown = fr.after(), true
		r.floor = max(r.floor, int64(fr.group))
		r.records++
		r.events += uint64(fr.events)
	}
}

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
