package reporter

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/meterd/meterd/internal/killpoint"
	"github.com/meterd/meterd/meter"
)

const (
	// bookAttempts bounds how often a booking is computed again because others took its number.
	bookAttempts = 8
	// askTimeout bounds the question whether a commit that ended with an error went through.
	askTimeout = 30 * time.Second
	// sampleSize bounds how many records or adjustments of one booking are logged one by one above debug level.
	sampleSize = 10
	// versionRandomBits are the lowest bits of a version, chosen by chance so that two processes never share one.
	versionRandomBits = 16
)

var (
	// errRepeat is returned by a fill that learned something on its way that it needs from the beginning: its rows are
	// abandoned and made again.
	errRepeat = errors.New("the booking must be made again")
	// errNothing is returned by a fill that found nothing to book.
	errNothing = errors.New("there is nothing to book")
)

// fill computes a booking: it reads the books, which are as of the booking before, and puts rows into the draft. It may be
// called several times for one booking, each time with an empty draft.
type fill func(ctx context.Context, d *draft) error

// bookkeeper makes the bookings of this process, one at a time. It is safe for concurrent use.
type bookkeeper struct {
	books    WindowBooks
	now      func() time.Time
	random   func() uint64
	chunk    int
	log      *slog.Logger
	observer Observer

	turn        chan struct{} // holds one token; whoever took it may book
	lastVersion uint64        // guarded by turn
}

// chance is the usual source of random bits.
func chance() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint64(b[:])
}

// book makes one booking like b, whose number, version and time it sets. It returns the draft as committed. The error
// wraps errNothing when fill found nothing to book; after any other error, computing it again from the books is safe.
func (k *bookkeeper) book(ctx context.Context, b Booking, f fill) (*draft, error) {
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	began := k.now()
	for taken := 0; ; {
		// Everything else is read after this: if somebody books meanwhile, the number turns out to be taken.
		last, _, err := k.books.LastBooking(ctx)
		if err != nil {
			return nil, fmt.Errorf("read last booking: %w", err)
		}
		b.Number, b.Version, b.At = last.Number+1, k.nextVersion(last.Version), k.now().UTC()
		d := &draft{k: k, Booking: b, states: map[State]uint64{}}
		switch err := d.make(ctx, f); {
		case err == nil:
			d.tell(ctx, k.now().Sub(began))
			return d, nil
		case errors.Is(err, errRepeat):
		case errors.Is(err, ErrBookingTaken):
			k.log.Info("another process took the number of a booking; computing it again", "booking", b.Number,
				"kind", b.Kind.String(), "window_start", b.Window.Start)
			if taken++; taken == bookAttempts {
				return nil, fmt.Errorf("others booked first %d times in a row; is another daemon working on these books? %w", taken, err)
			}
		default:
			return nil, err
		}
	}
}

// nextVersion returns a version above every one used before, by this process and by the last booking.
func (k *bookkeeper) nextVersion(last uint64) uint64 {
	const mask = 1<<versionRandomBits - 1
	floor := max(k.lastVersion, last) + 1
	if ns := k.now().UnixNano(); ns > 0 {
		floor = max(floor, uint64(ns))
	}
	version := floor&^mask | k.random()&mask
	if version < floor {
		version += mask + 1
	}
	k.lastVersion = version
	return version
}

// commit takes the booking's number. When the books can't say whether they took it, it asks them by the version.
func (k *bookkeeper) commit(ctx context.Context, b Booking) error {
	err := k.books.Commit(ctx, b)
	if err == nil || errors.Is(err, ErrBookingTaken) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	last, ok, askErr := k.books.LastBooking(ctx)
	if askErr == nil && ok && last.Version == b.Version {
		k.log.Info("a booking was committed although an error was reported", "booking", b.Number, "err", err)
		return nil
	}
	return errors.Join(err, askErr)
}

// draft is a booking that is being made: its rows on their way into the books. They don't count before it is committed.
type draft struct {
	Booking

	k      *bookkeeper
	rows   Rows // not written yet
	queued int
	// abandoned says that nothing of this attempt will count: nothing more is written.
	abandoned bool

	states      map[State]uint64 // records by first state
	adjustments []Adjustment     // all of them, to be told once they count
	held        []BillRecord     // a sample
}

// make computes the booking, writes its rows and commits it.
func (d *draft) make(ctx context.Context, f fill) error {
	if err := f(ctx, d); err != nil {
		return err
	}
	killpoint.Hit("booking.before")
	if err := d.write(ctx); err != nil {
		return err
	}
	killpoint.Hit("booking.rows_written")
	if err := d.k.commit(ctx, d.Booking); err != nil {
		return fmt.Errorf("commit booking %d: %w", d.Number, err)
	}
	killpoint.Hit("booking.committed")
	return nil
}

func (d *draft) usage(u HourlyUsage) {
	u.Version = d.Version
	d.rows.Usage = append(d.rows.Usage, u)
	d.Usages++
	d.queued++
}

// record adds a bill record in its first state.
func (d *draft) record(r BillRecord, state State, reason string) {
	r.Booked, r.Version = d.Window, d.Version
	r.Last = Transition{SN: r.SN, Booked: r.Booked, Seq: 1, State: state, At: d.At, Actor: d.Actor, Message: reason}
	d.rows.Records = append(d.rows.Records, r)
	d.Records++
	d.queued++
	d.states[state]++
	if state == StateHeld && len(d.held) < sampleSize {
		d.held = append(d.held, r)
	}
}

// adjust adds an adjustment, of which it sets what is the booking's. what tells apart adjustments of one account, hour and
// destination.
func (d *draft) adjust(a Adjustment, what string) {
	a.ID = adjustmentID(d.Number, a, what)
	a.Booking, a.Version, a.Booked, a.Actor, a.At = d.Number, d.Version, d.Window, d.Actor, d.At
	d.rows.Adjustments = append(d.rows.Adjustments, a)
	d.adjustments = append(d.adjustments, a)
	d.Adjustments++
	d.queued++
}

// adjustmentID derives the number of an adjustment.
func adjustmentID(booking uint64, a Adjustment, what string) AdjustmentID {
	h := sha256.New()
	for _, part := range []string{
		"meterd/adjustment/1", strconv.FormatUint(booking, 10), a.Hour.Start.UTC().Format(time.RFC3339), a.Subject, a.Meter,
		a.Into.String(), what,
	} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return AdjustmentID(hex.EncodeToString(h.Sum(nil)[:16]))
}

func (d *draft) balance(b Balance) {
	d.rows.Balances = append(d.rows.Balances, b)
	d.Balances++
	d.queued++
}

// cover says that the hour was counted with everything that the touches announced.
func (d *draft) cover(hour meter.Window, touches []uint64) {
	for _, touch := range touches {
		d.rows.Covers = append(d.rows.Covers, Cover{Hour: hour, Touch: touch})
	}
	d.Covers += uint64(len(touches))
	d.queued += len(touches)
}

// spill writes what is queued once it is much.
func (d *draft) spill(ctx context.Context) error {
	if d.queued < d.k.chunk {
		return nil
	}
	return d.write(ctx)
}

// write writes what is queued.
func (d *draft) write(ctx context.Context) error {
	if d.abandoned {
		d.rows, d.queued = Rows{}, 0
	}
	if d.queued == 0 {
		return nil
	}
	if err := d.k.books.WriteRows(ctx, d.Booking, d.rows); err != nil {
		return fmt.Errorf("write rows: %w", err)
	}
	if d.k.log.Enabled(ctx, slog.LevelDebug) {
		for _, r := range d.rows.Records {
			d.k.log.Debug("bill record written", "record_id", r.SN, "instance_id", r.InstanceID, "subject", r.Subject,
				"meter", r.Meter, "window_start", r.Window.Start, "state", r.Last.State, "billed", r.Billed.String(),
				"reason", r.Last.Message)
		}
	}
	d.rows, d.queued = Rows{}, 0
	return nil
}

// tell tells people and metrics about a committed booking.
func (d *draft) tell(ctx context.Context, took time.Duration) {
	log := d.k.log
	log.Info("booked", "booking", d.Number, "kind", d.Kind.String(), "window_start", d.Window.Start, "events", d.Events,
		"usages", d.Usages, "records", d.Records, "adjustments", d.Adjustments, "pending", d.states[StatePending],
		"carried", d.states[StateCarried], "held", d.states[StateHeld], "instance_id", d.InstanceID, "actor", d.Actor,
		"version", d.Version, "took", took)
	for _, r := range d.held {
		log.Warn("bill record held, a person must act", "record_id", r.SN, "instance_id", r.InstanceID, "subject", r.Subject,
			"meter", r.Meter, "window_start", r.Window.Start, "reason", r.Last.Message)
	}
	if held := d.states[StateHeld]; held > uint64(len(d.held)) {
		log.Warn("more bill records held by this booking; list the records in state held", "booking", d.Number, "held", held)
	}
	d.tellAdjustments(ctx)
	for _, state := range States() {
		if n := d.states[state]; n > 0 {
			d.k.observer.RecordsChanged(state, int(n)) //nolint:gosec // a count of records
		}
	}
	d.k.observer.Booked(d.Booking, took)
}

func (d *draft) tellAdjustments(ctx context.Context) {
	warned := 0
	for _, a := range d.adjustments {
		level := slog.LevelDebug
		if (a.Into == IntoHeld || a.Into == IntoUnbillable || a.Into == IntoWrittenOff) && a.Quantity.Sign() > 0 && warned < sampleSize {
			level = slog.LevelWarn
			warned++
		}
		d.k.log.Log(ctx, level, "usage adjusted", "adjustment_id", a.ID, "into", a.Into.String(),
			"quantity", a.Quantity.String(), "subject", a.Subject, "meter", a.Meter, "instance_id", a.InstanceID,
			"window_start", a.Hour.Start, "reason", a.Reason)
		d.k.observer.Adjusted(a)
	}
}
