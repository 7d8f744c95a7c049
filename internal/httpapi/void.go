package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// maxVoidIDs bounds how many single events one void names; maxAttribute is what ingest takes of an attribute.
const (
	maxVoidIDs   = 10_000
	maxAttribute = 1024
)

var errNoVoid = notAvailable("this daemon's store can't void events")

// voidBody is the body of a void.
type voidBody struct {
	actFields

	Subject string    `json:"subject"`
	Source  string    `json:"source"`
	IDs     []string  `json:"ids"`
	Type    string    `json:"type"`
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
}

// request checks the body and returns what it selects.
func (b *voidBody) request() (meter.VoidRequest, error) {
	v := meter.VoidRequest{Subject: b.Subject, Source: b.Source, IDs: b.IDs, Type: b.Type, From: b.From.UTC(), To: b.To.UTC()}
	for _, field := range []struct{ name, value string }{{"subject", b.Subject}, {"source", b.Source}, {"type", b.Type}} {
		if len(field.value) > maxAttribute {
			return v, invalidRequest("%s: has %d bytes; no event has more than %d", field.name, len(field.value), maxAttribute)
		}
	}
	switch {
	case v.Subject == "":
		return v, invalidRequest("subject: is required; a void is about one subject")
	case len(v.IDs) == 0 && v.From.IsZero() && v.To.IsZero():
		return v, invalidRequest("ids: give the events' ids with their source, or a period from from to to")
	case len(v.IDs) > 0 && v.Source == "":
		return v, invalidRequest("source: is required with ids; an event is known by both")
	case v.From.IsZero() != v.To.IsZero():
		return v, invalidRequest("from and to: give both or none")
	case !v.From.IsZero() && !v.From.Before(v.To):
		return v, invalidRequest("from: must be before to")
	case len(v.IDs) > maxVoidIDs:
		return v, invalidRequest("ids: at most %d are taken (got %d)", maxVoidIDs, len(v.IDs))
	}
	seen := make(map[string]bool, len(v.IDs))
	for i, id := range v.IDs {
		switch {
		case id == "" || len(id) > maxAttribute:
			return v, invalidRequest("ids: the one at %d must have from 1 to %d bytes", i, maxAttribute)
		case seen[id]:
			return v, invalidRequest("ids: %s occurs more than once", quoteShort(id))
		}
		seen[id] = true
	}
	return v, nil
}

// postVoid makes stored events count no more. Without a token it says what that would change.
func (a *API) postVoid(w *response, r *http.Request) error {
	if a.o.Doors.Voider == nil || a.o.Doors.Audit == nil {
		return errNoVoid
	}
	p := readParams(r.URL)
	commit := p.commitParam()
	if err := p.err(); err != nil {
		return err
	}
	var body voidBody
	if err := a.readJSON(w, r, &body); err != nil {
		return err
	}
	actor, reason, err := body.person(w)
	if err != nil {
		return err
	}
	request, err := body.request()
	if err != nil {
		return err
	}
	ctx, cancel := finishing(r)
	defer cancel()
	if err := a.flush(ctx); err != nil {
		return err
	}
	v := voiding{request: request, actor: actor, reason: reason, commit: commit}
	effect, err := a.void(ctx, &v)
	if err != nil {
		return err
	}
	return writeJSON(w, effectAnswer{commit != "", effect})
}

// voiding is one void under way.
type voiding struct {
	request               meter.VoidRequest
	actor, reason, commit string
	entry                 reporter.AuditEntry // zero until it is in the audit log
}

// voidTries is how often a void is computed again because events arrive that leave its differences as they were.
const voidTries = 5

// void previews and, with a token that fits, commits.
func (a *API) void(ctx context.Context, v *voiding) (effect meter.Effect, err error) {
	for range voidTries {
		effect, err = a.o.Doors.Voider.PreviewVoid(ctx, v.request)
		if err != nil {
			return effect, a.voidFailed(ctx, v, actError(err))
		}
		token := effect.Token
		setToken(&effect, canonical(v.request), v.reason)
		if v.commit == "" {
			return effect, nil
		}
		if err := checkToken(v.commit, effect); err != nil {
			return effect, a.voidFailed(ctx, v, err)
		}
		if v.entry.Action == "" {
			entry := reporter.AuditEntry{
				Actor: v.actor, Action: "void", Target: v.request.Subject, Reason: v.reason,
				Detail: describeVoid(v.request) + ", " + describeEffect(effect),
			}
			if err := a.audit(ctx, entry); err != nil {
				return effect, err
			}
			v.entry = entry
		}
		_, err = a.o.Doors.Voider.VoidEvents(ctx, v.request, v.actor, v.reason, token)
		if err == nil {
			a.o.Logger.Info("events voided", "actor", v.actor, "events", effect.Events, "already", effect.Already)
			return effect, nil
		}
		if !errors.Is(err, meter.ErrEffectChanged) {
			break
		}
	}
	return effect, a.voidFailed(ctx, v, actError(err))
}

// voidFailed notes in the audit log, if it speaks of the void already, that it failed.
func (a *API) voidFailed(ctx context.Context, v *voiding, err error) error {
	if v.entry.Action != "" {
		a.auditFailed(ctx, v.entry, err)
	}
	return err
}

// describeVoid says in a few words what a void selects.
func describeVoid(v meter.VoidRequest) string {
	text := "all types"
	if v.Type != "" {
		text = "type " + quoteShort(v.Type)
	}
	if len(v.IDs) > 0 {
		text += fmt.Sprintf(", %d ids of source %s beginning with %s", len(v.IDs), quoteShort(v.Source), quoteShort(v.IDs[0]))
	}
	if !v.From.IsZero() {
		text += ", from " + v.From.Format(time.RFC3339) + " to " + v.To.Format(time.RFC3339)
	}
	return text
}
