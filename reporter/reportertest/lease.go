package reportertest

import (
	"context"
	"sync"
	"time"

	"github.com/meterd/meterd/reporter"
)

// Leases is one lease that several processes want.
type Leases struct {
	mu     sync.Mutex
	now    func() time.Time
	length time.Duration
	holder string
	until  time.Time
}

// NewLeases returns a lease that nobody holds and that runs out after the length by the clock.
func NewLeases(now func() time.Time, length time.Duration) *Leases {
	return &Leases{now: now, length: length}
}

// Of returns the lease as one process sees it.
func (l *Leases) Of(holder string) reporter.Lease { return leaseOf{l, holder} }

// Holder returns who holds the lease now; "" for nobody.
func (l *Leases) Holder() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.now().Before(l.until) {
		return ""
	}
	return l.holder
}

type leaseOf struct {
	leases *Leases
	name   string
}

// Hold implements [reporter.Lease].
func (l leaseOf) Hold(ctx context.Context) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	l.leases.mu.Lock()
	defer l.leases.mu.Unlock()
	now := l.leases.now()
	if l.leases.holder != l.name && now.Before(l.leases.until) {
		return false, nil
	}
	l.leases.holder, l.leases.until = l.name, now.Add(l.leases.length)
	return true, nil
}

// Release implements [reporter.Lease].
func (l leaseOf) Release(context.Context) error {
	l.leases.mu.Lock()
	defer l.leases.mu.Unlock()
	if l.leases.holder == l.name {
		l.leases.holder, l.leases.until = "", time.Time{}
	}
	return nil
}
