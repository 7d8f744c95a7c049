package meter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// The payload of one spool record, described for other readers in docs/formats/spool-payload.md.
const (
	payloadVersion = 1
	// payloadCountAt is where the number of events lies; it is written last.
	payloadCountAt = 1
	payloadHeader  = payloadCountAt + 4 + 8
)

// Flags of one event in a payload.
const (
	payloadStamped byte = 1 << iota
	payloadSameSource
	payloadSameType
	payloadSameSubject
	payloadHasData
	payloadHasExtensions
	payloadOwnTime
	payloadKnown = 1<<iota - 1
)

// Errors of [DecodePayload].
var (
	// ErrPayloadVersion: the payload was written by a newer version of the program.
	ErrPayloadVersion = errors.New("unknown version of spool payload")
	// ErrPayload: the bytes are no payload.
	ErrPayload = errors.New("damaged spool payload")
)

// Payload is a decoded spool record. Its events are views into the bytes it was decoded from.
type Payload struct {
	// Received is the time of receipt of the first event in nanoseconds since 1970 UTC; that of event i is i later, so
	// that no two events share one.
	Received int64
	// Traceparent is the W3C trace context of the request; empty if it had none.
	Traceparent string
	Events      []Event
}

// payloadWriter builds one payload.
type payloadWriter struct {
	dst   []byte
	start int // of the payload in dst
	count uint32
	first int64 // time of receipt of the first event
	time  int64 // of the last event that has one
	// Of the event before.
	source, typ, subject []byte
}

// AppendPayload appends the payload of the events to dst. The time of a stamped event is written only if it isn't that of
// its receipt.
func AppendPayload(dst []byte, p *Payload) []byte {
	w := beginPayload(dst, p.Received, p.Traceparent)
	for i := range p.Events {
		w.add(&p.Events[i])
	}
	return w.finish()
}

func beginPayload(dst []byte, received int64, traceparent string) payloadWriter {
	w := payloadWriter{start: len(dst), first: received, time: received}
	dst = append(dst, payloadVersion, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(received)) //nolint:gosec // two's complement, read back the same way
	dst = binary.AppendUvarint(dst, uint64(len(traceparent)))
	w.dst = append(dst, traceparent...)
	return w
}

// size is the number of bytes so far.
func (w *payloadWriter) size() int { return len(w.dst) - w.start }

func (w *payloadWriter) finish() []byte {
	binary.LittleEndian.PutUint32(w.dst[w.start+payloadCountAt:], w.count)
	return w.dst
}

// add appends one event. Its bytes must stay unchanged until the payload is finished.
func (w *payloadWriter) add(ev *Event) {
	dst := w.dst
	at := len(dst)
	dst = append(dst, 0)
	var flags byte
	if bytes.Equal(ev.Source, w.source) {
		flags |= payloadSameSource
	} else {
		dst = appendField(dst, ev.Source)
		w.source = ev.Source
	}
	if bytes.Equal(ev.Type, w.typ) {
		flags |= payloadSameType
	} else {
		dst = appendField(dst, ev.Type)
		w.typ = ev.Type
	}
	if bytes.Equal(ev.Subject, w.subject) {
		flags |= payloadSameSubject
	} else {
		dst = appendField(dst, ev.Subject)
		w.subject = ev.Subject
	}
	dst = appendField(dst, ev.ID)
	if ev.Stamped {
		flags |= payloadStamped
	}
	if !ev.Stamped || ev.Time != w.first+int64(w.count) {
		if ev.Stamped {
			flags |= payloadOwnTime
		}
		dst = binary.AppendVarint(dst, ev.Time-w.time)
		w.time = ev.Time
	}
	if len(ev.Data) > 0 {
		flags |= payloadHasData
		dst = appendField(dst, ev.Data)
	}
	if len(ev.Extensions) > 0 {
		flags |= payloadHasExtensions
		dst = appendField(dst, ev.Extensions)
	}
	dst[at] = flags
	w.dst = dst
	w.count++
}

func appendField(dst, field []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(field)))
	return append(dst, field...)
}

// DecodePayload reads what [AppendPayload] wrote. It appends to p.Events[:0], so that p can be reused. The error is
// ErrPayloadVersion or ErrPayload; the events decoded before the damage are in p.
func DecodePayload(payload []byte, p *Payload) error {
	p.Events = p.Events[:0]
	if len(payload) == 0 || payload[0] != payloadVersion {
		if len(payload) > 0 && payload[0] > payloadVersion {
			return fmt.Errorf("%w %d; this program reads version %d", ErrPayloadVersion, payload[0], payloadVersion)
		}
		return fmt.Errorf("%w: no version", ErrPayload)
	}
	if len(payload) < payloadHeader {
		return fmt.Errorf("%w: short header", ErrPayload)
	}
	count := int(binary.LittleEndian.Uint32(payload[payloadCountAt:]))
	p.Received = int64(binary.LittleEndian.Uint64(payload[payloadCountAt+4:])) //nolint:gosec // see beginPayload
	r := payloadReader{b: payload[payloadHeader:], time: p.Received}
	p.Traceparent = string(r.field())
	var prev Event
	for i := range count {
		ev, ok := r.event(&prev, p.Received+int64(i))
		if !ok {
			return fmt.Errorf("%w: event %d of %d", ErrPayload, i, count)
		}
		p.Events = append(p.Events, ev)
		prev = ev
	}
	if r.bad || len(r.b) > 0 {
		return fmt.Errorf("%w: %d bytes after the last event", ErrPayload, len(r.b))
	}
	return nil
}

// payloadReader takes fields off b. After a fault bad is set and every further field is empty.
type payloadReader struct {
	b    []byte
	time int64
	bad  bool
}

func (r *payloadReader) event(prev *Event, received int64) (ev Event, ok bool) {
	if len(r.b) == 0 {
		return ev, false
	}
	flags := r.b[0]
	r.b = r.b[1:]
	if flags&^payloadKnown != 0 {
		return ev, false
	}
	ev.Source, ev.Type, ev.Subject = prev.Source, prev.Type, prev.Subject
	if flags&payloadSameSource == 0 {
		ev.Source = r.field()
	}
	if flags&payloadSameType == 0 {
		ev.Type = r.field()
	}
	if flags&payloadSameSubject == 0 {
		ev.Subject = r.field()
	}
	ev.ID = r.field()
	ev.Stamped = flags&payloadStamped != 0
	own := flags&payloadOwnTime != 0
	if ev.Time = received; own || !ev.Stamped {
		r.time += r.varint()
		ev.Time = r.time
	}
	if own && (!ev.Stamped || ev.Time == received) {
		return ev, false // a time has one spelling
	}
	if flags&payloadHasData != 0 {
		ev.Data = r.field()
	}
	if flags&payloadHasExtensions != 0 {
		ev.Extensions = r.field()
	}
	return ev, !r.bad
}

func (r *payloadReader) field() []byte {
	n, size := binary.Uvarint(r.b)
	if size <= 0 || n > uint64(len(r.b)-size) { //nolint:gosec // size is at most len(r.b)
		r.bad = true
		return nil
	}
	end := size + int(n) //nolint:gosec // n is at most len(r.b)
	field := r.b[size:end:end]
	r.b = r.b[end:]
	return field
}

func (r *payloadReader) varint() int64 {
	v, size := binary.Varint(r.b)
	if size <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[size:]
	return v
}
