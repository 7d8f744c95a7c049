package httpapi

import (
	"net/http"
	"strconv"

	"github.com/meterd/meterd/meter"
)

// maxReplay bounds how many letters one request replays.
const maxReplay = 1000

var errNoDeadLetters = notFound("refused events aren't kept; set ingest.dead_letter_max")

// listDeadLetters answers with a page of refused events, oldest first.
func (a *API) listDeadLetters(w *response, r *http.Request) error {
	if a.o.DeadLetters == nil {
		return errNoDeadLetters
	}
	p := readParams(r.URL)
	limit := p.limit(defaultPage, maxReplay)
	var after uint64
	if text := p.one("after"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			p.fault("after: must be the id of a dead letter (got " + quoteShort(text) + ")")
		}
		after = n
	}
	if err := p.err(); err != nil {
		return err
	}
	letters, next, err := a.o.DeadLetters.List(after, limit)
	if err != nil {
		return err
	}
	if letters == nil {
		letters = []meter.DeadLetter{}
	}
	if next > 0 {
		link(w, r, "after", strconv.FormatUint(next, 10))
	}
	return writeJSON(w, struct {
		DeadLetters []meter.DeadLetter `json:"dead_letters"`
		Next        uint64             `json:"next,omitempty"`
	}{letters, next})
}

// replayed is what became of one replayed letter.
type replayed struct {
	ID     uint64       `json:"id"`
	Status string       `json:"status"` // of the event, or "unknown" when there is no such letter
	Reason meter.Reason `json:"reason,omitempty"`
	Field  string       `json:"field,omitempty"`
	Meter  string       `json:"meter,omitempty"`
	Detail string       `json:"detail,omitempty"`
}

// replayDeadLetters sends refused events through intake again, each for itself. Those that are taken now leave the
// dead letters after they are durable; a crash in between is harmless, because an event counts once.
func (a *API) replayDeadLetters(w *response, r *http.Request) error {
	if a.o.DeadLetters == nil {
		return errNoDeadLetters
	}
	var request struct {
		IDs []uint64 `json:"ids"`
	}
	if err := a.readJSON(w, r, &request); err != nil {
		return err
	}
	if len(request.IDs) == 0 || len(request.IDs) > maxReplay {
		return invalidRequest("ids: give from 1 to %d ids of dead letters (got %d)", maxReplay, len(request.IDs))
	}
	letters, err := a.o.DeadLetters.Get(request.IDs...)
	if err != nil {
		return err
	}
	byID := map[uint64]*meter.DeadLetter{}
	for i := range letters {
		byID[letters[i].ID] = &letters[i]
	}
	results := make([]replayed, 0, len(request.IDs))
	var taken []uint64
	for _, id := range request.IDs {
		letter := byID[id]
		if letter == nil {
			results = append(results, replayed{ID: id, Status: "unknown", Detail: "there is no such dead letter"})
			continue
		}
		result, ok, err := a.replay(r, letter)
		if err != nil {
			// What was taken before is taken out below by nobody: sending it again is harmless, it counts once.
			return a.forget(taken, err)
		}
		if ok {
			taken = append(taken, id)
		}
		results = append(results, result)
	}
	if err := a.forget(taken, nil); err != nil {
		return err
	}
	return writeJSON(w, struct {
		Replayed int        `json:"replayed"`
		Results  []replayed `json:"results"`
	}{len(taken), results})
}

// forget removes replayed letters; cause is returned if that works.
func (a *API) forget(ids []uint64, cause error) error {
	if len(ids) == 0 {
		return cause
	}
	if _, err := a.o.DeadLetters.Remove(ids...); err != nil {
		return err
	}
	return cause
}

// replay sends one letter through intake.
func (a *API) replay(r *http.Request, letter *meter.DeadLetter) (result replayed, ok bool, err error) {
	result.ID = letter.ID
	if len(letter.Event) == 0 {
		result.Status, result.Reason = meter.StatusRejected.String(), letter.Reason
		result.Detail = "what was sent isn't JSON, so it can't be replayed; send a corrected event"
		return result, false, nil
	}
	batch := meter.NewBatch()
	defer batch.Release()
	batch.DecodeJSON(letter.Event, a.o.Decode)
	verdicts, err := a.o.Ingester.Accept(r.Context(), batch, traceparent(r.Header), meter.KeepGood)
	if err != nil {
		return result, false, err
	}
	if len(verdicts.Statuses) > 0 {
		result.Status = verdicts.Statuses[0].String()
	}
	if len(verdicts.Problems) > 0 {
		p := &verdicts.Problems[0]
		result.Status, result.Reason, result.Field, result.Meter, result.Detail = meter.StatusRejected.String(), p.Reason, p.Field, p.Meter, p.Detail
	}
	return result, verdicts.Stored && len(verdicts.Problems) == 0, nil
}
