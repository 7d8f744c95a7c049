package reporter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// Collector is one daemon that takes events, as it last told the others.
type Collector struct {
	Name string // of its data directory; it survives restarts
	Beat uint64 // rises with every sign of life
	At   time.Time
	// Unconfirmed is how many events it had acknowledged that were not in the store yet, and Lag for how long the oldest of
	// them had waited.
	Unconfirmed uint64
	Lag         time.Duration
	// Stopped says that it ended in good order.
	Stopped bool
}

// CollectorBooks keeps the collectors' signs of life.
type CollectorBooks interface {
	// WriteCollector replaces what is known of a collector, unless something with a higher beat is.
	WriteCollector(ctx context.Context, c Collector) error
	// Collectors returns the last state of every collector.
	Collectors(ctx context.Context) ([]Collector, error)
}

// BarrierOptions are what a [Barrier] needs. All but the durations are required.
type BarrierOptions struct {
	Local Flusher // brings in the events of this process
	Books CollectorBooks
	Name  string // of this collector
	// Spool returns how many events of this process are not in the store, and since when the oldest has waited; zero if none.
	Spool func() (unconfirmed uint64, oldest time.Time)
	// Every is the time between two signs of life, in real time; 0 means 5 s.
	Every time.Duration
	// Forget is after what silence a collector isn't waited for any more; 0 means 1 h. What it still has is late usage then.
	Forget time.Duration
	Now    func() time.Time
	Logger *slog.Logger
}

// Barrier is the barrier before closing where several collectors share one store: it passes when the events that each of them
// had accepted are in the store. It compares no clocks: a collector is waited for until it gives a sign of life, made after the
// barrier began, that says so. It is safe for concurrent use.
type Barrier struct {
	o BarrierOptions

	mu   sync.Mutex
	beat uint64 // of this collector; 0: not known yet
}

// NewBarrier checks the options.
func NewBarrier(o BarrierOptions) (*Barrier, error) {
	if o.Local == nil || o.Books == nil || o.Name == "" || o.Spool == nil || o.Now == nil || o.Logger == nil {
		return nil, errors.New("barrier: Local, Books, Name, Spool, Now and Logger are required")
	}
	if o.Every < 0 || o.Forget < 0 {
		return nil, errors.New("barrier: no duration may be negative")
	}
	setDefault(&o.Every, 5*time.Second)
	setDefault(&o.Forget, time.Hour)
	return &Barrier{o: o}, nil
}

// Run gives signs of life until ctx ends, and then a last one, and returns nil. A failed one is made up for by the next.
func (b *Barrier) Run(ctx context.Context) error {
	ticker := time.NewTicker(b.o.Every)
	defer ticker.Stop()
	for {
		if err := b.tell(ctx, false); err != nil && ctx.Err() == nil {
			b.o.Logger.Warn("the other daemons were not told how far this one is", "err", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.o.Every)
			defer cancel()
			_ = b.tell(last, true) // without it the others wait for a while, and no longer
			return nil
		}
	}
}

// tell writes one sign of life.
func (b *Barrier) tell(ctx context.Context, stopped bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.beat == 0 {
		list, err := b.o.Books.Collectors(ctx)
		if err != nil {
			return err
		}
		for _, c := range list {
			if c.Name == b.o.Name {
				b.beat = c.Beat
			}
		}
	}
	c := Collector{Name: b.o.Name, Beat: b.beat + 1, At: b.o.Now().UTC(), Stopped: stopped}
	var oldest time.Time
	if c.Unconfirmed, oldest = b.o.Spool(); c.Unconfirmed > 0 {
		c.Lag = max(c.At.Sub(oldest), 0)
	}
	if err := b.o.Books.WriteCollector(ctx, c); err != nil {
		return err
	}
	b.beat = c.Beat
	return nil
}

// waited is a collector that the barrier waits for.
type waited struct {
	beat   uint64
	seenAt time.Duration // when its last sign of life was first seen, since the barrier began
}

// Flush implements [Flusher]. When ctx ends first, the error names the collectors that were behind.
func (b *Barrier) Flush(ctx context.Context) error {
	began := b.o.Now()
	if err := b.o.Local.Flush(ctx); err != nil {
		return err
	}
	const pause = 250 * time.Millisecond
	open := map[string]waited{}
	for first, looked := true, time.Duration(0); ; first = false {
		list, err := b.o.Books.Collectors(ctx)
		if err != nil {
			return fmt.Errorf("read collectors: %w", err)
		}
		since := b.o.Now().Sub(began)
		var behind []string
		for _, c := range list {
			if c.Name == b.o.Name || b.passed(c, open, first, looked, since) {
				continue
			}
			behind = append(behind, fmt.Sprintf("%s (%d events)", c.Name, c.Unconfirmed))
		}
		if len(behind) == 0 {
			return nil
		}
		looked = since
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("waiting for other collectors: %s: %w", strings.Join(behind, ", "), ctx.Err())
		}
	}
}

// passed reports whether everything that the collector accepted before the barrier began is in the store. looked is when the
// look before this one was made: a new sign of life was given after it.
func (b *Barrier) passed(c Collector, open map[string]waited, first bool, looked, since time.Duration) bool {
	if c.Stopped && c.Unconfirmed == 0 || b.o.Now().Sub(c.At) > b.o.Forget {
		return true
	}
	w, known := open[c.Name]
	if first || !known {
		open[c.Name] = waited{beat: c.Beat, seenAt: since}
		return false
	}
	if c.Beat == w.beat {
		return false
	}
	open[c.Name] = waited{beat: c.Beat, seenAt: looked}
	return c.Unconfirmed == 0 || looked >= c.Lag
}
