package spool

import "time"

// Stats is a snapshot of a spool's counters and levels. Counters begin at zero
// at [Open].
type Stats struct {
	// UnconfirmedBytes are on disk and wait for the consumer, QueuedBytes wait
	// for the disk; together they may not exceed CapacityBytes.
	UnconfirmedBytes, QueuedBytes, CapacityBytes int64
	// DiskBytes is the size of all segment files up to their durable ends.
	DiskBytes int64
	// Segments is the number of segment files.
	Segments int
	// UnconfirmedRecords and UnconfirmedEvents are durable and not confirmed,
	// by their numbering: damaged ones count until the consumer confirms past them.
	UnconfirmedRecords, UnconfirmedEvents int64
	// OldestUnconfirmedAt is when the first of them was appended; zero if none.
	OldestUnconfirmedAt time.Time
	// Confirmed and Durable are the two ends of the unconfirmed records.
	Confirmed, Durable Position

	// Records, Events, PayloadBytes and StoredBytes were made durable:
	// PayloadBytes before compression, StoredBytes as written.
	Records, Events, PayloadBytes, StoredBytes int64
	// Syncs is how many groups that took, SyncTime the time in their syncs.
	Syncs    int64
	SyncTime time.Duration
	// FailedCommits counts groups that the disk refused. Failing says that the
	// last one was; LastError and LastErrorAt tell of the latest.
	FailedCommits int64
	Failing       bool
	LastError     error
	LastErrorAt   time.Time
	// FullRefusals counts appends refused with [ErrFull].
	FullRefusals int64
	// DamagedRanges, DamagedBytes, LostRecords and LostEvents count damage
	// found for the first time, at Open or by a reader.
	DamagedRanges, DamagedBytes, LostRecords, LostEvents int64
	// TornBytes were cut off by Open.
	TornBytes int64
}

// Stats returns the present counters and levels. It is cheap.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.UnconfirmedBytes = s.unconfirmed
	st.QueuedBytes = s.pending
	st.CapacityBytes = s.opts.MaxBytes
	st.Segments = len(s.segments)
	for _, seg := range s.segments {
		st.DiskBytes += seg.end
	}
	left := s.durableAt.minus(s.confirmedAt)
	st.UnconfirmedRecords, st.UnconfirmedEvents = clampInt(left.records), clampInt(left.events)
	st.OldestUnconfirmedAt = s.oldest
	st.Confirmed, st.Durable = s.confirmed, s.durable
	st.TornBytes = s.recovery.TornBytes
	return st
}

// Recovery tells what [Open] found and did; it does not change afterwards.
func (s *Spool) Recovery() Recovery { return s.recovery }
