package spool

import "errors"

// Errors that a caller branches on, found with errors.Is. Any other error of
// [Spool.Append] comes from the disk (it wraps the system's error, such as
// ENOSPC or EIO): nothing was acknowledged and the caller should be told to
// come back.
var (
	// ErrFull is returned by [Spool.Append] when the record would take the
	// unconfirmed bytes past the bound. Nothing was written; space returns
	// when the consumer confirms.
	ErrFull = errors.New("spool is full")
	// ErrClosed is returned after [Spool.Close]. Nothing was written.
	ErrClosed = errors.New("spool is closed")
	// ErrTooLarge is returned for a payload above Options.MaxRecordBytes.
	// Nothing was written, and trying again cannot help.
	ErrTooLarge = errors.New("record is too large")
	// ErrUncertain accompanies an error of [Spool.Append] when the record may
	// be on disk all the same and be delivered later: the caller's context
	// ended while its group was being written, or the write or sync failed
	// half way. The record is not acknowledged, so it must be sent again; the
	// consumer must therefore recognise a record that it gets twice.
	ErrUncertain = errors.New("outcome unknown, the record may still be delivered")
	// ErrLocked is returned by [Open] when another process, or another Spool
	// in this process, has the directory open.
	ErrLocked = errors.New("spool directory is in use")
	// ErrVersion is returned by [Open] when a segment was written by a later
	// version of the format. Nothing was touched.
	ErrVersion = errors.New("unknown spool format version")
)
