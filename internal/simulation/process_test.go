package simulation_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/koogallery"
)

// process is one process of meterd with everything that it keeps in memory.
type process struct {
	w     *world
	t     *task
	place int
	name  string

	closer *reporter.Closer
	report *reporter.Reporter
	random *rand.Rand // for jitter
}

func (p *process) clock() clock {
	return clock{t: p.t, skew: time.Duration(p.place) * 300 * time.Millisecond}
}

func (p *process) books() calls { return calls{p: p, l: p.w.ledger(p.w.books)} }

// client is a client of the marketplace or of the shadow.
func (p *process) client(mode reporter.Mode) (*koogallery.Client, error) {
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(p.w.rng.UintN(256))
	}
	return koogallery.New(koogallery.Options{
		BaseURL: "https://marketplace.example", SellerKey: sandboxKey, Now: p.clock().Now, Timeout: time.Hour, MaxBatch: 7,
		Rand: rand.NewChaCha8(seed), Transport: http.RoundTripper(wire{p: p, mode: mode}),
		Sleep: func(ctx context.Context, d time.Duration) error {
			return p.clock().WaitUntil(ctx, p.clock().Now().Add(d))
		},
	})
}

// build makes the parts.
func (p *process) build() error {
	w := p.w
	p.random = rand.New(rand.NewPCG(w.rng.Uint64(), w.rng.Uint64()))
	live, err := p.client(reporter.ModeLive)
	if err != nil {
		return err
	}
	shadow, err := p.client(reporter.ModeShadow)
	if err != nil {
		return err
	}
	mapper, err := reporter.NewMapper(w.plan.meters, w.plan.mappings)
	if err != nil {
		return err
	}
	p.closer, err = reporter.NewCloser(reporter.CloserOptions{
		Books: p.books(), Lives: p.books(), Flusher: flusher{p}, Meters: w.plan.meters, Terms: w.plan.terms, Mapper: mapper, Rules: live,
		Seller: "acme", Grace: grace, DayZone: time.FixedZone("UTC+8", 8*3600), ChunkRows: 1 + w.rng.IntN(9), Now: p.clock().Now,
		Random: func() uint64 { w.versions++; return w.versions }, Logger: discard,
	})
	if err != nil {
		return err
	}
	p.report, err = reporter.NewReporter(reporter.ReporterOptions{
		Books: p.books(), Marketplace: live, Shadow: shadow, Clock: p.clock(), Logger: discard, Random: p.random.Float64,
		PageSize: 1 + w.rng.IntN(20), BreakerFailures: 3, IsolationCalls: 20, PushTimeout: time.Hour,
	})
	return err
}

// run is the daemon's life: the real service loop.
func (p *process) run(ctx context.Context) error {
	if err := p.build(); err != nil {
		return fmt.Errorf("build: %w", err)
	}
	schedule, err := reporter.ParseSchedule("5 * * * *")
	if err != nil {
		return err
	}
	o := reporter.ServiceOptions{
		Closer: p.closer, Reporter: p.report, Schedule: schedule, Clock: p.clock(), Logger: discard, Random: p.random.Float64,
		LeaseInterval: time.Hour,
	}
	if p.w.plan.lease {
		o.Lease = p.w.leases.Of(p.name)
	}
	s, err := reporter.NewService(o)
	if err != nil {
		return err
	}
	if err := s.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	p.w.note(p.name, "stops")
	return nil
}
