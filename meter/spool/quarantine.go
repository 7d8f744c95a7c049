package spool

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/meterd/meterd/meter/spool/internal/vfs"
)

const (
	quarantineName = "quarantine"
	// faultTorn marks the rest of a group that was never acknowledged.
	faultTorn = "incomplete group, never acknowledged"

	damagedSuffix = "-damaged.bin"
	tornSuffix    = "-torn.bin"
	missingSuffix = "-missing.txt"

	// maxTornFiles bounds what a crash loop can leave behind.
	maxTornFiles = 16
	copyChunk    = 1 << 20
)

// Damage is a stretch of the spool that could not be read. The records behind
// it are delivered all the same.
type Damage struct {
	// Segment and Offset say where the stretch begins, Length how many bytes
	// it has; 0 for data that is missing altogether.
	Segment uint64
	Offset  int64
	Length  int64
	// Fault says what is wrong.
	Fault string
	// File holds a copy of the bytes (or a note, if they are missing); empty
	// if it could not be written: then the segment file itself is moved to the
	// quarantine instead of being deleted.
	File string
	// Records and Events are how many were lost, if Counted.
	Records, Events int64
	Counted         bool
	// Known says that an earlier run had reported it already.
	Known bool
}

// Position returns where the damage begins.
func (d Damage) Position() Position { return Position{d.Segment, d.Offset} }

// Damage lists what was found damaged or missing since [Open] and not yet
// confirmed past when Open ran, in the order of positions.
func (s *Spool) Damage() []Damage { return s.listDamage() }

func (s *Spool) listDamage() []Damage {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Damage, 0, len(s.damage))
	for _, d := range s.damage {
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b Damage) int { return a.Position().Compare(b.Position()) })
	return list
}

func (s *Spool) quarantineDir() string { return filepath.Join(s.opts.Dir, quarantineName) }

// quarantine copies a damaged stretch aside, once, reports it, and counts it
// if it is news. src is nil for missing data.
func (s *Spool) quarantine(seg *segment, src vfs.File, g gap) {
	s.damageMu.Lock()
	defer s.damageMu.Unlock()
	d := Damage{
		Segment: seg.number, Offset: g.off, Length: g.length, Fault: g.fault,
		Records: clampInt(g.lost.records), Events: clampInt(g.lost.events), Counted: g.counted,
	}
	s.mu.Lock()
	_, seen := s.damage[d.Position()]
	s.mu.Unlock()
	if seen {
		return
	}
	if torn := s.quarantineFile(d.Position(), tornSuffix); src != nil && s.exists(torn) {
		// Found by an earlier Open, when the numbering could still tell.
		d.Fault, d.Records, d.Events, d.Counted = faultTorn, 0, 0, true
	}
	suffix := damagedSuffix
	switch {
	case src == nil:
		suffix = missingSuffix
	case d.Fault == faultTorn:
		suffix = tornSuffix
	}
	d.File = s.quarantineFile(d.Position(), suffix)
	d.Known = s.exists(d.File)
	if !d.Known && !s.copied(d.File, seg, src, g) {
		d.File = ""
	}
	s.addDamage(d)
}

// copied copies a gap aside. If not all of it can be copied, the segment file
// is marked to be kept.
func (s *Spool) copied(name string, seg *segment, src vfs.File, g gap) bool {
	blind, err := s.copyAside(name, src, g)
	if err == nil && !blind {
		return true
	}
	s.opts.Logger.Error("cannot copy all damaged bytes aside, keeping the whole segment",
		"segment", seg.number, "offset", g.off, "err", err)
	s.mu.Lock()
	seg.keep = true
	s.mu.Unlock()
	return err == nil
}

func (s *Spool) quarantineFile(p Position, suffix string) string {
	return filepath.Join(s.quarantineDir(), fmt.Sprintf("%020d-%010d%s", p.Segment, p.Offset, suffix))
}

func (s *Spool) addDamage(d Damage) {
	s.mu.Lock()
	s.damage[d.Position()] = d
	news := !d.Known && d.Fault != faultTorn
	if news {
		s.stats.DamagedRanges++
		s.stats.DamagedBytes += d.Length
		s.stats.LostRecords += d.Records
		s.stats.LostEvents += d.Events
	}
	s.mu.Unlock()
	if !news {
		return
	}
	s.opts.Logger.Error("spool damage", "segment", d.Segment, "offset", d.Offset, "length", d.Length,
		"fault", d.Fault, "lost_records", d.Records, "lost_events", d.Events, "counted", d.Counted, "file", d.File)
}

// exists reports whether name is in its directory.
func (s *Spool) exists(name string) bool {
	names, err := s.fs.List(filepath.Dir(name))
	return err == nil && slices.Contains(names, filepath.Base(name))
}

// copyAside writes a gap's bytes (or a note, if src is nil) to the file name.
// blind says that some of them could not be read and are zeros in the copy.
func (s *Spool) copyAside(name string, src vfs.File, g gap) (blind bool, err error) {
	err = writeAtomic(s.fs, name, func(dst vfs.File) error {
		if src == nil {
			_, err := dst.WriteAt(fmt.Appendf(nil, "%s: %d records, %d events\n", g.fault, g.lost.records, g.lost.events), 0)
			return err
		}
		for done := int64(0); done < g.length; {
			b := make([]byte, min(copyChunk, g.length-done))
			hit, err := readFull(src, b, g.off+done, true)
			if err != nil {
				return err
			}
			blind = blind || hit
			if _, err := dst.WriteAt(b, done); err != nil {
				return err
			}
			done += int64(len(b))
		}
		return nil
	})
	return blind, err
}

// keepTorn saves the torn end before it is cut off, unless it is all zeros:
// a flipped bit in the very last record looks the same as a torn write, and
// the bytes are the only evidence. Failing to save them is logged, no more.
func (s *Spool) keepTorn(r *recovered, g gap) {
	b := make([]byte, min(copyChunk, g.length))
	zeros := true
	for done := int64(0); zeros && done < g.length; done += int64(len(b)) {
		b = b[:min(int64(len(b)), g.length-done)]
		_, err := readFull(r.file, b, g.off+done, true)
		zeros = err == nil && len(bytes.Trim(b, "\x00")) == 0
	}
	if zeros {
		return
	}
	name := s.quarantineFile(Position{r.number, g.off}, tornSuffix)
	if _, err := s.copyAside(name, r.file, g); err != nil {
		s.opts.Logger.Warn("cannot keep a copy of a torn end", "segment", r.number, "offset", g.off, "err", err)
	}
	s.pruneTorn()
}

// pruneTorn keeps the newest copies of torn ends, and those whose segments are
// still there: they mark what is torn and not damaged.
func (s *Spool) pruneTorn() {
	names, err := s.fs.List(s.quarantineDir())
	present, dirErr := s.fs.List(s.opts.Dir)
	if err != nil || dirErr != nil {
		return // Nothing depends on it; the next torn end tries again.
	}
	names = slices.DeleteFunc(names, func(n string) bool {
		number, _, _ := strings.Cut(n, "-")
		return !strings.HasSuffix(n, tornSuffix) || slices.Contains(present, number+segmentSuffix)
	})
	for _, n := range names[:max(0, len(names)-maxTornFiles)] {
		_ = s.fs.Remove(filepath.Join(s.quarantineDir(), n))
	}
}

// discard deletes a segment file that is wholly confirmed, or moves it to the
// quarantine if a damaged part of it could not be copied.
func (s *Spool) discard(seg *segment) {
	name := s.path(seg.number)
	s.mu.Lock()
	keep := seg.keep
	s.mu.Unlock()
	var err error
	if keep {
		err = s.fs.Rename(name, filepath.Join(s.quarantineDir(), segmentName(seg.number)))
	} else {
		err = s.fs.Remove(name)
	}
	if err != nil {
		s.opts.Logger.Warn("cannot remove a confirmed spool segment, trying again at the next start",
			"segment", seg.number, "err", err)
	}
}
