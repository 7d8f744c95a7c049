package spool

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Position is a place between two records: the byte offset Offset in segment
// file number Segment. Positions grow with every append and are never used
// twice in the life of a spool directory. Positions are comparable with ==.
// The zero value lies before every record.
type Position struct {
	// Segment is the number of the segment file, from 1.
	Segment uint64
	// Offset is in bytes from the start of the file.
	Offset int64
}

// Compare returns -1, 0 or +1 as p lies before, at or after q.
func (p Position) Compare(q Position) int {
	if c := cmp.Compare(p.Segment, q.Segment); c != 0 {
		return c
	}
	return cmp.Compare(p.Offset, q.Offset)
}

// Before reports whether p lies before q.
func (p Position) Before(q Position) bool { return p.Compare(q) < 0 }

// IsZero reports whether p is the zero position, before every record.
func (p Position) IsZero() bool { return p == Position{} }

// String returns the position as "segment:offset", which [ParsePosition] reads.
func (p Position) String() string {
	return strconv.FormatUint(p.Segment, 10) + ":" + strconv.FormatInt(p.Offset, 10)
}

// ParsePosition reads the form that [Position.String] writes, such as "12:4096".
func ParsePosition(s string) (Position, error) {
	seg, off, ok := strings.Cut(s, ":")
	if !ok {
		return Position{}, fmt.Errorf("parse position %q: want segment:offset, such as 12:4096", s)
	}
	n, err := strconv.ParseUint(seg, 10, 64)
	if err != nil {
		return Position{}, fmt.Errorf("parse position %q: segment: %w", s, err)
	}
	o, err := strconv.ParseUint(off, 10, 63)
	if err != nil {
		return Position{}, fmt.Errorf("parse position %q: offset: %w", s, err)
	}
	return Position{Segment: n, Offset: int64(o)}, nil
}
