package embedded

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

const (
	tailLines     = 40
	tailLineBytes = 2048
)

// tail is a child's output: each line goes to the log at once, and the last ones are kept for the report of a crash.
// It is an io.Writer for exec.Cmd, safe for concurrent use.
type tail struct {
	logger *slog.Logger

	mu      sync.Mutex
	partial []byte
	lines   []string
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for rest := p; len(rest) > 0; {
		line, after, complete := bytes.Cut(rest, []byte{'\n'})
		// A line without end must not grow: what is beyond the limit is cut off.
		room := max(0, tailLineBytes-len(t.partial))
		t.partial = append(t.partial, line[:min(len(line), room)]...)
		if complete {
			t.add(string(t.partial))
			t.partial = t.partial[:0]
		}
		rest = after
	}
	return len(p), nil
}

func (t *tail) add(line string) {
	line = strings.ToValidUTF8(strings.TrimRight(line, "\r"), "�")
	if line == "" {
		return
	}
	t.logger.Info("engine output", "line", line)
	if len(t.lines) == tailLines {
		t.lines = append(t.lines[:0], t.lines[1:]...)
	}
	t.lines = append(t.lines, line)
}

// String returns the last lines, the unfinished one included.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := t.lines
	if len(t.partial) > 0 {
		lines = append(slices.Clip(lines), strings.ToValidUTF8(string(t.partial), "�"))
	}
	return strings.Join(lines, "\n")
}
