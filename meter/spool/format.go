package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"
	"strings"

	"github.com/klauspost/compress/s2"
)

// Sizes and marks of format version 1; docs/formats/spool.md has the tables.
const (
	formatVersion     = 1
	segmentHeaderSize = 72
	frameHeaderSize   = 60

	segmentMagic = "METERSPL"
	frameMagic   = "\x9emSf"

	segmentSuffix = ".seg"

	// maxRawBytes refuses a header that asks for an absurd buffer.
	maxRawBytes = maxSegmentBytes
	// compressFrom is the smallest payload worth compressing: a single event
	// of ~215 bytes does not shrink at all, ten of them shrink to half.
	compressFrom = 512
)

// codec says how the body of a frame is stored.
type codec uint8

const (
	codecNone codec = 0 // The payload as it is.
	codecS2   codec = 1 // One S2 block (no framing); the frame's CRC covers the block.
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// counters number records and events from the birth of the spool directory.
// They are carried in every header, so that a hole in the data tells exactly
// how much was in it.
type counters struct{ records, events uint64 }

// minus returns what lies between d and c, and zero where d is ahead, which
// only adopted records of a failed commit can cause.
func (c counters) minus(d counters) counters {
	if c.records < d.records || c.events < d.events {
		return counters{}
	}
	return counters{c.records - d.records, c.events - d.events}
}

// segmentHeader begins every segment file.
type segmentHeader struct {
	salt      uint32 // Random; repeated in every frame of the segment.
	number    uint64 // As in the file name.
	createdAt int64  // Unix nanoseconds.
	prev      Position
	before    counters // What all earlier segments held.
}

func (h segmentHeader) encode() []byte {
	b := make([]byte, segmentHeaderSize)
	le := binary.LittleEndian
	copy(b, segmentMagic)
	le.PutUint16(b[8:], formatVersion)
	le.PutUint32(b[12:], h.salt)
	le.PutUint64(b[16:], h.number)
	putInt64(b[24:], h.createdAt)
	le.PutUint64(b[32:], h.prev.Segment)
	putInt64(b[40:], h.prev.Offset)
	le.PutUint64(b[48:], h.before.records)
	le.PutUint64(b[56:], h.before.events)
	le.PutUint32(b[68:], crc32.Checksum(b[:68], castagnoli))
	return b
}

// errBadHeader says that a segment header cannot be used; the frames behind it
// are found without it.
var errBadHeader = errors.New("segment header is damaged")

func parseSegmentHeader(b []byte, number uint64) (segmentHeader, error) {
	le := binary.LittleEndian
	if len(b) < segmentHeaderSize || string(b[:8]) != segmentMagic ||
		le.Uint32(b[68:]) != crc32.Checksum(b[:68], castagnoli) {
		return segmentHeader{}, errBadHeader
	}
	if v := le.Uint16(b[8:]); v != formatVersion {
		return segmentHeader{}, fmt.Errorf("%w %d (this program reads %d)", ErrVersion, v, formatVersion)
	}
	h := segmentHeader{
		salt:      le.Uint32(b[12:]),
		number:    le.Uint64(b[16:]),
		createdAt: getInt64(b[24:]),
		prev:      Position{Segment: le.Uint64(b[32:]), Offset: getInt64(b[40:])},
		before:    counters{le.Uint64(b[48:]), le.Uint64(b[56:])},
	}
	if h.number != number || h.prev.Offset < 0 {
		return segmentHeader{}, fmt.Errorf("%w: it says number %d, behind %s", errBadHeader, h.number, h.prev)
	}
	return h, nil
}

// frameHeader stands before each record's body.
type frameHeader struct {
	salt       uint32
	before     counters // What the spool held before this record.
	appendedAt int64    // Unix nanoseconds.
	events     uint32
	stored     uint32 // Bytes of the body in the file.
	raw        uint32 // Bytes of the payload.
	group      uint32 // Where the group began: all before it was durable when this was written.
	codec      codec
	bodyCRC    uint32
}

func (h frameHeader) size() int64 { return frameHeaderSize + int64(h.stored) }

func (h frameHeader) after() counters {
	return counters{h.before.records + 1, h.before.events + uint64(h.events)}
}

// put writes the header into b. The checksum also covers the place of the
// frame, so that the image of a frame inside a payload, or a block of another
// file that surfaces after a crash, is not taken for a record.
func (h frameHeader) put(b []byte, at Position) {
	le := binary.LittleEndian
	copy(b, frameMagic)
	le.PutUint32(b[4:], h.salt)
	le.PutUint64(b[8:], h.before.records)
	le.PutUint64(b[16:], h.before.events)
	putInt64(b[24:], h.appendedAt)
	le.PutUint32(b[32:], h.events)
	le.PutUint32(b[36:], h.stored)
	le.PutUint32(b[40:], h.raw)
	le.PutUint32(b[44:], h.group)
	le.PutUint32(b[48:], uint32(h.codec)) // One byte used, three zero.
	le.PutUint32(b[52:], h.bodyCRC)
	le.PutUint32(b[56:], frameCRC(b, at))
}

func frameCRC(b []byte, at Position) uint32 {
	var place [16]byte
	binary.LittleEndian.PutUint64(place[:], at.Segment)
	putInt64(place[8:], at.Offset)
	return crc32.Update(crc32.Checksum(place[:], castagnoli), castagnoli, b[:56])
}

// parseFrameHeader reads a header that was written for the place at. The
// second result says what is wrong, and is empty when nothing is.
func parseFrameHeader(b []byte, at Position) (h frameHeader, fault string) {
	le := binary.LittleEndian
	switch {
	case len(b) < frameHeaderSize:
		return h, "too short for a record header"
	case string(b[:4]) != frameMagic:
		return h, "no record begins here"
	case le.Uint32(b[56:]) != frameCRC(b, at):
		return h, "record header checksum does not match"
	}
	h = frameHeader{
		salt:       le.Uint32(b[4:]),
		before:     counters{le.Uint64(b[8:]), le.Uint64(b[16:])},
		appendedAt: getInt64(b[24:]),
		events:     le.Uint32(b[32:]),
		stored:     le.Uint32(b[36:]),
		raw:        le.Uint32(b[40:]),
		group:      le.Uint32(b[44:]),
		codec:      codec(min(le.Uint32(b[48:]), math.MaxUint8)),
		bodyCRC:    le.Uint32(b[52:]),
	}
	if h.codec > codecS2 || h.raw > maxRawBytes || (h.codec == codecNone && h.raw != h.stored) {
		return h, "record header makes no sense"
	}
	return h, ""
}

// encodeBody appends the stored form of payload to dst: compressed if that
// saves at least an eighth.
func encodeBody(dst, payload []byte) ([]byte, codec) {
	n := len(dst)
	if len(payload) >= compressFrom {
		bound := s2.MaxEncodedLen(len(payload))
		if cap(dst)-n < bound {
			dst = append(make([]byte, 0, n+bound), dst...)
		}
		body := s2.Encode(dst[n:n+bound], payload)
		if len(body) <= len(payload)-len(payload)/8 {
			return dst[:n+len(body)], codecS2
		}
	}
	return append(dst, payload...), codecNone
}

// decodeBody returns the payload of a frame, in dst's memory if it was
// compressed, else in body's.
func decodeBody(dst, body []byte, h frameHeader) ([]byte, error) {
	if h.codec == codecNone {
		return body, nil
	}
	n, err := s2.DecodedLen(body)
	if err != nil {
		return nil, err
	}
	if n != int(h.raw) {
		return nil, fmt.Errorf("holds %d bytes, the header says %d", n, h.raw)
	}
	if cap(dst) < n {
		dst = make([]byte, n)
	}
	return s2.Decode(dst[:n], body)
}

func putInt64(b []byte, v int64) {
	binary.LittleEndian.PutUint64(b, uint64(v)) //nolint:gosec // Two's complement, as getInt64 reads it.
}

func getInt64(b []byte) int64 {
	return int64(binary.LittleEndian.Uint64(b)) //nolint:gosec // Two's complement, as putInt64 writes it.
}

// u32 narrows a number that the caller has bounded: a length or an offset
// within a segment, or a number of events that admit let through.
func u32(n int) uint32 {
	return uint32(n) //nolint:gosec // Bounded by the callers.
}

func segmentName(n uint64) string { return fmt.Sprintf("%020d", n) + segmentSuffix }

// parseSegmentName returns the number in a segment's file name.
func parseSegmentName(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil && n > 0
}
