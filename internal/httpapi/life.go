package httpapi

import (
	"net/http"
	"time"

	"github.com/meterd/meterd/reporter"
)

// maxInstanceID bounds the marketplace's id of an instance.
const maxInstanceID = 256

// lifeChanges are the words for what happens to an instance.
var lifeChanges = map[string]reporter.LifeChangeKind{
	reporter.LifeOpened.String(): reporter.LifeOpened, reporter.LifeFrozen.String(): reporter.LifeFrozen,
	reporter.LifeUnfrozen.String(): reporter.LifeUnfrozen, reporter.LifeReleased.String(): reporter.LifeReleased,
}

// lifeView is a change in an instance's life in the API.
type lifeView struct {
	Kind       reporter.LifeChangeKind `json:"kind"`
	At         time.Time               `json:"at"`
	RecordedAt time.Time               `json:"recorded_at"`
	Actor      string                  `json:"actor,omitempty"`
	Reason     string                  `json:"reason,omitempty"`
}

// instanceOf is the instance that the path names.
func instanceOf(r *http.Request) (string, error) {
	id := r.PathValue("id")
	checked, err := plainText("id of the instance", id, maxInstanceID)
	if err != nil {
		return "", err
	}
	if checked == "" || checked != id {
		return "", invalidRequest("id of the instance: is empty or has blanks around it")
	}
	return id, nil
}

// getLife answers with the changes in an instance's life, oldest first. An instance without any counts as always open.
func (a *API) getLife(w *response, r *http.Request) error {
	if a.o.Doors.Lives == nil {
		return errNoLives
	}
	if err := readParams(r.URL).err(); err != nil {
		return err
	}
	id, err := instanceOf(r)
	if err != nil {
		return err
	}
	changes, err := a.o.Doors.Lives.LifeOf(r.Context(), id)
	if err != nil {
		return actError(err)
	}
	answer := struct {
		InstanceID string     `json:"instance_id"`
		Changes    []lifeView `json:"changes"`
	}{id, make([]lifeView, 0, len(changes))}
	for _, c := range changes {
		answer.Changes = append(answer.Changes, lifeView{c.Kind, c.At.UTC(), c.RecordedAt.UTC(), c.Actor, c.Reason})
	}
	return writeJSON(w, answer)
}

// lifeBody is the body of a change in an instance's life.
type lifeBody struct {
	actFields

	Kind string    `json:"kind"`
	At   time.Time `json:"at"`
}

// postLife notes a change in an instance's life. A release or freeze bills what the instance used so far at once.
func (a *API) postLife(w *response, r *http.Request) error {
	if a.o.Doors.Desk == nil {
		return errNoDesk
	}
	id, err := instanceOf(r)
	if err != nil {
		return err
	}
	var body lifeBody
	if err := a.readAct(w, r, &body); err != nil {
		return err
	}
	actor, reason, err := body.person(w)
	if err != nil {
		return err
	}
	kind, known := lifeChanges[body.Kind]
	if !known {
		return invalidRequest("kind: must be opened, frozen, unfrozen or released (got %s)", quoteShort(body.Kind))
	}
	at, now := body.At.UTC().Truncate(time.Second), a.o.Now().UTC().Truncate(time.Second) // as the books keep it
	switch {
	case body.At.IsZero():
		at = now
	case at.After(now):
		return invalidRequest("at: must not be in the future (got %s; it is %s)", at.Format(time.RFC3339), now.Format(time.RFC3339))
	}
	ctx, cancel := finishing(r)
	defer cancel()
	booking, booked, err := a.o.Doors.Desk.ChangeLife(ctx, reporter.LifeAct{InstanceID: id, Kind: kind, At: at, Actor: actor, Reason: reason})
	if err != nil {
		return actError(err)
	}
	answer := struct {
		InstanceID string                  `json:"instance_id"`
		Kind       reporter.LifeChangeKind `json:"kind"`
		At         time.Time               `json:"at"`
		Booking    *bookingView            `json:"booking,omitempty"`
	}{InstanceID: id, Kind: kind, At: at}
	if booked {
		view := viewBooking(&booking)
		answer.Booking = &view
	}
	return writeJSON(w, answer)
}
