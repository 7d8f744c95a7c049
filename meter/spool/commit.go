package spool

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/meterd/meterd/internal/killpoint"
	"github.com/meterd/meterd/meter/spool/internal/vfs"
)

// maxGroupBytes bounds what one sync has to carry, so that a caller does not
// wait behind an endless group. One larger record still goes alone.
const maxGroupBytes = 8 << 20

// writer is the state of the committing goroutine.
type writer struct {
	file       vfs.File // nil: the next group begins a new segment.
	seg        *segment
	nextNumber uint64
	buf        []byte
	failing    bool
}

// commitLoop writes groups until the spool is closed and the queue is empty.
// While one group is being synced the next one gathers, so the sync rate sets
// the group size and nobody waits for a timer.
func (s *Spool) commitLoop() {
	defer close(s.commitDone)
	for {
		group, full := s.takeGroup()
		if group == nil {
			break
		}
		if full {
			s.seal()
		}
		err := s.commit(group)
		s.noteHealth(err)
		for _, r := range group {
			r.err = err
			r.done <- struct{}{} // Never blocks: one answer to one request.
		}
	}
	if s.w.file != nil {
		s.closeErr = s.w.file.Close()
	}
}

// takeGroup waits for requests and takes those that fit into the present
// segment or, if that is full, into a new one. The group is nil when the spool
// is closed.
func (s *Spool) takeGroup() (group []*request, full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) == 0 {
		if s.closed {
			return nil, false
		}
		s.work.Wait()
	}
	room := s.opts.SegmentBytes - segmentHeaderSize
	if s.w.file != nil {
		if left := s.opts.SegmentBytes - s.w.seg.end; left >= int64(len(s.queue[0].frame)) {
			room = left
		} else {
			full = true
		}
	}
	room = min(room, max(maxGroupBytes, int64(len(s.queue[0].frame))))
	n := 0
	for n < len(s.queue) && room >= int64(len(s.queue[n].frame)) {
		room -= int64(len(s.queue[n].frame))
		s.queue[n].state = taken
		n++
	}
	group = slices.Clone(s.queue[:n])
	s.queue = slices.Delete(s.queue, 0, n)
	return group, full
}

// seal ends the present segment: the next group begins another one. All that
// the file holds up to seg.end is durable already.
func (s *Spool) seal() {
	if err := s.w.file.Close(); err != nil {
		s.opts.Logger.Warn("cannot close a finished spool segment", "segment", s.w.seg.number, "err", err)
	}
	s.w.file, s.w.seg = nil, nil
	killpoint.Hit("spool.segment.sealed")
}

// commit makes a group durable and publishes it, or returns why not; then
// nothing of it is visible to readers and the file is cut back.
func (s *Spool) commit(group []*request) error {
	size, events := int64(0), 0
	for _, r := range group {
		size += int64(len(r.frame))
		events += int(r.header.events)
	}
	if s.w.file == nil {
		if err := s.beginSegment(); err != nil {
			s.release(size)
			return fmt.Errorf("begin spool segment: %w", err)
		}
	}
	at := s.place(group)
	begun := s.opts.Now()
	killpoint.Hit("spool.append.before")
	_, err := s.w.file.WriteAt(s.contiguous(group), s.w.seg.end)
	if err != nil {
		s.release(size)
		s.cutBack(false)
		return uncertain(fmt.Errorf("write spool segment %d: %w", s.w.nextNumber-1, err))
	}
	written := s.opts.Now()
	killpoint.Hit("spool.append.written")
	if err := s.w.file.Sync(); err != nil {
		s.release(size)
		s.cutBack(true)
		return uncertain(fmt.Errorf("sync spool segment %d: %w", s.w.nextNumber-1, err))
	}
	killpoint.Hit("spool.append.synced")
	c := Commit{
		Records: len(group), Events: events, Bytes: size,
		Write: written.Sub(begun), Sync: s.opts.Now().Sub(written),
	}
	s.publish(group, at, c)
	if s.opts.OnCommit != nil {
		s.opts.OnCommit(c)
	}
	return nil
}

// place fixes where each record of the group goes and completes its header. It
// returns the counters behind the group.
func (s *Spool) place(group []*request) counters {
	pos, at := s.w.seg.endPosition(), s.w.seg.endAt
	start := u32(int(pos.Offset))
	for _, r := range group {
		h := &r.header
		h.salt, h.before, h.group = s.w.seg.salt, at, start
		h.put(r.frame, pos)
		pos.Offset += h.size()
		r.end = pos
		at = h.after()
	}
	return at
}

// contiguous returns the group's bytes in one piece, to write them in one call.
func (s *Spool) contiguous(group []*request) []byte {
	if len(group) == 1 {
		return group[0].frame
	}
	s.w.buf = s.w.buf[:0]
	for _, r := range group {
		s.w.buf = append(s.w.buf, r.frame...)
	}
	return s.w.buf
}

// publish makes a durable group visible to readers and counts it.
func (s *Spool) publish(group []*request, at counters, c Commit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.w.seg.end += c.Bytes
	s.w.seg.endAt = at
	s.durable, s.durableAt = s.w.seg.endPosition(), at
	s.pending -= c.Bytes
	s.unconfirmed += c.Bytes
	if s.oldest.IsZero() {
		s.oldest = time.Unix(0, group[0].header.appendedAt).UTC()
	}
	s.stats.Records += int64(c.Records)
	s.stats.Events += int64(c.Events)
	s.stats.StoredBytes += c.Bytes
	for _, r := range group {
		s.stats.PayloadBytes += int64(r.header.raw)
	}
	s.stats.Syncs++
	s.stats.SyncTime += c.Sync
	if s.waitCh != nil {
		close(s.waitCh)
		s.waitCh = nil
	}
}

func (s *Spool) release(size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending -= size
}

// cutBack puts the segment right after a failed write or sync. What lies past
// the durable end is in an unknown state. After a failed write it is enough to
// cut it off. After a failed sync the page cache can't be believed any more
// (pages that could not be written may be marked clean, and the next sync would
// succeed without them), so the segment is ended at its durable end and the
// next group begins a new file, whose header says where this one ended.
func (s *Spool) cutBack(afterSync bool) {
	err := s.w.file.Truncate(s.w.seg.end)
	if err == nil {
		err = s.w.file.Sync()
	}
	if err == nil && !afterSync {
		return
	}
	seg := s.w.seg
	s.seal()
	if seg.end > segmentHeaderSize {
		return
	}
	// Nothing in it: drop the file, or a failing disk would collect empty ones.
	s.mu.Lock()
	s.segments = slices.DeleteFunc(s.segments, func(x *segment) bool { return x == seg })
	s.mu.Unlock()
	if err := s.fs.Remove(s.path(seg.number)); err != nil {
		s.opts.Logger.Warn("cannot remove an empty spool segment", "segment", seg.number, "err", err)
	}
}

// beginSegment creates the next segment file and makes its header and its name
// durable, before any record goes into it.
func (s *Spool) beginSegment() error {
	var salt [4]byte
	if _, err := rand.Read(salt[:]); err != nil {
		return err
	}
	s.mu.Lock()
	h := segmentHeader{
		salt:      binary.LittleEndian.Uint32(salt[:]),
		number:    s.w.nextNumber,
		createdAt: s.opts.Now().UnixNano(),
		before:    s.durableAt,
	}
	if n := len(s.segments); n > 0 {
		h.prev = s.segments[n-1].endPosition()
	}
	s.mu.Unlock()
	s.w.nextNumber++ // Also after a failure: a name is never tried twice.
	f, err := s.createSegment(h)
	if err != nil {
		return err
	}
	seg := &segment{
		number: h.number, salt: h.salt, saltKnown: true,
		first: h.before, firstKnown: true, end: segmentHeaderSize, endAt: h.before,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segments = append(s.segments, seg)
	s.w.file, s.w.seg = f, seg
	return nil
}

func (s *Spool) createSegment(h segmentHeader) (vfs.File, error) {
	name := s.path(h.number)
	f, err := s.fs.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR)
	if err != nil {
		return nil, err
	}
	_, err = f.WriteAt(h.encode(), 0)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = s.fs.SyncDir(s.opts.Dir)
	}
	if err == nil {
		killpoint.Hit("spool.segment.created")
		return f, nil
	}
	_ = f.Close() // The first error tells more; an empty file that stays is cleared by Open.
	_ = s.fs.Remove(name)
	return nil, err
}

// noteHealth counts failures and logs when the disk begins or ceases to fail.
func (s *Spool) noteHealth(err error) {
	s.mu.Lock()
	if err != nil {
		s.stats.FailedCommits++
		s.stats.LastError, s.stats.LastErrorAt = err, s.opts.Now().UTC()
	}
	s.stats.Failing = err != nil
	s.mu.Unlock()
	switch {
	case err != nil && !s.w.failing:
		s.opts.Logger.Error("spool cannot write, appends are refused until it can",
			"dir", s.opts.Dir, "err", err)
	case err == nil && s.w.failing:
		s.opts.Logger.Info("spool writes again", "dir", s.opts.Dir)
	}
	s.w.failing = err != nil
}
