package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// Ingester makes decoded events durable; [meter.Ingester] implements it.
type Ingester interface {
	Accept(ctx context.Context, b *meter.Batch, traceparent string, mode meter.Mode) (meter.Verdicts, error)
}

// DeadLetters keeps refused events; [meter.DeadLetters] implements it.
type DeadLetters interface {
	List(after uint64, limit int) (letters []meter.DeadLetter, next uint64, err error)
	Get(ids ...uint64) ([]meter.DeadLetter, error)
	Remove(ids ...uint64) (int, error)
}

// Options are what the API works with. Ingester, Catalog, Usage, Records, Close, Now and Logger are required.
type Options struct {
	// Keys are the API keys. Without any, requests are taken from loopback addresses only.
	Keys []Key
	// Doors are what the books are read and changed with on a person's word.
	Doors Doors

	Ingester    Ingester
	Catalog     *meter.Catalog
	Usage       meter.UsageReader
	Records     reporter.RecordReader
	DeadLetters DeadLetters // nil: refused events aren't kept, the routes answer 404
	// Close closes the windows that ended before until and delivers what is due, as reporter.Service.CloseNow does.
	Close func(ctx context.Context, until time.Time) (reporter.Summary, error)
	// StoreOpen reports whether the store was reached since the start; nil: it always is. Until then the answers say so.
	StoreOpen func() bool
	// Status is what GET /api/v1/admin/status shows, as a value for encoding/json; nil shows only the time.
	Status func(ctx context.Context) any

	// MaxBody bounds a request's body after decompression, in bytes; 0 means 16 MiB. A stream is bounded by its chunks.
	MaxBody int64
	// Decode bounds events and their number in one request; the zero value means 256 KiB and 10,000.
	Decode meter.DecodeOptions
	// RequestTimeout bounds reading and answering one request, of a stream one chunk; 0 means 30 s.
	RequestTimeout time.Duration
	// StreamIdle is how long a stream may be silent between events; 0 means 2 m.
	StreamIdle time.Duration
	// StreamEvents and StreamDelay bound the chunks of a stream; 0 means 1000 and 200 ms.
	StreamEvents int
	StreamDelay  time.Duration

	// Observe is told of every request, for metrics; nil: nobody. It must return quickly.
	Observe func(Observation)
	Now     func() time.Time
	Logger  *slog.Logger
}

// Observation describes one answered request. Its texts come from bounded sets and are safe as metric labels.
type Observation struct {
	Route    string // the pattern, such as "/api/v1/meters/{slug}"; "other" for unknown paths
	Method   string // "other" for methods that no route has
	Status   int
	Key      string // name of the API key; "" without one
	Bytes    int64  // of the answer's body
	Duration time.Duration
}

// withDefaults fills in the defaults and reports what is missing.
func (o Options) withDefaults() (Options, error) {
	if o.Ingester == nil || o.Catalog == nil || o.Usage == nil || o.Records == nil || o.Close == nil || o.Now == nil || o.Logger == nil {
		return o, errors.New("http api: Ingester, Catalog, Usage, Records, Close, Now and Logger are required")
	}
	setDefault(&o.MaxBody, 16<<20)
	setDefault(&o.Decode.MaxEvents, 10_000)
	setDefault(&o.Decode.MaxEventBytes, 256<<10)
	setDefault(&o.RequestTimeout, 30*time.Second)
	setDefault(&o.StreamIdle, 2*time.Minute)
	setDefault(&o.StreamEvents, 1000)
	setDefault(&o.StreamDelay, 200*time.Millisecond)
	if o.Observe == nil {
		o.Observe = func(Observation) {}
	}
	return o, nil
}

func setDefault[T int | int64 | time.Duration](v *T, value T) {
	if *v == 0 {
		*v = value
	}
}
