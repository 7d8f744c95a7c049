package httpapi

import (
	"net/http"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// heldView is held usage in the API.
type heldView struct {
	adjustmentView

	Open meter.Quantity `json:"open"`
}

// listHeld answers with a page of held usage that nobody decided about, oldest booking first.
func (a *API) listHeld(w *response, r *http.Request) error {
	if a.o.Doors.Held == nil {
		return errNoHeld
	}
	p := readParams(r.URL)
	limit := p.limit(defaultPage, maxActItems)
	after := p.one("after")
	if after != "" && !isHexID(after) {
		p.fault("after: must be the id of held usage (got " + quoteShort(after) + ")")
	}
	if err := p.err(); err != nil {
		return err
	}
	held, err := a.o.Doors.Held.HeldUsage(r.Context(), nil, reporter.AdjustmentID(after), limit)
	if err != nil {
		return actError(err)
	}
	page := struct {
		Held []heldView `json:"held"`
		Next string     `json:"next,omitempty"`
	}{Held: make([]heldView, 0, len(held))}
	for i := range held {
		page.Held = append(page.Held, heldView{viewAdjustment(&held[i].Adjustment), held[i].Open})
	}
	if len(held) == limit {
		page.Next = string(held[limit-1].ID)
		link(w, r, "after", page.Next)
	}
	return writeJSON(w, page)
}

// The words for a decision.
const (
	decideApprove  = "approve"
	decideWriteOff = "write_off"
)

// decideBody is the body of a decision about held usage.
type decideBody struct {
	actFields

	IDs      []reporter.AdjustmentID `json:"ids"`
	Decision string                  `json:"decision"`
}

func (b *decideBody) check() error {
	if len(b.IDs) == 0 || len(b.IDs) > maxActItems {
		return invalidRequest("ids: give from 1 to %d ids of held usage (got %d)", maxActItems, len(b.IDs))
	}
	seen := make(map[reporter.AdjustmentID]bool, len(b.IDs))
	for _, id := range b.IDs {
		switch {
		case !isHexID(string(id)):
			return invalidRequest("ids: %s is not the id of held usage, 32 lower-case hexadecimal digits", quoteShort(string(id)))
		case seen[id]:
			return invalidRequest("ids: %s occurs more than once", id)
		}
		seen[id] = true
	}
	if b.Decision != decideApprove && b.Decision != decideWriteOff {
		return invalidRequest("decision: must be approve or write_off (got %s)", quoteShort(b.Decision))
	}
	return nil
}

// postDecide books what a person decided about held usage.
func (a *API) postDecide(w *response, r *http.Request) error {
	if a.o.Doors.Desk == nil {
		return errNoDesk
	}
	var body decideBody
	if err := a.readAct(w, r, &body); err != nil {
		return err
	}
	actor, reason, err := body.person(w)
	if err != nil {
		return err
	}
	if err := body.check(); err != nil {
		return err
	}
	ctx, cancel := finishing(r)
	defer cancel()
	booking, err := a.o.Doors.Desk.Decide(ctx, reporter.Decision{
		IDs: body.IDs, Approve: body.Decision == decideApprove, Actor: actor, Reason: reason,
	})
	if err != nil {
		return actError(err)
	}
	return writeJSON(w, bookingAnswer{viewBooking(&booking)})
}

// readAct reads the body of an act; an act has no parameters in the URL.
func (a *API) readAct(w *response, r *http.Request, into any) error {
	if err := readParams(r.URL).err(); err != nil {
		return err
	}
	return a.readJSON(w, r, into)
}
