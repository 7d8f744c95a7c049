package meter

import (
	"encoding/json"
	"log/slog"
	"time"
)

// DeadLetter is one refused event.
type DeadLetter struct {
	ID         uint64    `json:"id"` // increases with every letter, never reused
	ReceivedAt time.Time `json:"received_at"`
	Reason     Reason    `json:"reason"`
	Field      string    `json:"field,omitempty"`
	Meter      string    `json:"meter,omitempty"`
	Detail     string    `json:"detail"`
	// Acknowledged says that the sender believes the event is counted: the store refused it after it was accepted.
	Acknowledged bool `json:"acknowledged,omitempty"`
	// Event is the event as sent, if it is JSON; Raw is what was sent, otherwise.
	Event json.RawMessage `json:"event,omitempty"`
	Raw   []byte          `json:"raw,omitempty"`
}

// DeadLetterOptions configure [OpenDeadLetters]. Logger is required.
type DeadLetterOptions struct {
	MaxBytes int64 // bound of the file; beyond it refused events are only counted
	Logger   *slog.Logger
}

// DeadLetters is a bounded append-only NDJSON file of refused events. It is safe for concurrent use.
type DeadLetters struct{}

// OpenDeadLetters opens or creates the file and drops a torn last line.
func OpenDeadLetters(path string, opts DeadLetterOptions) (*DeadLetters, error) {
	return nil, errNotImplemented
}

// List returns up to limit letters with ID > after, oldest first, and the last ID of the page (0: no more).
func (d *DeadLetters) List(after uint64, limit int) (letters []DeadLetter, next uint64, err error) {
	return nil, 0, errNotImplemented
}

// Get returns the letters with these ids; unknown ids are left out.
func (d *DeadLetters) Get(ids ...uint64) ([]DeadLetter, error) { return nil, errNotImplemented }

// Remove takes letters out after they were replayed or given up, by an atomic rewrite of the file. It returns how many
// there were.
func (d *DeadLetters) Remove(ids ...uint64) (int, error) { return 0, errNotImplemented }

// Close closes the file.
func (d *DeadLetters) Close() error { return nil }

// DeadLetterStats are counts.
type DeadLetterStats struct {
	Letters  int    // in the file now
	Bytes    int64  // of the file now
	Written  uint64 // since start
	Repeated uint64 // since start: the same event refused for the same reason again, not written twice
	Dropped  uint64 // since start: not kept because the file is full
	Failed   uint64 // since start: not kept because writing failed
}

// Stats returns the counts.
func (d *DeadLetters) Stats() DeadLetterStats { return DeadLetterStats{} }
