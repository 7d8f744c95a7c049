package meter

import (
	"bytes"
	"fmt"
	"math"
	"sync"
)

// Limits of one event.
const (
	// MaxAttribute is the longest id, source, type or subject in bytes of UTF-8.
	MaxAttribute = 1024
	// MaxDepth is how many levels of objects and arrays an event's data may have.
	MaxDepth = 64
)

// DecodeOptions bound what a request may contain. Zero means unbounded (the body itself is bounded by the caller).
type DecodeOptions struct {
	MaxEvents     int // most events in one request
	MaxEventBytes int // longest event, as JSON
}

// Batch is a decoded request. It is reused: get one with [NewBatch], give it back with [Batch.Release]. Its events are
// views into the body given to a Decode method, which must stay unchanged until then. A Batch is not safe for
// concurrent use.
type Batch struct {
	// Events are the good events, in the order of the request.
	Events []Event
	// Problems are the bad ones, at most one for each event, by Index.
	Problems []Problem
	// Total is the number of events in the request, good and bad. After a syntax error in an array it counts up to and
	// including the broken one.
	Total int
	// Broken says that the rest of the request could not be read: events after the last problem are unknown.
	Broken bool

	body         []byte
	opts         DecodeOptions
	spans        []eventSpan // of Events
	problemSpans []eventSpan // of Problems
	scan, inner  scanner     // of the body, and of base64 data
	arena        []byte      // texts that had escapes, decoded base64, attributes of binary mode
	extensions   []byte      // extension objects
	quoted       []byte      // one attribute as a JSON string
	attrs        attributes  // of the event being decoded
	headers      []Attribute // of binary mode

	verdict scratch // of Ingester.Accept
}

// eventSpan is where an event lies in the body and in the request.
type eventSpan struct{ index, start, end int }

var batchPool = sync.Pool{New: func() any { return new(Batch) }}

// NewBatch returns an empty batch from the pool.
func NewBatch() *Batch { return batchPool.Get().(*Batch) }

// keepCapacity bounds what a batch in the pool holds on to, so that one huge request doesn't stay in memory for ever.
const keepCapacity = 1 << 20

// Release empties the batch and returns it to the pool. Its events and verdicts must not be used afterwards.
func (b *Batch) Release() {
	b.clear()
	b.verdict.release()
	if cap(b.arena) > keepCapacity || b.scan.memory() > keepCapacity || b.inner.memory() > keepCapacity || cap(b.extensions) > keepCapacity || cap(b.Events) > keepCapacity/64 {
		return
	}
	batchPool.Put(b)
}

// clear drops every reference into the body.
func (b *Batch) clear() {
	clear(b.Events)
	clear(b.Problems)
	b.Events, b.Problems = b.Events[:0], b.Problems[:0]
	b.spans, b.problemSpans = b.spans[:0], b.problemSpans[:0]
	b.Total, b.Broken = 0, false
	b.arena, b.extensions = b.arena[:0], b.extensions[:0]
	b.body = nil
	clear(b.headers)
	b.headers = b.headers[:0]
	b.scan.reset(nil)
	b.inner.reset(nil)
	b.attrs = attributes{}
}

// Index returns the place in the request of Events[i].
func (b *Batch) Index(i int) int { return b.spans[i].index }

// Raw returns Events[i] as it was sent; for binary mode, as JSON.
func (b *Batch) Raw(i int) []byte { return b.raw(b.spans[i]) }

// RawProblem returns what Problems[i] is about as it was sent: the event, or for a syntax error in an array the rest of
// the body from the broken event on.
func (b *Batch) RawProblem(i int) []byte { return b.raw(b.problemSpans[i]) }

func (b *Batch) raw(s eventSpan) []byte {
	if s.start < 0 {
		return b.binaryJSON()
	}
	return b.body[s.start:s.end]
}

// DecodeJSON reads a body with one event (an object) or a batch (an array of objects). It never fails as a whole: what
// is wrong is in Problems. Earlier content of the batch is dropped.
func (b *Batch) DecodeJSON(body []byte, opts DecodeOptions) {
	if !b.begin(body, opts) {
		return
	}
	b.scan.reset(body)
	i := b.scan.space(0)
	if b.scan.at(i) != '[' {
		b.single(i)
		return
	}
	i = b.scan.space(i + 1)
	if b.scan.at(i) == ']' {
		b.trailing(i + 1)
		return
	}
	for {
		if b.tooMany(i) {
			return
		}
		if i = b.element(i); i < 0 {
			return
		}
		i = b.scan.space(i)
		switch b.scan.at(i) {
		case ',':
			i = b.scan.space(i + 1)
		case ']':
			b.trailing(i + 1)
			return
		default:
			b.scan.unexpected(i, "',' or ']' after an event")
			b.broken(i)
			return
		}
	}
}

// DecodeLines reads NDJSON: one event a line; blank lines are skipped. A broken line is one problem, the next line is
// read as usual. Earlier content of the batch is dropped.
func (b *Batch) DecodeLines(body []byte, opts DecodeOptions) {
	if !b.begin(body, opts) {
		return
	}
	for start := 0; start < len(body); {
		end := len(body)
		if n := bytes.IndexByte(body[start:], '\n'); n >= 0 {
			end = start + n
		}
		b.scan.reset(body[:end])
		if i := b.scan.space(start); i < end {
			if b.tooMany(i) {
				return
			}
			b.single(i)
			b.Broken = false // the next line stands for itself
		}
		start = end + 1
	}
}

// begin empties the batch and refuses bodies that positions can't count.
func (b *Batch) begin(body []byte, opts DecodeOptions) bool {
	b.clear()
	b.body, b.opts = body, opts
	if len(body) > math.MaxInt32 {
		b.body = nil
		b.refuse(eventSpan{}, Problem{Reason: ReasonEventTooLarge, Detail: "the body is 2 GiB or larger; send smaller batches"})
		b.Total, b.Broken = 1, true
		return false
	}
	return true
}

// tooMany refuses everything from i on if the request already has as many events as permitted.
func (b *Batch) tooMany(i int) bool {
	if b.opts.MaxEvents <= 0 || b.Total < b.opts.MaxEvents {
		return false
	}
	b.scan.fail(i, ReasonTooManyEvents, fmt.Sprintf("more than %d events in one request; send smaller batches", b.opts.MaxEvents))
	b.broken(i)
	return true
}

// broken refuses the event at start for the scanner's error; nothing after it is read.
func (b *Batch) broken(start int) {
	b.refuse(eventSpan{index: b.Total, start: min(start, len(b.scan.buf)), end: len(b.scan.buf)}, Problem{
		Offset: b.scan.errOffset, Reason: b.scan.errReason,
		Detail: fmt.Sprintf("%s (at byte %d)", b.scan.errDetail, b.scan.errOffset),
	})
	b.Total++
	b.Broken = true
}

// refuse adds a problem.
func (b *Batch) refuse(span eventSpan, p Problem) {
	p.Index = span.index
	b.Problems = append(b.Problems, p)
	b.problemSpans = append(b.problemSpans, span)
}

// single reads the one event that buf holds from i on.
func (b *Batch) single(i int) {
	if bytes.HasPrefix(b.scan.buf, []byte("\xef\xbb\xbf")) && i == 0 {
		b.scan.fail(0, ReasonMalformed, "begins with a byte order mark; send plain UTF-8")
		b.broken(i)
		return
	}
	end := b.element(i)
	if end < 0 {
		return
	}
	if after := b.scan.space(end); after < len(b.scan.buf) {
		b.withdraw()
		b.scan.unexpected(after, "the end after the event")
		b.broken(i)
	}
}

// withdraw takes back the event or problem that element just added.
func (b *Batch) withdraw() {
	b.Total--
	if n := len(b.spans); n > 0 && b.spans[n-1].index == b.Total {
		b.spans, b.Events = b.spans[:n-1], b.Events[:n-1]
		return
	}
	n := len(b.Problems) - 1
	b.Problems, b.problemSpans = b.Problems[:n], b.problemSpans[:n]
}

// trailing refuses anything but white space after the array.
func (b *Batch) trailing(i int) {
	if i = b.scan.space(i); i < len(b.scan.buf) {
		b.scan.unexpected(i, "the end after the array")
		b.broken(i)
	}
}

// element reads one value that should be an event and returns the position after it, or −1 if it is broken.
func (b *Batch) element(start int) int {
	b.scan.resetDocument()
	span := eventSpan{index: b.Total, start: start}
	if b.scan.at(start) != '{' {
		end := b.scan.value(start, 0)
		if end < 0 {
			b.broken(start)
			return -1
		}
		span.end = end
		b.refuse(span, Problem{Offset: start, Reason: ReasonNotAnObject, Detail: "an event must be a JSON object"})
		b.Total++
		return end
	}
	a := &b.attrs
	*a = attributes{}
	end := b.members(start)
	if end < 0 {
		b.broken(start)
		return -1
	}
	b.finish(eventSpan{index: b.Total, start: start, end: end})
	return end
}

// finish checks the attributes read and adds either an event or a problem.
func (b *Batch) finish(span eventSpan) {
	a := &b.attrs
	b.Total++
	if a.reason == "" {
		b.complete(span)
	}
	if a.reason != "" {
		b.refuse(span, Problem{
			Offset: max(a.offset, span.start, 0), Field: a.field, Reason: a.reason, Detail: a.detail,
		})
		return
	}
	b.Events = append(b.Events, a.event)
	b.spans = append(b.spans, span)
}
