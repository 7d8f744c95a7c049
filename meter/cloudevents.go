package meter

import "errors"

// Limits of one event.
const (
	// MaxAttribute is the longest id, source, type or subject in bytes of UTF-8.
	MaxAttribute = 1024
	// MaxDepth is how deep data may nest.
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
	// Broken says that the rest of an array could not be read: events after the last problem are unknown.
	Broken bool
}

// NewBatch returns an empty batch from the pool.
func NewBatch() *Batch { return &Batch{} }

// Release empties the batch and returns it to the pool. Its events must not be used afterwards.
func (b *Batch) Release() {}

// Index returns the place in the request of Events[i].
func (b *Batch) Index(i int) int { return i }

// DecodeJSON reads a body with one event (an object) or a batch (an array of objects). It never fails as a whole: what
// is wrong is in Problems.
func (b *Batch) DecodeJSON(body []byte, opts DecodeOptions) {}

// DecodeLines reads NDJSON: one event a line; blank lines are skipped. A broken line is one problem, the next line is
// read as usual.
func (b *Batch) DecodeLines(body []byte, opts DecodeOptions) {}

// Attribute is one CloudEvents context attribute of the HTTP binary mode.
type Attribute struct {
	// Name without the ce- prefix, in lower case; Content-Type is given as datacontenttype.
	Name string
	// Value after percent-decoding.
	Value string
}

// DecodeBinary reads one event in binary mode: the attributes from headers and the data from the body. An empty body is
// absent data.
func (b *Batch) DecodeBinary(attributes []Attribute, data []byte, opts DecodeOptions) {}

var errNotImplemented = errors.New("not implemented")
