package meter

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/meterd/meterd/internal/killpoint"
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
	// Event is the event as sent (without insignificant white space), if it is JSON; otherwise Raw is what was sent, in
	// the file as base64. Truncated says that only its beginning was kept.
	Event     json.RawMessage `json:"event,omitempty"`
	Raw       []byte          `json:"raw,omitempty"`
	Truncated bool            `json:"truncated,omitempty"`
}

// Body returns what to send again: Event or Raw.
func (l *DeadLetter) Body() []byte {
	if l.Event != nil {
		return l.Event
	}
	return l.Raw
}

// DeadLetterOptions configure [OpenDeadLetters]. Logger is required.
type DeadLetterOptions struct {
	// MaxBytes bounds the file; beyond it refused events are only counted. Zero means 256 MiB. Events that were
	// acknowledged are kept beyond it: they exist nowhere else.
	MaxBytes int64
	Logger   *slog.Logger
}

const (
	defaultDeadLetterBytes = 256 << 20
	maxDeadLetterRaw       = 64 << 10 // of something that isn't JSON
	maxRecentLetters       = 1 << 16  // events recognised when they are refused again and again
)

// DeadLetters is a bounded append-only NDJSON file of refused events, one [DeadLetter] a line. It is safe for concurrent
// use within one process.
type DeadLetters struct {
	path   string
	opts   DeadLetterOptions
	mu     sync.Mutex
	file   *os.File
	size   int64
	nextID uint64
	recent map[uint64]struct{} // digests of letters in the file
	stats  DeadLetterStats
}

// DeadLetterStats are counts.
type DeadLetterStats struct {
	Letters int   // in the file now
	Bytes   int64 // of the file now
	// Acknowledged are those of the letters in the file whose event was acknowledged before the store refused it.
	Acknowledged uint64
	Written      uint64 // since start
	Repeated     uint64 // since start: the same event refused for the same reason again, not written twice
	Dropped      uint64 // since start: not kept because the file is full
	Failed       uint64 // since start: not kept because writing failed
}

// OpenDeadLetters opens or creates the file. A last line that a crash left incomplete is cut off.
func OpenDeadLetters(path string, opts DeadLetterOptions) (*DeadLetters, error) {
	if opts.Logger == nil {
		return nil, errors.New("open dead letters: a logger is required")
	}
	if opts.MaxBytes <= 0 {
		opts.MaxBytes = defaultDeadLetterBytes
	}
	d := &DeadLetters{path: path, opts: opts, recent: map[uint64]struct{}{}}
	if err := d.open(); err != nil {
		return nil, fmt.Errorf("open dead letters: %w", err)
	}
	return d, nil
}

// open opens the file, learns what is in it and repairs its end.
func (d *DeadLetters) open() error {
	file, err := os.OpenFile(d.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	d.file, d.nextID = file, 1
	d.size = 1 << 62 // however long it is
	good, err := d.scan(0, func(l *DeadLetter, _ []byte) bool {
		if l == nil {
			return true
		}
		d.nextID = max(d.nextID, l.ID+1)
		d.remember(letterDigest(l))
		d.stats.Letters++
		d.stats.Acknowledged += one(l.Acknowledged)
		return true
	})
	if err == nil {
		err = d.cutTail(good)
	}
	if err == nil {
		d.nextID, err = d.highest(d.nextID)
	}
	if err == nil {
		err = syncDir(filepath.Dir(d.path))
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	return nil
}

// cutTail removes what a crash left of the last line.
func (d *DeadLetters) cutTail(good int64) error {
	info, err := d.file.Stat()
	if err != nil {
		return err
	}
	d.size = good
	if info.Size() == good {
		return nil
	}
	d.opts.Logger.Warn("dead letters end in an incomplete line, which is cut off", "offset", good, "bytes", info.Size()-good)
	if err := d.file.Truncate(good); err != nil {
		return err
	}
	return d.file.Sync()
}

// scan calls visit for each complete line with a letter after the number given and returns the offset behind the last. A
// complete line that can't be read stays in the file; it is logged and visited as nil. visit returns false to stop.
func (d *DeadLetters) scan(after uint64, visit func(l *DeadLetter, line []byte) bool) (end int64, err error) {
	r := bufio.NewReaderSize(io.NewSectionReader(d.file, 0, d.size), 1<<16)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return end, nil
		}
		if err != nil {
			return end, err
		}
		start := end
		end += int64(len(line))
		if after > 0 && lineID(line) <= after {
			continue
		}
		l := new(DeadLetter)
		if err := json.Unmarshal(line, l); err != nil || l.ID == 0 {
			d.opts.Logger.Warn("dead letter can't be read", "offset", start, "err", err)
			l = nil
		}
		if !visit(l, line) {
			return end, nil
		}
	}
}

// lineID reads the number at the beginning of a line, so that lines that aren't wanted need not be decoded.
func lineID(line []byte) uint64 {
	rest, _ := bytes.CutPrefix(line, []byte(`{"id":`))
	var id uint64
	for _, c := range rest {
		if c < '0' || c > '9' {
			break
		}
		id = id*10 + uint64(c-'0')
	}
	return id
}

// Add writes letters and syncs the file. ID is given here; the caller puts the event into Raw, as it was sent. Letters
// that are in the file already (same event, reason and field) or don't fit are counted instead.
func (d *DeadLetters) Add(letters ...DeadLetter) error {
	var out bytes.Buffer
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == nil {
		d.stats.Failed += uint64(len(letters))
		return fmt.Errorf("add dead letters: %w", os.ErrClosed)
	}
	written, acknowledged := 0, uint64(0)
	var digests []uint64
	id := d.nextID
	for i := range letters {
		l := letters[i]
		l.setBody()
		digest := letterDigest(&l)
		if _, known := d.recent[digest]; known || slices.Contains(digests, digest) {
			d.stats.Repeated++
			continue
		}
		l.ID = id
		before := out.Len()
		if err := encodeLetter(&out, &l); err != nil {
			d.stats.Failed += uint64(len(letters) - i + written) //nolint:gosec // never negative
			return fmt.Errorf("add dead letters: %w", err)
		}
		if !l.Acknowledged && d.size+int64(out.Len()) > d.opts.MaxBytes {
			out.Truncate(before)
			d.stats.Dropped++
			continue
		}
		id++
		written++
		acknowledged += one(l.Acknowledged)
		digests = append(digests, digest)
	}
	if written == 0 {
		return nil
	}
	killpoint.Hit("deadletters.add.before")
	if err := d.write(out.Bytes()); err != nil {
		d.stats.Failed += uint64(written)
		return fmt.Errorf("add dead letters: %w", err)
	}
	killpoint.Hit("deadletters.add.written")
	d.nextID = id
	d.stats.Letters += written
	d.stats.Acknowledged += acknowledged
	d.stats.Written += uint64(written)
	for _, digest := range digests {
		d.remember(digest)
	}
	return nil
}

// one is 1 if yes.
func one(yes bool) uint64 {
	if yes {
		return 1
	}
	return 0
}

// write appends whole lines durably. What a failed write left is cut off again; if that fails, too, the next write
// begins at the same place.
func (d *DeadLetters) write(lines []byte) error {
	_, err := d.file.WriteAt(lines, d.size)
	if err == nil {
		err = d.file.Sync()
	}
	if err != nil {
		return errors.Join(err, d.file.Truncate(d.size))
	}
	d.size += int64(len(lines))
	return nil
}

// setBody moves Raw to Event if it is JSON that fits a line.
func (l *DeadLetter) setBody() {
	if l.Event == nil && json.Valid(l.Raw) {
		l.Event, l.Raw = l.Raw, nil
	}
	if len(l.Raw) > maxDeadLetterRaw && !l.Acknowledged {
		l.Raw, l.Truncated = l.Raw[:maxDeadLetterRaw], true
	}
}

// encodeLetter writes one line. The encoder's HTML escapes are off, so that the event stays readable.
func encodeLetter(out *bytes.Buffer, l *DeadLetter) error {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	return enc.Encode(l)
}

// letterDigest identifies a letter by everything but its number and time.
func letterDigest(l *DeadLetter) uint64 {
	body := l.Body()
	if l.Event != nil {
		var compact bytes.Buffer // as the file has it
		if json.Compact(&compact, l.Event) == nil {
			body = compact.Bytes()
		}
	}
	return digest64([]byte(l.Reason), []byte(l.Field), []byte(l.Meter), body)
}

// remember notes that a letter is in the file. The set is bounded; having forgotten a letter costs a second copy of it.
func (d *DeadLetters) remember(digest uint64) {
	if len(d.recent) >= maxRecentLetters {
		clear(d.recent)
	}
	d.recent[digest] = struct{}{}
}

// List returns up to limit letters with ID > after, oldest first, and the ID to go on after (0: there are no more).
func (d *DeadLetters) List(after uint64, limit int) (letters []DeadLetter, next uint64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == nil {
		return nil, 0, fmt.Errorf("list dead letters: %w", os.ErrClosed)
	}
	_, err = d.scan(after, func(l *DeadLetter, _ []byte) bool {
		if l == nil {
			return true
		}
		if len(letters) >= limit {
			if limit > 0 {
				next = letters[limit-1].ID
			}
			return false
		}
		letters = append(letters, *l)
		return true
	})
	if err != nil {
		return nil, 0, fmt.Errorf("list dead letters: %w", err)
	}
	return letters, next, nil
}

// Get returns the letters with these ids, oldest first; unknown ids are left out.
func (d *DeadLetters) Get(ids ...uint64) ([]DeadLetter, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == nil {
		return nil, fmt.Errorf("get dead letters: %w", os.ErrClosed)
	}
	wanted := idSet(ids)
	var letters []DeadLetter
	_, err := d.scan(0, func(l *DeadLetter, _ []byte) bool {
		if l != nil && wanted[l.ID] {
			letters = append(letters, *l)
		}
		return len(letters) < len(wanted)
	})
	if err != nil {
		return nil, fmt.Errorf("get dead letters: %w", err)
	}
	return letters, nil
}

func idSet(ids []uint64) map[uint64]bool {
	set := make(map[uint64]bool, len(ids))
	for _, id := range ids {
		set[id] = true
	}
	return set
}

// Close closes the file. Everything in it is on disk already.
func (d *DeadLetters) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == nil {
		return nil
	}
	err := d.file.Close()
	d.file = nil
	if err != nil {
		return fmt.Errorf("close dead letters: %w", err)
	}
	return nil
}

// Stats returns the counts.
func (d *DeadLetters) Stats() DeadLetterStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.stats
	s.Bytes = d.size
	return s
}
