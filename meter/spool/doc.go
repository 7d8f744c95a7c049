// Package spool keeps records on disk until a consumer has dealt with them.
//
// It stands between accepting usage events and storing them: [Spool.Append]
// returns once a record has been synced to disk, so that an event can be
// acknowledged, and a [Reader] hands the records on, in order, to a consumer
// that confirms them with [Spool.Confirm] when they are stored elsewhere.
//
// # Guarantees
//
//   - A record whose Append succeeded is delivered after any crash of the
//     process or the machine, until it is confirmed. Only damage of the disk
//     itself can cost records; it is found by checksums, reported with place and
//     number of records lost ([Spool.Damage]), and copied to a quarantine
//     directory. It never costs the records behind it.
//   - Delivery is at least once: a crash between the consumer's work and
//     Confirm, a lost checkpoint, or an Append that failed with [ErrUncertain]
//     can deliver a record twice. The consumer must be idempotent.
//   - Nothing is dropped for want of space: Append fails with [ErrFull].
//
// # How it works
//
// Callers of Append build their record (copy, compression, checksum) on their
// own goroutine and queue it. One goroutine takes what is queued, writes it in
// one piece and syncs once; meanwhile the next group gathers. A segment file
// that is full is followed by another; files that are wholly confirmed are
// deleted. The confirmed position is in a small file that is replaced
// atomically.
//
// A failed write or sync fails the appends of its group, and nothing of it is
// shown to readers. After a failed sync the file is given up at its last
// durable byte, because the page cache may claim later that lost pages are
// clean; the next group begins a new file. So the spool works again as soon as
// the disk does.
//
// # Format
//
// A directory holds numbered segment files, the checkpoint, a lock file and
// the quarantine:
//
//	00000000000000000007.seg     segment header, then frames
//	checkpoint                   text: confirmed and durable position, checksum
//	lock                         flock; the holder's process number
//	quarantine/…-damaged.bin     copies of unreadable stretches
//	quarantine/…-torn.bin        copies of cut-off ends
//	quarantine/…-missing.txt     notes of data that is gone
//
// A frame is a header of 60 bytes and a body, the payload or one S2 block:
//
//	 0  4  magic 9e 'm' 'S' 'f'      32  4  events in the record
//	 4  4  the segment's random salt 36  4  bytes of the body
//	 8  8  records before this one   40  4  bytes of the payload
//	16  8  events before this one    44  4  offset where its group began
//	24  8  appended at, unix ns      48  4  codec: 0 none, 1 S2
//	                                 52  4  CRC32C of the body
//	                                 56  4  CRC32C of segment, offset, bytes 0–55
//
// The length has a checksum of its own, so a damaged body costs exactly its
// record; where a header is damaged, magic and salt lead to the next one. The
// running numbers tell how much a damaged stretch held. docs/formats/spool.md
// has the whole format, and docs/adr/0003-spool-format.md the reasons.
package spool
