package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/meterd/meterd/internal/sender"
)

const (
	barWidth      = 24
	drawEvery     = 100 * time.Millisecond // on a terminal
	printEvery    = 10 * time.Second       // elsewhere
	eraseLine     = "\r\x1b[K"
	summaryLayout = time.RFC3339
)

// sendStatus shows how far a sending is: one line that is drawn anew on a terminal, a line every ten seconds elsewhere. It
// is an io.Writer for messages that would else be drawn over.
type sendStatus struct {
	mu       sync.Mutex
	w        io.Writer
	files    *sender.FileSource
	terminal bool
	quiet    bool
	drawn    bool
	last     time.Duration
}

func newSendStatus(w io.Writer, files *sender.FileSource, quiet bool) *sendStatus {
	return &sendStatus{w: w, files: files, terminal: isTerminal(w), quiet: quiet}
}

// isTerminal tells whether w is a character device. A library could tell a terminal from /dev/null, for which it makes no
// difference.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// Write writes a message on a line of its own.
func (s *sendStatus) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	return s.w.Write(p)
}

// show draws the progress, not too often.
func (s *sendStatus) show(sum sender.Summary) {
	s.mu.Lock()
	defer s.mu.Unlock()
	every := printEvery
	if s.terminal {
		every = drawEvery
	}
	if s.quiet || sum.Elapsed-s.last < every {
		return
	}
	s.last = sum.Elapsed
	line := progressLine(s.files, sum)
	if s.terminal {
		_, _ = io.WriteString(s.w, eraseLine+line)
		s.drawn = true
		return
	}
	_, _ = io.WriteString(s.w, line+"\n")
}

// clear removes the line.
func (s *sendStatus) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
}

func (s *sendStatus) erase() {
	if s.drawn {
		_, _ = io.WriteString(s.w, eraseLine)
		s.drawn = false
	}
}

func progressLine(files *sender.FileSource, sum sender.Summary) string {
	line := fmt.Sprintf("%d events accepted, %d/s", sum.Accepted, sum.PerSecond())
	if sum.Retries > 0 {
		line += fmt.Sprintf(", %d retries", sum.Retries)
	}
	read, total := files.Progress()
	if total <= 0 {
		return line
	}
	read = min(read, total)
	done := int(read * barWidth / total)
	return fmt.Sprintf("[%s%s] %3d%% %s",
		strings.Repeat("=", done), strings.Repeat(" ", barWidth-done), read*100/total, line)
}

// sendSummary is the summary in JSON.
type sendSummary struct {
	Sent            int64   `json:"sent"`
	Accepted        int64   `json:"accepted"`
	Batches         int64   `json:"batches"`
	Requests        int64   `json:"requests"`
	Retries         int64   `json:"retries"`
	Bytes           int64   `json:"bytes"`
	First           string  `json:"first,omitempty"`
	Last            string  `json:"last,omitempty"`
	ElapsedSeconds  float64 `json:"elapsed_seconds"`
	EventsPerSecond int64   `json:"events_per_second"`
	Error           string  `json:"error,omitempty"`
}

func writeSendSummary(w io.Writer, s sender.Summary, failure error, asJSON bool) error {
	if !asJSON {
		_, err := fmt.Fprintf(w, "sent %d, accepted %d events in %d batches, %d retries, %s, %d events/s\n",
			s.Sent, s.Accepted, s.Batches, s.Retries, s.Elapsed.Round(time.Millisecond), s.PerSecond())
		if err == nil && !s.First.IsZero() {
			_, err = fmt.Fprintf(w, "times of the accepted events: %s to %s\n",
				s.First.UTC().Format(summaryLayout), s.Last.UTC().Format(summaryLayout))
		}
		return err
	}
	out := sendSummary{
		Sent: s.Sent, Accepted: s.Accepted, Batches: s.Batches, Requests: s.Requests, Retries: s.Retries, Bytes: s.Bytes,
		ElapsedSeconds: s.Elapsed.Seconds(), EventsPerSecond: s.PerSecond(),
	}
	if !s.First.IsZero() {
		out.First, out.Last = s.First.UTC().Format(time.RFC3339Nano), s.Last.UTC().Format(time.RFC3339Nano)
	}
	if failure != nil {
		out.Error = failure.Error()
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(out)
}
