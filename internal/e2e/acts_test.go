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
	"sync/atomic"
	"time"
)

// acts are what people do meanwhile: they void events, release and freeze instances, decide about held usage; and a sender
// that is out of order sends events that are refused. Each act is repeated until it is done.
type acts struct {
	*load

	random *rand.Rand
	clock  *fastClock
	stop   chan struct{}
	done   sync.WaitGroup
	counts map[string]int // acts that were done
	frozen string         // the instance that was frozen last
	wanted atomic.Value   // group of kill points that an act shall pass next; ""
}

// startActs starts acting on what a load sends.
func startActs(l *load, random *rand.Rand, c *fastClock) *acts {
	a := &acts{
		load: l, random: rand.New(rand.NewPCG(random.Uint64(), 0)), clock: c, stop: make(chan struct{}), counts: map[string]int{},
	}
	a.done.Go(a.run)
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

func (a *acts) run() {
	released := 0
	for a.abort.Err() == nil {
		select {
		case <-a.stop:
			return
		default:
		}
		wanted, _ := a.wanted.Swap("").(string)
		switch n := a.random.IntN(20); {
		case n < 8 && wanted == "" || wanted == "void":
			a.insist("void", a.void())
		case wanted == "life":
			a.insist("freeze", a.freeze())
		case n < 14 || wanted == "deadletters":
			a.insist("refused event", a.refused)
		case n < 17:
			a.insist("decision", a.decide)
		case n < 19:
			a.insist("freeze", a.freeze())
		case released < 2:
			released++
			a.insist("release", a.change(fmt.Sprintf("customer-%02d.requests", released), "released", a.clock.Now().Add(-time.Minute)))
		}
		a.rest(between(a.random, 0, 100*time.Millisecond))
	}
}

// prefer makes the next act one that passes a group of kill points.
func (a *acts) prefer(group string) { a.wanted.Store(group) }

// insist repeats an act until it is done. An act is done when it returns nil.
func (a *acts) insist(name string, act func() error) {
	if act == nil {
		return
	}
	for a.abort.Err() == nil {
		err := act()
		if err == nil {
			a.counts[name]++
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
func (a *acts) void() func() error {
	victim, ok := a.pick(a.random)
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
func (a *acts) refused() error {
	body := fmt.Sprintf(`{"specversion":"1.0","id":"bad-%d","source":"acts","type":"request","subject":"x","data":{}}`, a.random.Uint64())
	status, text, err := a.call(http.MethodPost, "/api/v1/events", "application/cloudevents+json", body, nil)
	if err == nil && status != http.StatusBadRequest {
		err = fmt.Errorf("an event without a value was answered with %d: %s", status, text)
	}
	return err
}

// decide approves or writes off what is held.
func (a *acts) decide() error {
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
	decision := "approve"
	if a.random.IntN(2) == 0 {
		decision = "write_off"
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
func (a *acts) freeze() func() error {
	instance := fmt.Sprintf("customer-%02d.tokens", 3+a.random.IntN(2))
	kind := "frozen"
	if a.counts["freeze"]%2 == 1 {
		kind = "unfrozen"
		instance = a.frozen
	}
	a.frozen = instance
	return a.change(instance, kind, a.clock.Now())
}

// change changes an instance's life.
func (a *acts) change(instance, kind string, at time.Time) func() error {
	return func() error {
		status, text, err := a.call(http.MethodPost, "/api/v1/instances/"+instance+"/life", "application/json",
			map[string]any{"kind": kind, "at": at.Truncate(time.Second), "reason": "a test"}, nil)
		if err == nil && status != http.StatusOK && !(status == http.StatusConflict && strings.Contains(text, "already")) {
			err = fmt.Errorf("%s %s at %s: %d: %s", instance, kind, at, status, text)
		}
		return err
	}
}
