package spool

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"sync"
	"time"

	"github.com/meterd/meterd/meter/spool/internal/vfs"
)

// Spool is an open spool directory. All methods may be called concurrently.
type Spool struct {
	opts     Options
	fs       vfs.FS
	lock     io.Closer
	recovery Recovery

	// mu guards everything below up to confirmMu. It is never held during I/O.
	mu       sync.Mutex
	work     sync.Cond // Signals the committer: a request came, or closed.
	closed   bool
	closedCh chan struct{}
	queue    []*request
	pending  int64         // Bytes queued or being written, reserved against the bound.
	waitCh   chan struct{} // Closed at the next commit; nil when no reader waits.
	segments []*segment    // Ascending; the last may be the committer's.

	durable     Position
	durableAt   counters // Records and events before durable.
	confirmed   Position
	confirmedAt counters
	// confirmedSalt is that of the segment confirmed points into, which may
	// have been deleted.
	confirmedSalt uint32
	unconfirmed   int64     // Bytes from confirmed to durable.
	oldest        time.Time // AppendedAt of the first unconfirmed record; zero if none.
	damage        map[Position]Damage
	passed        map[Position]Position // Damage that a reader has passed: from, to.
	stats         Stats                 // The plain counters; Stats() adds the rest.

	confirmMu sync.Mutex // Serialises Confirm, which writes files.
	damageMu  sync.Mutex // Serialises quarantine, which writes files.

	w          writer // The committer's alone.
	commitDone chan struct{}
	closeErr   error // Set before commitDone is closed.
}

// segment is one file of the spool. Its fields are guarded by Spool.mu.
type segment struct {
	number     uint64
	salt       uint32
	saltKnown  bool
	first      counters // Records and events before its first record, if
	firstKnown bool     // the header, or the segment before it, can tell.
	end        int64    // Where its durable records end.
	endAt      counters // Records and events before end.
	// keep asks for the file to be moved to the quarantine instead of deleted,
	// because a copy of its damaged part could not be made.
	keep bool
}

func (s *segment) endPosition() Position { return Position{s.number, s.end} }

// Open opens the spool in o.Dir, creating it if need be, and repairs it: an
// incomplete group at the very end (never acknowledged) is cut off, and any
// other damage is copied to the quarantine directory and stepped over.
// [Spool.Recovery] tells what was found. Open never deletes a record that was
// not confirmed. The directory stays locked until [Spool.Close] or the end of
// the process; the error is [ErrLocked] when somebody else has it.
func Open(o Options) (*Spool, error) { return openFS(o, vfs.OS{}) }

func openFS(o Options, fsys vfs.FS) (*Spool, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	s := &Spool{
		opts:       o,
		fs:         fsys,
		closedCh:   make(chan struct{}),
		commitDone: make(chan struct{}),
		damage:     make(map[Position]Damage),
		passed:     make(map[Position]Position),
	}
	s.work.L = &s.mu
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("open spool %s: %w", o.Dir, err)
	}
	go s.commitLoop() // Ends in Close.
	return s, nil
}

func (s *Spool) open() error {
	if err := s.fs.MkdirAll(s.quarantineDir()); err != nil {
		return err
	}
	lock, err := s.fs.Lock(filepath.Join(s.opts.Dir, "lock"))
	if errors.Is(err, vfs.ErrLocked) {
		return fmt.Errorf("%w: %w; stop the other process or choose another directory", ErrLocked, err)
	} else if err != nil {
		return err
	}
	// The names of the directories themselves must survive, too. The parent
	// may belong to somebody else and be unreadable; then it is theirs to keep.
	parentErr := s.fs.SyncDir(filepath.Dir(s.opts.Dir))
	if errors.Is(parentErr, fs.ErrPermission) {
		parentErr = nil
	}
	err = errors.Join(parentErr, s.fs.SyncDir(s.opts.Dir))
	if err == nil {
		err = s.recover()
	}
	if err == nil && s.recovery.Checkpoint == CheckpointMissing {
		// Later the disk may be too full for a first one, and then nothing could be confirmed.
		_ = writeCheckpoint(s.fs, s.opts.Dir, s.checkpoint()) // if it's full already, Confirm tries again
	}
	if err != nil {
		return errors.Join(err, lock.Close())
	}
	s.lock = lock
	return nil
}

// Close commits what is queued, notes how far the data is durable and releases
// the directory. Appends that come later, and readers that wait, get
// [ErrClosed]. Closing twice is harmless and returns the same result.
func (s *Spool) Close() error {
	s.mu.Lock()
	first := !s.closed
	if first {
		s.closed = true
		close(s.closedCh)
		s.work.Signal()
	}
	s.mu.Unlock()
	<-s.commitDone // The committer has run the queue dry and closed its file.
	s.confirmMu.Lock()
	defer s.confirmMu.Unlock()
	if first {
		// Knowing the durable end lets the next Open tell damage from a torn tail.
		err := writeCheckpoint(s.fs, s.opts.Dir, s.checkpoint())
		s.closeErr = errors.Join(s.closeErr, err, s.lock.Close())
		if s.closeErr != nil {
			s.closeErr = fmt.Errorf("close spool %s: %w", s.opts.Dir, s.closeErr)
		}
	}
	return s.closeErr
}

// Durable returns the end of the last record that is known to be on disk.
func (s *Spool) Durable() Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable
}

// Confirmed returns the durable position up to which the consumer has
// confirmed; zero when it never has.
func (s *Spool) Confirmed() Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.confirmed
}

// checkpoint returns the present state as it belongs into the checkpoint file.
func (s *Spool) checkpoint() checkpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.checkpointLocked(s.confirmed, s.confirmedAt, s.confirmedSalt)
}

func (s *Spool) checkpointLocked(pos Position, at counters, salt uint32) checkpoint {
	return checkpoint{
		confirmed: pos, confirmedAt: at, salt: salt,
		durable: s.durable, durableThrough: s.durableAt,
	}
}

// find returns the first segment numbered n or higher, nil if none. s.mu is held.
func (s *Spool) find(n uint64) *segment {
	for _, seg := range s.segments {
		if seg.number >= n {
			return seg
		}
	}
	return nil
}

// normalize moves a position to the place where the next record begins, if
// nothing but a segment boundary lies between. The segment is nil when pos is
// behind all segments. s.mu is held.
func (s *Spool) normalize(pos Position) (Position, *segment) {
	seg := s.find(pos.Segment)
	if seg == nil {
		return pos, nil
	}
	if seg.number > pos.Segment {
		pos = Position{seg.number, segmentHeaderSize}
	}
	pos.Offset = max(pos.Offset, segmentHeaderSize)
	for pos.Offset >= seg.end {
		next := s.find(seg.number + 1)
		if next == nil {
			break
		}
		seg, pos = next, Position{next.number, segmentHeaderSize}
	}
	return pos, seg
}

// countUnconfirmed returns the bytes of records from pos on. s.mu is held.
func (s *Spool) countUnconfirmed(pos Position) int64 {
	var n int64
	for _, seg := range s.segments {
		switch cmp.Compare(seg.number, pos.Segment) {
		case 0:
			n += max(0, seg.end-max(pos.Offset, segmentHeaderSize))
		case 1:
			n += seg.end - segmentHeaderSize
		}
	}
	return n
}

func (s *Spool) path(segment uint64) string {
	return filepath.Join(s.opts.Dir, segmentName(segment))
}

// clampInt turns a counter into an int64 for a report.
func clampInt(n uint64) int64 { return int64(min(n, math.MaxInt64)) }
