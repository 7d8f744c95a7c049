package spool

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"testing"
	"time"

	"github.com/meterd/meterd/meter/spool/internal/vfs"
)

// Sizes of the format, for tests that damage files.
const (
	SegmentHeaderSize = segmentHeaderSize
	FrameHeaderSize   = frameHeaderSize
)

// OpenFS is Open on a file system of the test's choice.
func OpenFS(o Options, fsys vfs.FS) (*Spool, error) { return openFS(o, fsys) }

// SegmentName returns the file name of a segment.
func SegmentName(n uint64) string { return segmentName(n) }

// ParseCheckpoint reports whether b is a checkpoint, and how it is written.
func ParseCheckpoint(b []byte) ([]byte, error) {
	c, err := parseCheckpoint(b)
	return c.encode(), err
}

// BuildSegment returns the bytes of segment number with the payloads, one
// record each, and where each record ends.
func BuildSegment(tb testing.TB, number uint64, salt uint32, payloads ...[]byte) (b []byte, ends []int64) {
	tb.Helper()
	b = segmentHeader{salt: salt, number: number}.encode()
	var at counters
	for _, p := range payloads {
		r := newRequest(p, 1, time.Unix(0, 0))
		r.header.salt, r.header.before, r.header.group = salt, at, uint32(len(b))
		r.header.put(r.frame, Position{number, int64(len(b))})
		b = append(b, r.frame...)
		at = r.header.after()
		ends = append(ends, int64(len(b)))
	}
	return b, ends
}

// Scan reads the bytes of segment number as a reader would and returns the
// payloads and the bytes covered by gaps.
func Scan(tb testing.TB, src io.ReaderAt, size int64, number uint64) (payloads [][]byte, ends []int64, gaps int64) {
	tb.Helper()
	sc := scanner{src: src, segment: number, off: segmentHeaderSize, limit: size, verify: true}
	b := make([]byte, segmentHeaderSize)
	if _, err := readFull(src, b, 0, true); err == nil {
		if h, err := parseSegmentHeader(b, number); err == nil {
			sc.salt, sc.saltKnown = h.salt, true
		}
	}
	for {
		fr, g, err := sc.read()
		switch {
		case err == io.EOF: //nolint:errorlint // The scanner returns it bare.
			return payloads, ends, gaps
		case err != nil:
			tb.Fatalf("scan: %v", err)
		case g != nil:
			gaps += g.length
			continue
		}
		p, err := decodeBody(nil, fr.body, fr.frameHeader)
		if err != nil {
			bad := sc.badFrame(fr, err.Error())
			gaps += bad.length
			continue
		}
		payloads, ends = append(payloads, append([]byte{}, p...)), append(ends, fr.end())
	}
}

// SetVersion returns an edit that changes the format version in a segment's
// header and mends the header's checksum.
func SetVersion(v uint16) func([]byte) []byte {
	return func(b []byte) []byte {
		binary.LittleEndian.PutUint16(b[8:], v)
		binary.LittleEndian.PutUint32(b[68:], crc32.Checksum(b[:68], castagnoli))
		return b
	}
}
