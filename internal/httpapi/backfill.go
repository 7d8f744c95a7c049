package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

var errNoBackfill = notAvailable("this daemon takes no backfills")

// postBackfill takes events that are older than the ordinary door takes. Without a token it says what they would change.
func (a *API) postBackfill(w *response, r *http.Request) error {
	d := &a.o.Doors
	if d.BackfillIngester == nil || d.Backfiller == nil || d.Audit == nil {
		return errNoBackfill
	}
	p := readParams(r.URL)
	fields := actFields{Reason: p.one("reason"), OnBehalfOf: p.one("on_behalf_of")}
	commit := p.commitParam()
	if err := p.err(); err != nil {
		return err
	}
	actor, reason, err := fields.person(w)
	if err != nil {
		return err
	}
	f, err := eventsForm(r.Header)
	if err != nil {
		return err
	}
	body, err := a.readBody(w, r)
	if err != nil {
		return err
	}
	defer body.release()
	batch := meter.NewBatch()
	defer batch.Release()
	if err := a.decode(batch, body, f, r.Header); err != nil {
		return err
	}
	ctx, cancel := finishing(r)
	defer cancel()
	effect, err := a.previewBackfill(ctx, batch, reason)
	if err != nil {
		return err
	}
	if commit == "" {
		return writeJSON(w, effectAnswer{false, effect})
	}
	if err := checkToken(commit, effect); err != nil {
		return err
	}
	if err := a.commitBackfill(ctx, batch, effect, actor, reason, traceparent(r.Header)); err != nil {
		return err
	}
	return writeJSON(w, effectAnswer{true, effect})
}

// previewBackfill computes the effect of the batch with its token, or refuses its bad events.
func (a *API) previewBackfill(ctx context.Context, batch *meter.Batch, reason string) (meter.Effect, error) {
	verdicts, rows := a.o.Doors.BackfillIngester.CheckBackfill(batch)
	if len(verdicts.Problems) > 0 {
		p := refusal(&verdicts)
		if p.Code == "invalid-events" {
			p.Detail = fmt.Sprintf("%d of %d events can't be taken, so the backfill isn't; mend or remove them and ask for a preview again",
				len(verdicts.Problems), len(verdicts.Statuses))
		}
		return meter.Effect{}, p
	}
	if rows.Len() == 0 {
		return meter.Effect{}, invalidRequest("the body holds no event")
	}
	if err := a.flush(ctx); err != nil {
		return meter.Effect{}, err
	}
	effect, err := a.o.Doors.Backfiller.PreviewBackfill(ctx, rows)
	if err != nil {
		return meter.Effect{}, actError(err)
	}
	setToken(&effect, meter.AppendPayload(nil, &meter.Payload{Events: batch.Events}), reason)
	return effect, nil
}

// commitBackfill writes the audit log and then takes the events the ordinary way: through the spool.
func (a *API) commitBackfill(ctx context.Context, batch *meter.Batch, effect meter.Effect, actor, reason, trace string) error {
	entry := reporter.AuditEntry{
		Actor: actor, Action: "backfill", Reason: reason, Target: fmt.Sprintf("%d events", effect.Events),
		Detail: describeBatch(batch) + ", " + describeEffect(effect),
	}
	if err := a.audit(ctx, entry); err != nil {
		return err
	}
	verdicts, err := a.o.Doors.BackfillIngester.AcceptBackfill(ctx, batch, trace)
	if err == nil && len(verdicts.Problems) > 0 {
		err = refusal(&verdicts) // an event became too old since the check
	}
	if err != nil {
		a.auditFailed(ctx, entry, err)
		return err
	}
	a.o.Logger.Info("backfill taken", "actor", actor, "events", verdicts.Accepted)
	return nil
}

// describeBatch says in a few words what a batch is about.
func describeBatch(batch *meter.Batch) string {
	subjects := map[string]struct{}{}
	first, last := batch.Events[0].Time, batch.Events[0].Time
	for i := range batch.Events {
		ev := &batch.Events[i]
		subjects[string(ev.Subject)] = struct{}{}
		first, last = min(first, ev.Time), max(last, ev.Time)
	}
	return fmt.Sprintf("%d subjects, from %s to %s", len(subjects),
		time.Unix(0, first).UTC().Format(time.RFC3339), time.Unix(0, last).UTC().Format(time.RFC3339))
}

// describeEffect says in a few words what an effect is.
func describeEffect(e meter.Effect) string {
	closed := 0
	for _, l := range e.Lines {
		if l.Closed {
			closed++
		}
	}
	return fmt.Sprintf("%d of %d events without effect, %d amounts changed, %d of them in closed hours", e.Already, e.Events, len(e.Lines), closed)
}
