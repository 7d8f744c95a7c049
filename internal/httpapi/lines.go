package httpapi

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// lineReader reads lines in a goroutine of its own, so that a chunk can be taken when its time is up although the next
// line hasn't arrived. What it holds is bounded: it stops reading while a chunk is waiting to be taken.
type lineReader struct {
	control   *http.ResponseController
	maxLines  int           // lines of a chunk
	maxBytes  int           // bytes of a chunk, give or take one read
	maxLine   int           // longest line
	idle      time.Duration // between lines
	lineLimit time.Duration // from the first byte of a line to its end

	wake chan struct{} // capacity 1: something changed
	room chan struct{} // capacity 1: a chunk was taken
	quit chan struct{} // closed by stop
	done chan struct{} // closed when the goroutine has ended

	mu       sync.Mutex
	buf      []byte // complete lines, then perhaps a part of one
	spare    []byte // of the chunk taken before
	complete int    // length of the complete lines
	lines    int    // their number
	partial  int    // length of the open line
	began    time.Time
	cut      []int // complete or open lines, counted from the first in buf, that were longer than permitted
	skipping bool  // the rest of the open line is dropped
	refusing bool  // what arrives from now on is dropped
	stopped  bool
	err      error // why reading ended
}

// chunk is a number of complete lines. Its data is valid until the next chunk is taken.
type chunk struct {
	data  []byte
	lines int
	cut   []int // lines that were longer than permitted: what follows is missing
}

// run reads until the end, an error, or stop. open returns the source; it runs here because it may wait for bytes.
func (l *lineReader) run(open func() (io.Reader, func(), error)) {
	defer close(l.done)
	l.setDeadline()
	source, release, err := open()
	if err != nil {
		l.end(err)
		return
	}
	defer release()
	read := make([]byte, 32<<10)
	for l.waitForRoom() {
		l.setDeadline()
		n, err := source.Read(read)
		l.add(read[:n])
		if err != nil {
			l.end(err)
			return
		}
	}
}

// setDeadline bounds the next read: an open line must be completed, between lines the client may be silent for longer.
func (l *lineReader) setDeadline() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped || l.refusing {
		return // the deadline stands
	}
	deadline := machineTime().Add(l.idle)
	if l.partial > 0 {
		deadline = l.began.Add(l.lineLimit)
	}
	_ = l.control.SetReadDeadline(deadline) // a writer without deadlines is a test's
}

// waitForRoom waits until less than a chunk is held. It reports false after stop.
func (l *lineReader) waitForRoom() bool {
	for {
		l.mu.Lock()
		full, stopped := l.full() && !l.refusing, l.stopped
		l.mu.Unlock()
		if stopped {
			return false
		}
		if !full {
			return true
		}
		select {
		case <-l.room:
		case <-l.quit:
			return false
		}
	}
}

func (l *lineReader) full() bool { return l.lines >= l.maxLines || l.complete >= l.maxBytes }

// add takes over bytes that were read.
func (l *lineReader) add(p []byte) {
	if len(p) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refusing {
		return
	}
	before := l.lines
	for len(p) > 0 {
		part, ended := p, false
		if i := bytes.IndexByte(p, '\n'); i >= 0 {
			part, ended = p[:i], true
		}
		p = p[len(part):]
		l.addPart(part)
		if ended {
			l.endLine()
			p = p[1:]
		}
	}
	if l.partial > 0 && (l.began.IsZero() || l.lines > before) {
		l.began = machineTime()
	}
	signal(l.wake)
}

// addPart adds to the open line. Beyond the limit it is cut, with a byte that no JSON has, so that it can't pass for a
// shorter line.
func (l *lineReader) addPart(part []byte) {
	l.partial += len(part)
	if l.skipping {
		return
	}
	if l.partial > l.maxLine {
		keep := max(len(part)-(l.partial-l.maxLine), 0)
		l.buf = append(append(l.buf, part[:keep]...), 0)
		l.cut = append(l.cut, l.lines)
		l.skipping = true
		return
	}
	l.buf = append(l.buf, part...)
}

func (l *lineReader) endLine() {
	l.buf = append(l.buf, '\n')
	l.complete = len(l.buf)
	l.lines++
	l.partial, l.skipping, l.began = 0, false, time.Time{}
}

// end notes why reading ended. At the end of the body the last line needs no line break.
func (l *lineReader) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
		if l.partial > 0 && !l.refusing {
			l.endLine()
		}
	}
	l.err = err
	signal(l.wake)
}

// state tells how many complete lines are waiting, whether they make a full chunk, and why reading ended.
func (l *lineReader) state() (lines int, full bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines, l.full(), l.err
}

// take returns at most one chunk of complete lines.
func (l *lineReader) take() chunk {
	l.mu.Lock()
	defer l.mu.Unlock()
	size, lines := l.complete, l.lines
	if lines > l.maxLines {
		lines = l.maxLines
		size = 0
		for range lines {
			size += bytes.IndexByte(l.buf[size:l.complete], '\n') + 1
		}
	}
	c := chunk{data: l.buf[:size:size], lines: lines}
	rest := l.buf[size:]
	l.buf, l.spare = append(l.spare[:0], rest...), l.buf
	l.complete -= size
	l.lines -= lines
	left := l.cut[:0:0]
	for _, line := range l.cut {
		if line < lines {
			c.cut = append(c.cut, line)
		} else {
			left = append(left, line-lines)
		}
	}
	l.cut = left
	signal(l.room)
	return c
}

// refuse takes no more lines, and reads on for at most the given time without keeping anything. A connection that is closed
// with bytes unread is reset, and its client may then lose the answers that it hasn't read yet.
func (l *lineReader) refuse(limit time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return
	}
	l.refusing = true
	_ = l.control.SetReadDeadline(machineTime().Add(limit))
	signal(l.room)
}

// stop ends the goroutine, even in the middle of a read, and waits for it.
func (l *lineReader) stop() {
	l.mu.Lock()
	if !l.stopped {
		l.stopped = true
		close(l.quit)
		_ = l.control.SetReadDeadline(machineTime().Add(-time.Second))
	}
	l.mu.Unlock()
	<-l.done
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
