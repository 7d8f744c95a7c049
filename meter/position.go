package meter

// Position is a place in the spool, opaque to everybody but the spool. Positions are ordered.
type Position struct {
	Segment uint64
	Offset  int64
}
