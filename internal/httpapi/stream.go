package httpapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/meterd/meterd/meter"
)

// minChunkBytes is how many bytes a chunk of a stream may always have.
const minChunkBytes = 1 << 20

// streamLinger is how long a client may take to notice that its stream was ended.
const streamLinger = time.Second

// stream is one endless request: lines come in, and for each chunk that is durable one line of answer goes out.
type stream struct {
	api     *API
	w       *response
	r       *http.Request
	lines   *lineReader
	taken   int  // lines that were answered
	started bool // the header of the answer is sent
	drained bool // the server shuts down
	answer  []byte
}

// streamEvents takes an NDJSON body of unknown length. Chunks are bounded by events, bytes and time; each is made durable
// with its bad lines refused one by one, and answered before the next is taken.
func (a *API) streamEvents(w *response, r *http.Request) error {
	encoding, err := contentEncodings(r.Header)
	if err != nil {
		return err
	}
	if r.ProtoMajor == 1 {
		if err := w.control.EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
	}
	lines := &lineReader{
		control:  &w.control,
		maxLines: a.o.StreamEvents, maxBytes: max(minChunkBytes, a.o.Decode.MaxEventBytes), maxLine: a.o.Decode.MaxEventBytes,
		idle: a.o.StreamIdle, lineLimit: a.o.RequestTimeout,
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
	w.bodyRead = true // by the goroutine, which has its own deadlines
	// Each answer has its own deadline, and so has the end of the response.
	_ = w.control.SetWriteDeadline(zeroTime)
	defer func() { _ = w.control.SetWriteDeadline(machineTime().Add(a.o.RequestTimeout)) }()
	go lines.run(func() (io.Reader, func(), error) {
		if encoding == "" {
			return r.Body, func() {}, nil
		}
		return decompressor(r.Body, encoding, a.o.MaxBody)
	})
	defer lines.stop() // the goroutine reads the request's body: it must end before this handler does
	s := &stream{api: a, w: w, r: r, lines: lines}
	return s.run()
}

// run takes chunks until the body ends, something fails, or the server shuts down.
func (s *stream) run() error {
	for {
		ended, err := s.wait()
		if err != nil {
			return s.fail(err)
		}
		// Everything complete is taken, also when the stream ends with an error: it was sent in good faith.
		for first := true; first || ended; first = false {
			if lines, _, _ := s.lines.state(); lines == 0 {
				break
			}
			if err := s.takeChunk(); err != nil {
				return s.fail(err)
			}
		}
		if !ended {
			continue
		}
		if s.drained {
			return s.fail(meter.ErrClosed)
		}
		if _, _, err := s.lines.state(); !errors.Is(err, io.EOF) {
			return s.fail(bodyError(err))
		}
		if !s.started {
			s.w.WriteHeader(http.StatusNoContent)
		}
		return nil
	}
}

// wait returns when a chunk is full or old enough, or when nothing more will come.
func (s *stream) wait() (ended bool, err error) {
	var timer *time.Timer
	var due <-chan time.Time
	defer func() {
		if timer != nil {
			timer.Stop()
		}
	}()
	for {
		select {
		case <-s.api.drain: // also while the client sends faster than chunks are taken
			return s.leave(), nil
		default:
		}
		lines, full, err := s.lines.state()
		if err != nil || full {
			return err != nil, nil
		}
		if lines > 0 && timer == nil {
			timer = time.NewTimer(s.api.o.StreamDelay)
			due = timer.C
		}
		select {
		case <-s.lines.wake:
		case <-due:
			return false, nil
		case <-s.api.drain:
			return s.leave(), nil
		case <-s.r.Context().Done():
			// The server cancels it also when a read fails, as at a deadline; then there is a reason to tell.
			s.lines.stop()
			if _, _, err := s.lines.state(); err == nil {
				return false, errAborted
			}
		}
	}
}

// leave takes no more lines, because the server shuts down. It reports that the stream has ended.
func (s *stream) leave() (ended bool) {
	s.lines.refuse(s.api.o.RequestTimeout)
	s.drained = true
	return true
}

// takeChunk makes one chunk durable and answers it.
func (s *stream) takeChunk() error {
	c := s.lines.take()
	batch := meter.NewBatch()
	defer batch.Release()
	options := s.api.o.Decode
	options.MaxEvents = 0 // the chunk is bounded
	batch.DecodeLines(c.data, options)
	numbers := lineNumbers{chunk: c, first: s.taken + 1}
	numbers.blameCut(batch, options.MaxEventBytes)
	// What arrived whole is taken also when the connection has ended since.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.r.Context()), s.api.o.RequestTimeout)
	defer cancel()
	verdicts, err := s.api.o.Ingester.Accept(ctx, batch, traceparent(s.r.Header), meter.KeepGood)
	if err != nil {
		return err
	}
	b := append(s.answer[:0], `{"from_line":`...)
	b = strconv.AppendInt(b, int64(s.taken+1), 10)
	s.taken += c.lines
	b = append(b, `,"to_line":`...)
	b = strconv.AppendInt(b, int64(s.taken), 10)
	b = appendCounts(append(b, ','), &verdicts)
	if len(verdicts.Problems) > 0 {
		b = appendCount(b, `,"total_errors":`, len(verdicts.Problems))
		b = append(b, `,"errors":`...)
		b = append(b, bytes.TrimSpace(encodeJSON(eventErrors(verdicts.Problems, numbers.of)))...)
	}
	s.answer = append(b, '}', '\n')
	return s.send(s.answer)
}

// send writes one line of answer and flushes it. A client that doesn't read its answers is cut off.
func (s *stream) send(line []byte) error {
	if !s.started {
		h := s.w.Header()
		h.Set("Content-Type", "application/x-ndjson")
		h.Set("Cache-Control", "no-store")
		h.Set("X-Accel-Buffering", "no") // proxies that understand it must not hold answers back
		s.started = true
	}
	_ = s.w.control.SetWriteDeadline(machineTime().Add(s.api.o.RequestTimeout))
	defer func() { _ = s.w.control.SetWriteDeadline(zeroTime) }()
	if _, err := s.w.Write(line); err != nil {
		return errAborted
	}
	if err := s.w.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return errAborted
	}
	return nil
}

// fail ends the stream. If answers were sent already, the reason is one more line that says from which line on nothing was
// taken; else it is an ordinary answer.
func (s *stream) fail(err error) error {
	if errors.Is(err, errAborted) {
		return err
	}
	if !s.started {
		return err
	}
	p := toProblem(err)
	if p.cause != nil {
		s.api.o.Logger.Warn("stream ended", "request_id", s.w.requestID, "status", p.Status, "err", p.cause)
	}
	p.RequestID = s.w.requestID
	if p.Code == "timeout" {
		p.Detail = "no complete line arrived in time; send the lines from from_line on again"
	}
	b := append(s.answer[:0], `{"from_line":`...)
	b = strconv.AppendInt(b, int64(s.taken+1), 10)
	b = append(b, `,"error":`...)
	b = append(b, bytes.TrimSpace(encodeJSON(p.complete()))...)
	if p.RetryAfter > 0 {
		b = appendCount(b, `,"retry_after":`, p.RetryAfter)
	}
	if err := s.send(append(b, '}', '\n')); err != nil {
		return err
	}
	// The client is still sending; it shall see this line before the connection ends.
	s.lines.refuse(min(streamLinger, s.api.o.RequestTimeout))
	<-s.lines.done
	return nil
}

// lineNumbers finds the line of an event of a chunk: the decoder doesn't count blank lines, people do.
type lineNumbers struct {
	chunk   chunk
	first   int
	byIndex []int
}

// of returns the line of the event with an index, from 1.
func (n *lineNumbers) of(index int) int {
	if n.byIndex == nil {
		number := n.first
		for line := range bytes.Lines(n.chunk.data) {
			if len(bytes.Trim(line, " \t\r\n")) > 0 {
				n.byIndex = append(n.byIndex, number)
			}
			number++
		}
	}
	if index < len(n.byIndex) {
		return n.byIndex[index]
	}
	return n.first
}

// blameCut gives the lines that were cut their true reason.
func (n *lineNumbers) blameCut(batch *meter.Batch, limit int) {
	if len(n.chunk.cut) == 0 {
		return
	}
	for i := range batch.Problems {
		p := &batch.Problems[i]
		if !slices.Contains(n.chunk.cut, n.of(p.Index)-n.first) {
			continue
		}
		p.Reason, p.Field, p.Meter = meter.ReasonEventTooLarge, "", ""
		p.Detail = "the line is longer than " + strconv.Itoa(limit) + " bytes; send smaller events"
	}
}
