package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"
)

// maxAdminBody bounds the body of an administration request: some 100,000 instances.
const maxAdminBody = 32 << 20

// adminError is an error with its HTTP status.
type adminError struct {
	status int
	err    error
}

func (e *adminError) Error() string { return e.err.Error() }
func (e *adminError) Unwrap() error { return e.err }

// badRequest marks an error of the caller.
func badRequest(err error) error { return &adminError{http.StatusBadRequest, err} }

// newAdminHandler routes the page and the administration. Requests that a browser sends for another site are refused.
func (s *Sandbox) newAdminHandler() (http.Handler, error) {
	page, err := newPage()
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	handle := func(pattern string, h func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { s.adminCall(w, r, h) })
	}
	handle("GET /{$}", func(w http.ResponseWriter, r *http.Request) error { return s.servePage(w, r, page) })
	handle("GET "+stylePath, page.serveStyle)
	handle("GET /sandbox/v1/records", s.getRecords)
	handle("GET /sandbox/v1/records.csv", s.getRecordsCSV)
	handle("GET /sandbox/v1/summary", func(w http.ResponseWriter, _ *http.Request) error { return writeJSON(w, s.Summary()) })
	handle("GET /sandbox/v1/requests", s.getRequests)
	handle("GET /sandbox/v1/instances", func(w http.ResponseWriter, _ *http.Request) error {
		return writeJSON(w, map[string]any{"instances": s.Instances()})
	})
	handle("POST /sandbox/v1/instances", s.postInstances)
	handle("GET /sandbox/v1/faults", func(w http.ResponseWriter, _ *http.Request) error {
		return writeJSON(w, map[string]any{"faults": s.Faults()})
	})
	handle("POST /sandbox/v1/faults", s.postFault)
	handle("DELETE /sandbox/v1/faults", s.deleteFaults)
	handle("DELETE /sandbox/v1/faults/{id}", s.deleteFaults)
	handle("POST /sandbox/v1/advance", s.postAdvance)
	handle("POST /sandbox/v1/validate", func(w http.ResponseWriter, _ *http.Request) error { return s.answerClock(w, s.Validate()) })
	handle("POST /sandbox/v1/reset", func(w http.ResponseWriter, _ *http.Request) error { return s.answerClock(w, s.Reset()) })
	handle("/", func(_ http.ResponseWriter, r *http.Request) error {
		return &adminError{http.StatusNotFound, fmt.Errorf("there is no %s %s; see docs/sandbox.md", clip(r.Method, 20), quoteClip(r.URL.Path))}
	})
	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeAdminError(w, http.StatusForbidden, "the request comes from another site")
	}))
	return guard.Handler(mux), nil
}

// adminCall brings the state up to the clock, runs a handler and turns its error into an answer.
func (s *Sandbox) adminCall(w http.ResponseWriter, r *http.Request, h func(http.ResponseWriter, *http.Request) error) {
	err := s.Advance()
	if err == nil {
		err = h(w, r)
	}
	if err == nil {
		return
	}
	if known, ok := errors.AsType[*adminError](err); ok {
		writeAdminError(w, known.status, known.Error())
		return
	}
	s.opts.Logger.Error("administration request failed", "path", clip(r.URL.Path, 200), "err", err)
	writeAdminError(w, http.StatusInternalServerError, err.Error())
}

// writeAdminError answers {"error": …}.
func writeAdminError(w http.ResponseWriter, status int, msg string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": msg})
}

// writeJSON answers with a value.
func writeJSON(w http.ResponseWriter, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(body, '\n')) // The caller may be gone.
	return nil
}

// readJSON reads a body strictly; an empty one leaves the value as it is if that is allowed.
func readJSON(w http.ResponseWriter, r *http.Request, into any, mayBeEmpty bool) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAdminBody))
	if err != nil {
		return badRequest(fmt.Errorf("read body: %w", err))
	}
	if len(body) == 0 && mayBeEmpty {
		return nil
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return &adminError{http.StatusUnsupportedMediaType, errors.New("header Content-Type must be application/json")}
	}
	if err := decodeStrict(body, into); err != nil {
		return badRequest(err)
	}
	return nil
}

func (s *Sandbox) getRecords(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilter(r.URL.Query(), "state", "instance", "from", "to", "after", "limit")
	if err != nil {
		return badRequest(err)
	}
	page, total, next := s.query(f)
	return writeJSON(w, struct {
		Records []Record `json:"records"`
		Total   int      `json:"total"`
		Next    int64    `json:"next_after,omitempty"`
	}{page, total, next})
}

func (s *Sandbox) getRecordsCSV(w http.ResponseWriter, r *http.Request) error {
	f, err := parseFilter(r.URL.Query(), "state", "instance", "from", "to")
	if err != nil {
		return badRequest(err)
	}
	f.limit = 0
	records, _, _ := s.query(f)
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="sandbox-records.csv"`)
	w.Header().Set("Cache-Control", "no-store")
	if err := writeCSV(w, records); err != nil {
		// Part of the file may have been sent: only a broken connection tells the reader that it is incomplete.
		s.opts.Logger.Warn("the CSV export broke off", "err", err)
		panic(http.ErrAbortHandler)
	}
	return nil
}

func (s *Sandbox) getRequests(w http.ResponseWriter, _ *http.Request) error {
	calls, total := s.calls.list()
	if calls == nil {
		calls = []Call{}
	}
	return writeJSON(w, struct {
		Requests []Call `json:"requests"`
		Total    int64  `json:"total"`
	}{calls, total})
}

func (s *Sandbox) postInstances(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Instances []Instance `json:"instances"`
	}
	if err := readJSON(w, r, &in, false); err != nil {
		return err
	}
	if len(in.Instances) == 0 {
		return badRequest(errors.New(`instances is empty; expected {"instances":[{"instance_id":"…"}]}`))
	}
	for _, inst := range in.Instances {
		if err := inst.validate(); err != nil {
			return badRequest(err)
		}
	}
	if err := s.Declare(in.Instances...); err != nil {
		return err
	}
	return writeJSON(w, map[string]any{"declared": len(in.Instances)})
}

func (s *Sandbox) postFault(w http.ResponseWriter, r *http.Request) error {
	var f Fault
	if err := readJSON(w, r, &f, false); err != nil {
		return err
	}
	f, err := s.Inject(f)
	if err != nil {
		return badRequest(err)
	}
	return writeJSON(w, f)
}

func (s *Sandbox) deleteFaults(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	removed := s.RemoveFaults(id)
	if id != "" && removed == 0 {
		return &adminError{http.StatusNotFound, fmt.Errorf("there is no fault %s", quoteClip(id))}
	}
	return writeJSON(w, map[string]any{"removed": removed})
}

func (s *Sandbox) postAdvance(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		By Duration  `json:"by"`
		To time.Time `json:"to"`
	}
	if err := readJSON(w, r, &in, true); err != nil {
		return err
	}
	by := time.Duration(in.By)
	if !in.To.IsZero() {
		if by != 0 {
			return badRequest(errors.New("give by or to, not both"))
		}
		by = in.To.Sub(s.Now())
	}
	if by < 0 {
		return badRequest(errors.New("the clock cannot go back"))
	}
	return s.answerClock(w, s.AdvanceBy(by))
}

// answerClock answers where the clock stands after an action.
func (s *Sandbox) answerClock(w http.ResponseWriter, err error) error {
	if err != nil {
		return err
	}
	sum := s.Summary()
	return writeJSON(w, struct {
		Now            time.Time `json:"now"`
		NextCollection time.Time `json:"next_collection"`
		Total          Totals    `json:"total"`
	}{sum.Now, sum.NextCollection, sum.Total})
}
