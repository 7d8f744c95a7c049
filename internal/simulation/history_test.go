package simulation_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
	"time"
)

// keptLines is how much of a history is shown when a seed fails.
const keptLines = 120

// history remembers what happened: all of it as a digest, the end of it as text.
type history struct {
	lines  []string
	digest hash.Hash
	faults []string
	all    bool // keep every line
}

func newHistory() *history { return &history{digest: sha256.New()} }

func (h *history) add(at time.Time, who, format string, args ...any) {
	line := at.UTC().Format("02 15:04:05.000") + " " + who + ": " + fmt.Sprintf(format, args...)
	fmt.Fprintln(h.digest, line)
	h.lines = append(h.lines, line)
	if !h.all && len(h.lines) > 2*keptLines {
		h.lines = append([]string(nil), h.lines[keptLines:]...)
	}
}

// fault notes that something is wrong.
func (h *history) fault(format string, args ...any) {
	h.faults = append(h.faults, fmt.Sprintf(format, args...))
}

func (h *history) sum() string { return hex.EncodeToString(h.digest.Sum(nil)[:8]) }

// tail is the end of the history as text.
func (h *history) tail() string {
	lines := h.lines
	if !h.all && len(lines) > keptLines {
		lines = lines[len(lines)-keptLines:]
	}
	return strings.Join(lines, "\n")
}
