package telemetry

import (
	"context"
	"encoding/json"
	"net/http"
	"sort"
	"sync"
	"time"
)

// Check reports why something can't do its work, or nil. It must return within the context's deadline.
type Check func(ctx context.Context) error

// Health collects checks. Live answers "would a restart help"; ready answers "is this daemon doing its job", which
// includes progress: the age of the oldest event not yet stored and of the oldest hour not yet reported.
// The zero value has no checks and is healthy.
type Health struct {
	mu    sync.Mutex
	live  map[string]Check
	ready map[string]Check
}

// AddLive adds a check to /healthz/live.
func (h *Health) AddLive(name string, c Check) { h.add(&h.live, name, c) }

// AddReady adds a check to /healthz/ready.
func (h *Health) AddReady(name string, c Check) { h.add(&h.ready, name, c) }

func (h *Health) add(to *map[string]Check, name string, c Check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if *to == nil {
		*to = map[string]Check{}
	}
	(*to)[name] = c
}

// LiveHandler serves /healthz/live.
func (h *Health) LiveHandler() http.Handler { return h.handler(&h.live) }

// ReadyHandler serves /healthz/ready.
func (h *Health) ReadyHandler() http.Handler { return h.handler(&h.ready) }

// checkTimeout bounds all checks of one request together.
const checkTimeout = 4 * time.Second

// healthAnswer is the body of both endpoints.
type healthAnswer struct {
	Status string            `json:"status"` // "ok" or "failing"
	Checks map[string]string `json:"checks"` // name → "ok" or the reason
}

func (h *Health) handler(set *map[string]Check) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
		defer cancel()
		answer := h.run(ctx, set)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if answer.Status != "ok" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(answer) // the client went away; nobody is left to tell
	})
}

// run executes the checks side by side, so that one that hangs doesn't hide the others.
func (h *Health) run(ctx context.Context, set *map[string]Check) healthAnswer {
	h.mu.Lock()
	names := make([]string, 0, len(*set))
	for name := range *set {
		names = append(names, name)
	}
	sort.Strings(names)
	checks := make([]Check, len(names))
	for i, name := range names {
		checks[i] = (*set)[name]
	}
	h.mu.Unlock()

	type verdict struct {
		name string
		err  error
	}
	verdicts := make(chan verdict, len(names))
	for i, check := range checks {
		go func() { verdicts <- verdict{names[i], check(ctx)} }()
	}
	answer := healthAnswer{Status: "ok", Checks: map[string]string{}}
	for _, name := range names {
		answer.Checks[name] = "no answer in time"
	}
	for range names {
		select {
		case v := <-verdicts:
			answer.Checks[v.name] = "ok"
			if v.err != nil {
				answer.Checks[v.name] = v.err.Error()
			}
		case <-ctx.Done():
			answer.Status = "failing"
			return answer
		}
	}
	for _, text := range answer.Checks {
		if text != "ok" {
			answer.Status = "failing"
		}
	}
	return answer
}
