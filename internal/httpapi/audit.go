package httpapi

import (
	"net/http"
	"time"

	"github.com/meterd/meterd/reporter"
)

// defaultAudit is how far back the audit log is listed when from isn't given.
const defaultAudit = 90 * 24 * time.Hour

// listAudit answers with what people did in [from, to), newest first. more says that the limit cut the list.
func (a *API) listAudit(w *response, r *http.Request) error {
	if a.o.Doors.Audit == nil {
		return errNoAudit
	}
	p := readParams(r.URL)
	from, to := p.period()
	limit := p.limit(defaultPage, maxPage)
	if err := p.err(); err != nil {
		return err
	}
	if to.IsZero() {
		to = a.o.Now().UTC().Add(time.Minute) // entries of another daemon whose clock is a little ahead
	}
	if from.IsZero() {
		from = to.Add(-defaultAudit)
	}
	entries, err := a.o.Doors.Audit.Audit(r.Context(), from, to, limit+1)
	if err != nil {
		return storeError(err)
	}
	answer := struct {
		Entries []reporter.AuditEntry `json:"entries"`
		More    bool                  `json:"more"`
	}{entries[:min(len(entries), limit)], len(entries) > limit}
	if answer.Entries == nil {
		answer.Entries = []reporter.AuditEntry{}
	}
	return writeJSON(w, answer)
}
