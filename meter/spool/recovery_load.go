package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

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
		r.newest = r.header.createdAt
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
