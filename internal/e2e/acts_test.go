package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"
)

// acts are what people do meanwhile: they void events, release and freeze instances, decide about held usage; and a sender
// that is out of order sends events that are refused. Each act is repeated until it is done.
type acts struct {
	*load

	clock *fastClock
	stop  chan struct{}
	done  sync.WaitGroup

	mu     sync.Mutex
	counts map[string]int // acts that were done

	// Of the one who changes lives.
	frozen   string // the instance that is frozen; "" if none
	released int    // instances
}

// startActs starts acting on what a load sends.
func startActs(l *load, random *rand.Rand, c *fastClock) *acts {
	a := &acts{load: l, clock: c, stop: make(chan struct{}), counts: map[string]int{}}
	for _, next := range []func(*rand.Rand) (string, func() error){a.nextVoid, a.nextRefused, a.nextChange} {
		own := rand.New(rand.NewPCG(random.Uint64(), 0))
		a.done.Go(func() { a.run(own, next) })
	}
	l.t.Cleanup(a.finish)
	return a
}

// finish ends it after the act under way. It may be called again.
func (a *acts) finish() {
	select {
	case <-a.stop:
	default:
		close(a.stop)
	}
	a.done.Wait()
}

// run acts until it is told to finish.
func (a *acts) run(random *rand.Rand, next func(*rand.Rand) (name string, act func() error)) {
	for a.abort.Err() == nil {
		select {
		case <-a.stop:
			return
		default:
		}
		name, act := next(random)
		a.insist(name, act)
		a.rest(between(random, 0, 300*time.Millisecond))
	}
}

func (a *acts) nextVoid(random *rand.Rand) (string, func() error) { return "void", a.void(random) }

func (a *acts) nextRefused(random *rand.Rand) (string, func() error) {
	return "refused event", a.refused(random.Uint64())
}

func (a *acts) nextChange(random *rand.Rand) (string, func() error) {
	switch n := random.IntN(20); {
	case n < 6:
		return "decision", a.decide(random.IntN(2) == 0)
	case n == 6 && a.released < 2:
		a.released++
		return "release", a.change(fmt.Sprintf("customer-%02d.requests", a.released), "released", a.clock.Now().Add(-time.Minute))
	}
	return "freeze", a.freeze(random)
}

// insist repeats an act until it is done. An act is done when it returns nil.
func (a *acts) insist(name string, act func() error) {
	if act == nil {
		return
	}
	for a.abort.Err() == nil {
		err := act()
		if err == nil {
			a.mu.Lock()
			a.counts[name]++
			a.mu.Unlock()
			return
		}
		if !errors.Is(err, errTryAgain) {
			a.t.Errorf("%s: %v", name, err)
			return
		}
		a.rest(100 * time.Millisecond)
	}
}

// errTryAgain says that the daemon didn't answer, or asked to come again.
var errTryAgain = errors.New("try again")

// call makes one call and decodes the answer of a 200. Refusals give the status and the text.
func (a *acts) call(method, path, contentType string, body, answer any) (status int, text string, err error) {
	var encoded []byte
	switch b := body.(type) {
	case nil:
	case string:
		encoded = []byte(b)
	default:
		if encoded, err = json.Marshal(body); err != nil {
			return 0, "", err
		}
	}
	request, err := http.NewRequestWithContext(a.abort, method, a.url()+path, bytes.NewReader(encoded))
	if err != nil {
		return 0, "", err
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", fmt.Errorf("%w: %w", errTryAgain, err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return 0, "", fmt.Errorf("%w: %w", errTryAgain, err)
	case response.StatusCode == http.StatusServiceUnavailable || response.StatusCode == http.StatusTooManyRequests:
		return response.StatusCode, "", fmt.Errorf("%w: %s", errTryAgain, raw)
	case response.StatusCode == http.StatusOK && answer != nil:
		err = json.Unmarshal(raw, answer)
	}
	return response.StatusCode, string(raw), err
}

// void voids one acknowledged event; nil if there is none.
func (a *acts) void(random *rand.Rand) func() error {
	victim, ok := a.pick(random)
	if !ok {
		return nil
	}
	body := map[string]any{"subject": victim.subject, "source": victim.source, "ids": []string{victim.id}, "reason": "a test"}
	return func() error {
		var effect struct {
			Events, Already uint64
			Lines           []any
			Token           string
			Committed       bool
		}
		const path = "/api/v1/events:void"
		status, text, err := a.call(http.MethodPost, path, "application/json", body, &effect)
		if err != nil {
			return err
		}
		switch {
		case status != http.StatusOK:
			return fmt.Errorf("preview: %d: %s", status, text)
		case effect.Events == 0:
			return fmt.Errorf("preview of %s/%s: there is no such event: %s", victim.source, victim.id, text)
		case effect.Already == effect.Events: // an earlier try went through
			a.retract(&victim)
			return nil
		}
		status, text, err = a.call(http.MethodPost, path+"?commit="+effect.Token, "application/json", body, &effect)
		switch {
		case err != nil:
			return err
		case status == http.StatusConflict:
			return fmt.Errorf("%w: %s", errTryAgain, text)
		case status != http.StatusOK || !effect.Committed:
			return fmt.Errorf("commit: %d: %s", status, text)
		}
		a.retract(&victim)
		return nil
	}
}

// refused sends an event that can't be taken: it goes to the dead letters.
func (a *acts) refused(id uint64) func() error {
	return func() error {
		body := fmt.Sprintf(`{"specversion":"1.0","id":"bad-%d","source":"acts","type":"request","subject":"x","data":{}}`, id)
		status, text, err := a.call(http.MethodPost, "/api/v1/events", "application/cloudevents+json", body, nil)
		if err == nil && status != http.StatusBadRequest {
			err = fmt.Errorf("an event without a value was answered with %d: %s", status, text)
		}
		return err
	}
}

// decide approves or writes off what is held.
func (a *acts) decide(approve bool) func() error {
	return func() error { return a.decideOnce(approve) }
}

func (a *acts) decideOnce(approve bool) error {
	var page struct {
		Held []struct{ ID string }
	}
	status, text, err := a.call(http.MethodGet, "/api/v1/held-usage?limit=5", "", nil, &page)
	if err != nil || len(page.Held) == 0 {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("%d: %s", status, text)
	}
	decision := "write_off"
	if approve {
		decision = "approve"
	}
	status, text, err = a.call(http.MethodPost, "/api/v1/held-usage:decide", "application/json",
		map[string]any{"ids": []string{page.Held[0].ID}, "decision": decision, "reason": "a test"}, nil)
	switch {
	case err != nil:
		return err
	case status == http.StatusOK, status == http.StatusConflict, status == http.StatusNotFound: // an earlier try went through
		return nil
	}
	return fmt.Errorf("%d: %s", status, text)
}

// freeze freezes an instance, or unfreezes it if it is.
func (a *acts) freeze(random *rand.Rand) func() error {
	if a.frozen != "" {
		instance := a.frozen
		a.frozen = ""
		return a.change(instance, "unfrozen", a.clock.Now())
	}
	a.frozen = fmt.Sprintf("customer-%02d.tokens", 3+random.IntN(2))
	return a.change(a.frozen, "frozen", a.clock.Now())
}

// change changes an instance's life.
func (a *acts) change(instance, kind string, at time.Time) func() error {
	return func() error {
		status, text, err := a.call(http.MethodPost, "/api/v1/instances/"+instance+"/life", "application/json",
			map[string]any{"kind": kind, "at": at.Truncate(time.Second), "reason": "a test"}, nil)
		if err == nil && status != http.StatusOK && (status != http.StatusConflict || !strings.Contains(text, "already")) {
			err = fmt.Errorf("%s %s at %s: %d: %s", instance, kind, at, status, text)
		}
		return err
	}
}
