package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

const (
	scanWindow = 256 << 10 // Read-ahead when bodies are read too.
	walkWindow = 16 << 10  // Read-ahead when only headers are read.
	lossyBlock = 4 << 10   // What is given up at once where the disk cannot read.
)

// frame is one whole record as it stands in a segment.
type frame struct {
	frameHeader
	off  int64
	body []byte // As stored; valid until the scanner moves. nil when only headers are read.
}

func (f frame) end() int64 { return f.off + f.size() }

// gap is a stretch of a segment that holds no readable record.
type gap struct {
	off, length int64
	fault       string
	lost        counters // What was in it.
	counted     bool     // Whether lost is known.
}

// scanner reads frames from part of a segment and steps over damage: after a
// frame whose body is damaged it goes on behind that frame, and where a header
// is damaged it looks for the next header. It never panics, whatever the bytes.
type scanner struct {
	src     io.ReaderAt
	segment uint64
	off     int64 // Next byte to look at.
	limit   int64 // Where to stop; never past the end of the file.
	verify  bool  // Read and check bodies as well as headers.
	lossy   bool  // Take unreadable blocks for zeros instead of failing.

	salt      uint32
	saltKnown bool
	// next is what the next frame should be numbered, if nextKnown; end is
	// what the frame behind limit would be numbered, if endKnown.
	next, end           counters
	nextKnown, endKnown bool

	blind  bool   // Some block could not be read and was taken for zeros.
	buf    []byte // Window onto the file.
	bufOff int64
}

// read returns the next frame or the next gap (one of them is not nil), and
// io.EOF at the limit. Other errors come from the file; read may be called
// again and then tries the same place.
func (sc *scanner) read() (*frame, *gap, error) {
	if sc.off >= sc.limit {
		return nil, nil, io.EOF
	}
	h, fault, err := sc.header(sc.off)
	if err != nil {
		return nil, nil, err
	}
	if fault != "" {
		return sc.skip(fault)
	}
	fr := &frame{frameHeader: h, off: sc.off}
	if sc.verify {
		if fr.body, err = sc.peek(sc.off+frameHeaderSize, int(h.stored)); err != nil {
			return nil, nil, err
		}
		if crc32.Checksum(fr.body, castagnoli) != h.bodyCRC {
			g := sc.badFrame(fr, "record checksum does not match")
			return nil, &g, nil
		}
	}
	sc.advance(fr)
	return fr, nil, nil
}

func (sc *scanner) advance(fr *frame) {
	sc.off = fr.end()
	sc.next, sc.nextKnown = fr.after(), true
}

// badFrame steps over a frame whose header is good and whose body is not.
func (sc *scanner) badFrame(fr *frame, fault string) gap {
	sc.advance(fr)
	return gap{
		off: fr.off, length: fr.size(), fault: fault,
		lost: counters{1, uint64(fr.events)}, counted: true,
	}
}

// skip steps from a place where no header can be read to the next header.
func (sc *scanner) skip(fault string) (*frame, *gap, error) {
	to, h, found, err := sc.resync(sc.off + 1)
	if err != nil {
		return nil, nil, err
	}
	g := &gap{off: sc.off, length: to - sc.off, fault: fault}
	switch {
	case found && sc.nextKnown:
		g.lost, g.counted = h.before.minus(sc.next), true
	case !found && sc.nextKnown && sc.endKnown:
		g.lost, g.counted = sc.end.minus(sc.next), true
	}
	if found {
		sc.next, sc.nextKnown = h.before, true
	} else {
		sc.next, sc.nextKnown = sc.end, sc.endKnown
	}
	sc.off = to
	return nil, g, nil
}

// resync finds the first readable header at or after off.
func (sc *scanner) resync(off int64) (at int64, h frameHeader, found bool, err error) {
	pattern := []byte(frameMagic)
	if sc.saltKnown {
		pattern = binary.LittleEndian.AppendUint32(pattern, sc.salt)
	}
	for sc.limit-off >= frameHeaderSize {
		w, err := sc.peek(off, int(min(scanWindow, sc.limit-off)))
		if err != nil {
			return 0, h, false, err
		}
		i := bytes.Index(w, pattern)
		if i < 0 {
			off += int64(len(w) - len(pattern) + 1)
			continue
		}
		off += int64(i)
		h, fault, err := sc.header(off)
		if err != nil {
			return 0, h, false, err
		}
		if fault == "" {
			return off, h, true, nil
		}
		off++
	}
	return sc.limit, h, false, nil
}

// header reads the frame header at off. The first good one teaches the scanner
// the salt, when the segment's own header is lost.
func (sc *scanner) header(off int64) (h frameHeader, fault string, err error) {
	b, err := sc.peek(off, int(min(frameHeaderSize, sc.limit-off)))
	if err != nil {
		return h, "", err
	}
	h, fault = parseFrameHeader(b, Position{Segment: sc.segment, Offset: off})
	switch {
	case fault != "":
		return h, fault, nil
	case sc.saltKnown && h.salt != sc.salt:
		return h, "record belongs to another segment", nil
	case off+h.size() > sc.limit:
		return h, "record runs past the end of the data", nil
	}
	sc.salt, sc.saltKnown = h.salt, true
	return h, "", nil
}

// peek returns n bytes at off, which must lie before the limit. They are valid
// until the next peek.
func (sc *scanner) peek(off int64, n int) ([]byte, error) {
	if off >= sc.bufOff && off+int64(n) <= sc.bufOff+int64(len(sc.buf)) {
		i := int(off - sc.bufOff)
		return sc.buf[i : i+n : i+n], nil
	}
	window := scanWindow
	if !sc.verify {
		window = walkWindow
	}
	size := max(n, int(min(int64(window), sc.limit-off)))
	if cap(sc.buf) < size {
		sc.buf = make([]byte, max(size, window))
	}
	sc.buf, sc.bufOff = sc.buf[:size], off
	blind, err := readFull(sc.src, sc.buf, off, sc.lossy)
	if err != nil {
		sc.buf = sc.buf[:0]
		return nil, err
	}
	sc.blind = sc.blind || blind
	return sc.buf[:n:n], nil
}

// readFull fills b from off. With lossy, blocks that the disk cannot read
// become zeros, which no checksum accepts, and blind says that there were any.
func readFull(src io.ReaderAt, b []byte, off int64, lossy bool) (blind bool, err error) {
	n, err := src.ReadAt(b, off)
	switch {
	case n == len(b):
		return false, nil
	case !lossy && errors.Is(err, io.EOF):
		return false, io.ErrUnexpectedEOF
	case !lossy:
		return false, err
	}
	for len(b) > 0 {
		block := b[:min(len(b), lossyBlock-int(off%lossyBlock))]
		if n, err := src.ReadAt(block, off); n < len(block) {
			clear(block[n:])
			blind = blind || !errors.Is(err, io.EOF)
		}
		b, off = b[len(block):], off+int64(len(block))
	}
	return blind, nil
}
