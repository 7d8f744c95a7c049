package sandbox

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"strconv"
	"syscall"
	"time"
)

// The state log is a text file of lines "crc32c json\n": the checksum of the JSON in 8 hex digits, a space, one
// event. Events are only appended, and always before the answer that depends on them. A line cut short at the end of
// the file is an answer never given: it is removed on opening. Other damage stops the opening with the line's offset.

// stateVersion is the version of the log's format, in its first line.
const stateVersion = 1

// Kinds of events.
const (
	eventOpen      = "open"
	eventUpload    = "upload"
	eventVerdicts  = "verdicts"
	eventCollect   = "collect"
	eventInstances = "instances"
	eventClock     = "clock"
)

// seqRange is an inclusive range of record numbers.
type seqRange [2]int64

// event is one line of the log.
type event struct {
	Kind    string    `json:"kind"`
	At      time.Time `json:"at"`
	Version int       `json:"version,omitempty"`

	// Of an upload.
	First  int64         `json:"first,omitempty"`
	Seller string        `json:"seller,omitempty"`
	API    API           `json:"api,omitempty"`
	Form   SignatureForm `json:"form,omitempty"`
	Nonce  string        `json:"nonce,omitempty"`
	TS     int64         `json:"ts,omitempty"`
	Usage  []usage       `json:"usage,omitempty"`

	// Of verdicts (and of an upload whose answer already named abnormal records) and of a collection.
	Good     []seqRange            `json:"good,omitempty"`
	Abnormal map[string][]seqRange `json:"abnormal,omitempty"`

	Instances []Instance `json:"instances,omitempty"`
	Offset    Duration   `json:"offset,omitempty"`
}

// addSeq appends a number to ranges, numbers ascending.
func addSeq(ranges []seqRange, seq int64) []seqRange {
	if n := len(ranges); n > 0 && ranges[n-1][1]+1 == seq {
		ranges[n-1][1] = seq
		return ranges
	}
	return append(ranges, seqRange{seq, seq})
}

// stateLog is the open log file. The nil log keeps nothing.
type stateLog struct {
	file *os.File
	sync bool
}

// openStateLog opens or creates the file, gives every event in it to apply, and locks it against a second sandbox.
func openStateLog(path string, sync bool, logger *slog.Logger, apply func(event) error) (*stateLog, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600) // #nosec G304 -- the operator names the file.
	if err != nil {
		return nil, fmt.Errorf("open state log: %w", err)
	}
	// A device or a pipe could be endless to read.
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("open state log: %s is not a regular file", path), err, file.Close())
	}
	l := &stateLog{file: file, sync: sync}
	if err := l.load(logger, apply); err != nil {
		return nil, errors.Join(fmt.Errorf("state log %s: %w", path, err), file.Close())
	}
	return l, nil
}

// load locks the file, reads it, and cuts a torn end.
func (l *stateLog) load(logger *slog.Logger, apply func(event) error) error {
	if err := syscall.Flock(int(l.file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { // #nosec G115 -- a file descriptor is small.
		return fmt.Errorf("another sandbox uses this file: %w", err)
	}
	good, size, err := replay(l.file, apply)
	if err != nil {
		return err
	}
	if good < size {
		logger.Warn("cut a torn line off the state log", "offset", good, "bytes", size-good)
		if err := l.file.Truncate(good); err != nil {
			return fmt.Errorf("cut a torn line: %w", err)
		}
	}
	return nil
}

// replay applies every whole line. It returns the offset behind the last good line and the file's size; they differ
// where the file ends in a torn line, which is one without its newline.
func replay(file io.Reader, apply func(event) error) (good, size int64, err error) {
	reader := bufio.NewReaderSize(file, 1<<20)
	for {
		line, readErr := readLine(reader)
		if readErr != nil && !errors.Is(readErr, io.EOF) {
			return good, size, fmt.Errorf("read at offset %d: %w", good, readErr)
		}
		size += int64(len(line))
		switch {
		case readErr != nil && len(line) == 0:
			return good, size, nil
		case readErr != nil && good > 0:
			return good, size, nil
		}
		ev, err := decodeLine(line)
		if err != nil {
			return good, size, fmt.Errorf("damaged at offset %d: %w; move the file away to start afresh", good, err)
		}
		if good == 0 && (ev.Kind != eventOpen || ev.Version != stateVersion) {
			return good, size, fmt.Errorf("not a state log of version %d; move the file away to start afresh", stateVersion)
		}
		if err := apply(ev); err != nil {
			return good, size, fmt.Errorf("event at offset %d: %w", good, err)
		}
		good = size
	}
}

// maxStateLine bounds a line in bytes. The longest is a declaration of as many instances as one request may hold.
const maxStateLine = 4 * maxAdminBody

// readLine reads up to and including the next newline, or to the end of the file with io.EOF.
func readLine(reader *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := reader.ReadSlice('\n')
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
		if len(line) > maxStateLine {
			return nil, fmt.Errorf("a line has more than %d bytes; this is no state log", maxStateLine)
		}
	}
}

// checksumDigits is the length of the checksum in front of a line's JSON.
const checksumDigits = 8

// decodeLine checks and reads one line.
func decodeLine(line []byte) (event, error) {
	var ev event
	line = bytes.TrimSuffix(line, []byte("\n"))
	if len(line) <= checksumDigits || line[checksumDigits] != ' ' {
		return ev, errors.New("not a line of a state log")
	}
	body := line[checksumDigits+1:]
	want, err := strconv.ParseUint(string(line[:checksumDigits]), 16, 32)
	if err != nil || uint32(want) != checksum(body) { // #nosec G115 -- parsed with 32 bits.
		return ev, errors.New("the checksum does not match")
	}
	if err := json.Unmarshal(body, &ev); err != nil {
		return ev, fmt.Errorf("decode event: %w", err)
	}
	return ev, nil
}

// checksum is the CRC-32C of a line's JSON.
func checksum(body []byte) uint32 { return crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) }

// append writes one event in a single write. After an error the file's end is uncertain and nothing may follow.
func (l *stateLog) append(ev event) error {
	if l == nil {
		return nil
	}
	body, err := json.Marshal(ev)
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	line := make([]byte, 0, len(body)+checksumDigits+2)
	line = fmt.Appendf(line, "%08x ", checksum(body))
	line = append(append(line, body...), '\n')
	if _, err := l.file.Write(line); err != nil {
		return fmt.Errorf("append to state log: %w", err)
	}
	if l.sync {
		if err := l.file.Sync(); err != nil {
			return fmt.Errorf("sync state log: %w", err)
		}
	}
	return nil
}

// restart empties the file.
func (l *stateLog) restart(at time.Time) error {
	if l == nil {
		return nil
	}
	if err := l.file.Truncate(0); err != nil {
		return fmt.Errorf("empty state log: %w", err)
	}
	return l.append(event{Kind: eventOpen, At: at, Version: stateVersion})
}

// close closes the file, which also unlocks it.
func (l *stateLog) close() error {
	if l == nil {
		return nil
	}
	if err := l.file.Close(); err != nil {
		return fmt.Errorf("close state log: %w", err)
	}
	return nil
}
