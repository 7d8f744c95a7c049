package httpapi

import (
	"context"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// Desk changes the books on a person's word; [reporter.Desk] implements it.
type Desk interface {
	// Decide books held usage into the balance or writes it off.
	Decide(ctx context.Context, d reporter.Decision) (reporter.Booking, error)
	// MoveRecords puts records that delivery can't settle into another state and returns them.
	MoveRecords(ctx context.Context, act reporter.RecordAct) ([]reporter.BillRecord, error)
	// Fail notes what the marketplace's own books say about records that it had accepted.
	Fail(ctx context.Context, failures []reporter.Failure, actor string) error
	// Resend reports failed records again under new numbers.
	Resend(ctx context.Context, act reporter.ResendAct) (reporter.Booking, error)
	// ChangeLife notes a change in an instance's life. booked says whether that made a booking.
	ChangeLife(ctx context.Context, act reporter.LifeAct) (b reporter.Booking, booked bool, err error)
}

// HeldReader lists held usage; every [reporter.WindowBooks] does.
type HeldReader interface {
	HeldUsage(ctx context.Context, ids []reporter.AdjustmentID, after reporter.AdjustmentID, limit int) ([]reporter.HeldUsage, error)
}

// LifeReader tells the lives of instances; every [reporter.LifeBooks] does.
type LifeReader interface {
	LifeOf(ctx context.Context, instanceID string) ([]reporter.LifeChange, error)
}

// BackfillIngester checks events that come late on purpose and makes them durable; [meter.Ingester] implements it.
type BackfillIngester interface {
	CheckBackfill(b *meter.Batch) (meter.Verdicts, *meter.EventRows)
	AcceptBackfill(ctx context.Context, b *meter.Batch, traceparent string) (meter.Verdicts, error)
}

// Backfiller says what events would change. The token of the effect is not used: the API makes its own.
type Backfiller interface {
	PreviewBackfill(ctx context.Context, rows *meter.EventRows) (meter.Effect, error)
}

// Voider makes stored events count no more. Its tokens bind one call to the next; the API makes others for its clients.
type Voider interface {
	PreviewVoid(ctx context.Context, req meter.VoidRequest) (meter.Effect, error)
	// VoidEvents returns once the void is durable. The error wraps [meter.ErrEffectChanged] if the token isn't that of a
	// preview whose effect holds; then nothing was done. Doing it again changes nothing.
	VoidEvents(ctx context.Context, req meter.VoidRequest, actor, reason, token string) (meter.Effect, error)
}

// EventReader lists the stored events behind usage, by time; next is "" on the last page.
type EventReader interface {
	UsageEvents(ctx context.Context, hour meter.Window, subject string, m meter.Meter, after string, limit int) (list []meter.UsageEvent, next string, err error)
}

// Breaker is the one in front of the marketplace; [reporter.Reporter] implements it.
type Breaker interface {
	Status() reporter.ReporterStatus
	// ResetBreaker permits calls again at once and forgets the alarm about a misconfiguration.
	ResetBreaker(actor string)
}

// Doors are what the routes work with that read the books or change them on a person's word. A route whose part is nil
// answers 501.
type Doors struct {
	Desk  Desk
	Held  HeldReader
	Lives LifeReader
	Audit reporter.AuditBooks

	// Backfill needs all three of BackfillIngester, Backfiller and Audit; Void needs Voider and Audit.
	BackfillIngester BackfillIngester
	Backfiller       Backfiller
	Voider           Voider
	Events           EventReader
	// Flush has everything that was taken inserted into the store, so that a preview sees it; nil: previews see what is
	// there.
	Flush func(ctx context.Context) error

	Breaker Breaker
	// Standby says that another daemon delivers, so that the breaker here says nothing; nil: never.
	Standby func() bool
	// Clock is nil where the machine's clock is not guarded.
	Clock Clock

	// Explain tells everything that led to a record, as [reporter.Explain] does.
	Explain func(ctx context.Context, sn reporter.MeteringSN) (reporter.Explanation, error)
	// Verify re-derives the books, as [reporter.Verify] does. The request gives Recount, From, To, Limit and Lines; the
	// rest is the daemon's.
	Verify func(ctx context.Context, o reporter.VerifyOptions) (reporter.Report, error)
}

// actTimeout bounds an act. It doesn't end with the request: an act that began is finished also when the client is gone.
const actTimeout = 5 * time.Minute

// flushTimeout bounds the flush before a preview. A store that is behind doesn't keep people from acting.
const flushTimeout = 20 * time.Second

// flush lets the store catch up before a preview.
func (a *API) flush(ctx context.Context) error {
	if a.o.Doors.Flush == nil || a.o.StoreOpen != nil && !a.o.StoreOpen() {
		return nil // what needs the store says so itself
	}
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	if err := a.o.Doors.Flush(ctx); err != nil {
		return &problem{
			Status: 503, Code: "unavailable", RetryAfter: 5, cause: err, store: true,
			Detail: "events that were taken are not in the store yet, so the effect can't be told; try again later",
		}
	}
	return nil
}
