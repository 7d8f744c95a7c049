package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/meterd/meterd/meter/spool/internal/vfs"
)

// readTries is how often [Reader.Next] reports that a place cannot be read
// before it treats the place as damaged: storage that fails for a moment must
// not cost records, storage that fails for good must not hold up those behind.
const readTries = 5

// Record is one appended record.
type Record struct {
	// Start and End enclose the record; End is what to confirm once it has
	// been dealt with.
	Start, End Position
	// Payload is as given to Append. It is valid until the next call of Next.
	Payload []byte
	// Events is as given to Append.
	Events int
	// AppendedAt is when Append was called.
	AppendedAt time.Time
}

// Reader delivers durable records in the order of their positions. It is not
// safe for concurrent use; several Readers are.
type Reader struct {
	s     *Spool
	pos   Position
	seg   segment // As of the last look.
	file  vfs.File
	sc    scanner
	short int64 // Length of the present file, if it turned out too short; else -1.
	raw   []byte
	tries int
}

// NewReader returns a reader that begins at from, which must come from this
// spool: [Spool.Confirmed] for a consumer that takes up its work, or a
// record's Start or End. The zero Position, and one whose segment has been
// deleted, mean the oldest record still there. Close the reader after use.
func (s *Spool) NewReader(from Position) *Reader { return &Reader{s: s, pos: from} }

// Next returns the next record, waiting until there is one. Damaged stretches
// are quarantined, reported ([Spool.Damage]) and passed over. The errors are
// that of ctx, [ErrClosed], or one of the disk; after the latter Next may be
// called again, preferably after a pause, and tries the same place. A place
// that cannot be read several times in a row is treated as damaged.
func (r *Reader) Next(ctx context.Context) (Record, error) {
	for {
		if err := r.await(ctx); err != nil {
			return Record{}, err
		}
		rec, ok, err := r.step()
		if err != nil {
			return Record{}, fmt.Errorf("read spool at %s: %w", r.pos, err)
		}
		if ok {
			return rec, nil
		}
	}
}

// Position returns where the reader stands: the end of the last record that
// Next returned, or behind damage that it passed since.
func (r *Reader) Position() Position { return r.pos }

// Close releases the reader's file. The reader can't be used afterwards.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	f := r.file
	r.file = nil
	return f.Close()
}

// await waits until there is something durable behind r.pos and points r at it.
func (r *Reader) await(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		ready, wait, err := r.look()
		if ready || err != nil {
			return err
		}
		select {
		case <-wait:
		case <-r.s.closedCh:
		case <-ctx.Done():
		}
	}
}

// look finds what is to be read next, or a channel that is closed when there
// may be something.
func (r *Reader) look() (ready bool, wait <-chan struct{}, err error) {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false, nil, ErrClosed
	}
	pos, seg := s.normalize(r.pos)
	if seg == nil || pos.Offset >= seg.end {
		if s.waitCh == nil {
			s.waitCh = make(chan struct{})
		}
		return false, s.waitCh, nil
	}
	if r.seg.number != seg.number || r.sc.off != pos.Offset {
		r.sc.next, r.sc.nextKnown = seg.first, pos.Offset == segmentHeaderSize && seg.firstKnown
		if place, _ := s.normalize(s.confirmed); place == pos {
			r.sc.next, r.sc.nextKnown = s.confirmedAt, true
		}
	}
	r.pos, r.seg = pos, *seg
	return true, nil, nil
}

// step reads one frame or passes one gap.
func (r *Reader) step() (Record, bool, error) {
	if err := r.open(); err != nil {
		return Record{}, false, r.openFailed(err)
	}
	fr, g, err := r.sc.read()
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF) && r.tooShort():
		return Record{}, false, nil // Read what there is.
	case errors.Is(err, io.EOF): // Only in a file that is too short.
		g, err = r.rest("the file is too short"), nil
	}
	if err != nil {
		r.tries++
		r.sc.lossy = r.tries >= readTries
		return Record{}, false, err
	}
	if fr != nil {
		payload, err := decodeBody(r.raw, fr.body, fr.frameHeader)
		if err == nil {
			return r.record(fr, payload), true, nil
		}
		bad := r.sc.badFrame(fr, "record does not decompress: "+err.Error())
		g = &bad
	}
	r.pass(*g)
	return Record{}, false, nil
}

// open points the scanner at r.pos, in the file of that segment.
func (r *Reader) open() error {
	if r.file == nil || r.sc.segment != r.seg.number {
		f, err := r.s.fs.OpenFile(r.s.path(r.seg.number), os.O_RDONLY)
		if err != nil {
			return err
		}
		if r.file != nil {
			_ = r.file.Close() // Only read.
		}
		r.file, r.short = f, -1
		r.sc.src, r.sc.segment, r.sc.buf = f, r.seg.number, r.sc.buf[:0]
		r.sc.salt, r.sc.saltKnown = r.seg.salt, r.seg.saltKnown
	}
	r.sc.verify = true
	r.sc.off, r.sc.limit = r.pos.Offset, r.seg.end
	if r.short >= 0 {
		r.sc.limit = min(r.seg.end, max(r.short, r.pos.Offset))
	}
	r.sc.end, r.sc.endKnown = r.seg.endAt, true
	return nil
}

// tooShort reports whether the file ends before its durable end, and notes where.
func (r *Reader) tooShort() bool {
	size, err := r.file.Size()
	if err != nil || size >= r.seg.end {
		return false
	}
	r.short = size
	return true
}

// rest is a gap from here to the end of the segment.
func (r *Reader) rest(fault string) *gap {
	g := &gap{off: r.pos.Offset, length: r.seg.end - r.pos.Offset, fault: fault}
	if r.sc.nextKnown {
		g.lost, g.counted = r.seg.endAt.minus(r.sc.next), true
	}
	return g
}

// openFailed decides whether a file that cannot be opened is an error to report.
// It is not when the segment was confirmed and deleted meanwhile, nor when the
// file has vanished for good: then its records are reported as damage.
func (r *Reader) openFailed(err error) error {
	r.s.mu.Lock()
	seg := r.s.find(r.seg.number)
	r.s.mu.Unlock()
	if seg == nil || seg.number != r.seg.number {
		return nil
	}
	r.tries++
	if r.tries < readTries || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	r.pass(*r.rest("the segment file has vanished"))
	return nil
}

func (r *Reader) record(fr *frame, payload []byte) Record {
	if fr.codec == codecS2 {
		r.raw = payload // Keep the buffer for the next one.
	}
	start := r.pos
	r.pos.Offset = fr.end()
	r.settled()
	return Record{
		Start: start, End: r.pos, Payload: payload, Events: int(fr.events),
		AppendedAt: time.Unix(0, fr.appendedAt).UTC(),
	}
}

// pass quarantines a gap and steps over it.
func (r *Reader) pass(g gap) {
	r.s.mu.Lock()
	seg := r.s.find(r.seg.number)
	r.s.mu.Unlock()
	if seg == nil || seg.number != r.seg.number {
		seg = &r.seg // Confirmed and deleted meanwhile.
	}
	var src vfs.File
	if r.file != nil && r.sc.segment == r.seg.number {
		src = r.file
	}
	r.s.quarantine(seg, src, g)
	r.pos.Offset = g.off + g.length
	r.settled()
	r.s.pass(Position{r.seg.number, g.off}, r.pos)
}

// settled forgets failed tries: the reader has moved on.
func (r *Reader) settled() { r.tries, r.sc.lossy = 0, false }
