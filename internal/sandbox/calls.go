package sandbox

import (
	"slices"
	"sync"
	"time"
)

// Call is one call of a marketplace path, for the request list. It holds no key, signature or nonce.
type Call struct {
	// At is when the call arrived, by the sandbox's clock.
	At     time.Time `json:"at"`
	Method string    `json:"method"`
	Path   string    `json:"path"`
	// Status and Code are what was answered; zero and empty where the connection was closed instead.
	Status int    `json:"status"`
	Code   string `json:"error_code"`
	// Detail says what was wrong where, for people.
	Detail string `json:"detail,omitempty"`
	// Accepted is the verdict before any fault distorted the answer: the records were stored.
	Accepted bool `json:"accepted"`
	// Records is the number of records stored.
	Records int           `json:"records"`
	Bytes   int           `json:"bytes"`
	Seller  string        `json:"seller,omitempty"`
	Form    SignatureForm `json:"signature_form,omitempty"`
	// Faults are the kinds and ids of the faults that struck.
	Faults []string `json:"faults,omitempty"`
}

// callLog remembers the last calls.
type callLog struct {
	mu    sync.Mutex
	limit int
	calls []Call // a ring once it is full
	next  int
	total int64
}

// add remembers a call, forgetting the oldest above the limit.
func (l *callLog) add(c Call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total++
	if len(l.calls) < l.limit {
		l.calls = append(l.calls, c)
		return
	}
	l.calls[l.next] = c
	l.next = (l.next + 1) % l.limit
}

// list gives the remembered calls, the latest first, and the number of calls ever.
func (l *callLog) list() (calls []Call, total int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := append(slices.Clone(l.calls[l.next:]), l.calls[:l.next]...)
	slices.Reverse(out)
	return out, l.total
}

// forget empties the list.
func (l *callLog) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls, l.next, l.total = nil, 0, 0
}
