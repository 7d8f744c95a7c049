package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// Limits of what a person says about an act.
const (
	maxReason   = 500
	maxOnBehalf = 100
	// maxActItems bounds how many records or amounts one act is about.
	maxActItems = 1000
)

// localActor stands for whoever asks from this machine while no API key is configured.
const localActor = "local"

// actFields are the members that every act has.
type actFields struct {
	Reason     string `json:"reason"`
	OnBehalfOf string `json:"on_behalf_of"`
}

// person checks the fields and returns who acts and why. The actor is the key's name; the one on whose behalf it acts is
// shown beside it, and nothing vouches for that.
func (f actFields) person(w *response) (actor, reason string, err error) {
	reason, err = plainText("reason", f.Reason, maxReason)
	if err != nil {
		return "", "", err
	}
	if reason == "" {
		return "", "", invalidRequest("reason: is required; it is kept in the audit log")
	}
	behalf, err := plainText("on_behalf_of", f.OnBehalfOf, maxOnBehalf)
	if err != nil {
		return "", "", err
	}
	actor = w.key
	if actor == "" {
		actor = localActor
	}
	if behalf != "" {
		actor += " for " + behalf
	}
	return actor, reason, nil
}

// plainText checks a text of a person: one line, bounded, without blanks around it.
func plainText(name, text string, limit int) (string, error) {
	text = strings.TrimSpace(text)
	switch {
	case len(text) > limit:
		return "", invalidRequest("%s: has %d bytes; at most %d are taken", name, len(text), limit)
	case !utf8.ValidString(text):
		return "", invalidRequest("%s: is not UTF-8", name)
	case strings.ContainsFunc(text, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }):
		return "", invalidRequest("%s: must be one line without control characters", name)
	}
	return text, nil
}

// finishing is the context of an act: it goes on when the client doesn't wait for it.
func finishing(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(r.Context()), actTimeout)
}

// notAvailable answers for a part that this daemon runs without.
func notAvailable(what string) error {
	return &problem{Status: http.StatusNotImplemented, Code: "not-available", Detail: what}
}

var (
	errNoDesk  = notAvailable("this daemon's books take no acts of people")
	errNoHeld  = notAvailable("this daemon's books can't list held usage")
	errNoLives = notAvailable("this daemon's books keep no lives of instances")
	errNoAudit = notAvailable("this daemon's books keep no audit log")
)

// actError is the answer to an act that failed: what the books don't permit is told, the rest is the store's.
func actError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, reporter.ErrNotFound), errors.Is(err, reporter.ErrUnknownRecord), errors.Is(err, reporter.ErrNotAllowed), errors.Is(err, reporter.ErrFuture),
		errors.Is(err, reporter.ErrClockAhead), errors.Is(err, reporter.ErrNotHolder), errors.Is(err, meter.ErrBadQuery):
		return err
	case errors.Is(err, meter.ErrEffectChanged):
		return &problem{
			Status: http.StatusServiceUnavailable, Code: "unavailable", RetryAfter: 2, cause: err,
			Detail: "events of it arrive all the time; nothing was done, do it again",
		}
	case errors.Is(err, reporter.ErrBookingTaken):
		return &problem{
			Status: http.StatusServiceUnavailable, Code: "unavailable", RetryAfter: 2, cause: err,
			Detail: "other bookings came first each time; nothing was changed, do it again",
		}
	}
	return storeError(err)
}

// audit writes an entry before its act: an act that nobody could be asked about doesn't happen.
func (a *API) audit(ctx context.Context, entry reporter.AuditEntry) error {
	entry.At = a.o.Now().UTC()
	if err := a.o.Doors.Audit.AppendAudit(ctx, []reporter.AuditEntry{entry}); err != nil {
		return storeError(fmt.Errorf("append to the audit log: %w", err))
	}
	return nil
}

// auditFailed notes that an act of which the log speaks did not happen, or not wholly. The act's own error is what counts.
func (a *API) auditFailed(ctx context.Context, entry reporter.AuditEntry, cause error) {
	entry.At, entry.Action = a.o.Now().UTC(), entry.Action+"_failed"
	if err := a.o.Doors.Audit.AppendAudit(ctx, []reporter.AuditEntry{entry}); err != nil {
		a.o.Logger.Error("the audit log speaks of an act that failed", "action", entry.Action, "actor", entry.Actor, "cause", cause, "err", err)
	}
}

// checkSNs checks the numbers of records of an act.
func checkSNs(name string, sns []reporter.MeteringSN) error {
	if len(sns) == 0 || len(sns) > maxActItems {
		return invalidRequest("%s: give from 1 to %d numbers of bill records (got %d)", name, maxActItems, len(sns))
	}
	seen := make(map[reporter.MeteringSN]bool, len(sns))
	for _, sn := range sns {
		if !isHexID(string(sn)) {
			return invalidRequest("%s: %s is not the number of a bill record, 32 lower-case hexadecimal digits", name, quoteShort(string(sn)))
		}
		if seen[sn] {
			return invalidRequest("%s: %s occurs more than once", name, sn)
		}
		seen[sn] = true
	}
	return nil
}

// isHexID reports whether a text is 32 lower-case hexadecimal digits.
func isHexID(text string) bool {
	if len(text) != 32 {
		return false
	}
	for i := range len(text) {
		if c := text[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// optionalTime is a time in UTC, nil for the zero time.
func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
