package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/meterd/meterd/reporter"
)

const (
	leasePrefix = "lease_"
	// keptEpochs is how many views of the newest epochs stay.
	keptEpochs = 8
	// DefaultLeaseTTL is how long a holder may be silent before another process takes the lease.
	DefaultLeaseTTL = 30 * time.Second
)

// LeaseOptions configure a lease.
type LeaseOptions struct {
	// TTL is how long a holder may be silent; 0 means [DefaultLeaseTTL]. It should be the same in all processes.
	TTL time.Duration
	// Holder names this process and its predecessors, of which at most one can live at a time (whoever holds the lock of a
	// data directory, say): a process that finds its own name in the lease takes over at once. "" means a random name.
	Holder string
	// Elapsed is the time since some fixed moment by a clock that is never set: only differences count, and only within this
	// process. Required.
	Elapsed func() time.Duration
}

// Lease is one process's part in the lease of a database (ADR 9). Epoch N is the view lease_N, whose creation is the one
// atomic step: it names the holder. The holder renews by rows in lease_renewals. Who sees no new row for the TTL, by its
// own clock, takes epoch N+1; a holder that finds a higher epoch than its own holds nothing any more. Methods may be called
// concurrently.
type Lease struct {
	open    func() (*Store, error)
	holder  string
	ttl     time.Duration
	elapsed func() time.Duration

	mu      sync.Mutex
	mine    uint64        // the epoch that this process took; 0: none
	beat    uint64        // of the last renewal
	renewed time.Duration // when that was
	// seen is the sign of life of another holder that was seen last, and since when it has been the last one.
	seen  leaseSign
	since time.Duration
}

// leaseSign is what is known of a lease at one moment.
type leaseSign struct {
	epoch, beat uint64
	released    bool
}

var _ reporter.Lease = (*Lease)(nil)

// NewLease returns this process's part in the lease, under a random name. It holds nothing before [Lease.Hold].
func (s *Store) NewLease(opts LeaseOptions) (*Lease, error) {
	return newLease(func() (*Store, error) { return s, nil }, opts)
}

// NewLease is [Store.NewLease] for a store that isn't open yet: until then Hold fails.
func (l *Late) NewLease(opts LeaseOptions) (*Lease, error) { return newLease(l.get, opts) }

func newLease(open func() (*Store, error), opts LeaseOptions) (*Lease, error) {
	setDefault(&opts.TTL, DefaultLeaseTTL)
	if opts.TTL <= 0 || opts.Elapsed == nil {
		return nil, fmt.Errorf("lease: ttl must be positive (got %s) and elapsed is required", opts.TTL)
	}
	if opts.Holder == "" {
		var name [16]byte
		_, _ = rand.Read(name[:]) // never fails
		opts.Holder = hex.EncodeToString(name[:])
	}
	return &Lease{open: open, holder: opts.Holder, ttl: opts.TTL, elapsed: opts.Elapsed}, nil
}

// Epoch returns the epoch that this process holds; 0 if it held none when [Lease.Hold] was last called.
func (l *Lease) Epoch() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mine
}

// Hold acquires or renews the lease and reports whether this process holds it now. With an error nothing is known, and
// the process must act as if it didn't hold it.
func (l *Lease) Hold(ctx context.Context) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, err := l.open()
	if err != nil {
		return false, fmt.Errorf("hold lease: %w", err)
	}
	held, err := l.hold(ctx, s)
	return held && err == nil, wrap("hold lease", err)
}

func (l *Lease) hold(ctx context.Context, s *Store) (bool, error) {
	sign, epochs, err := s.leaseSign(ctx)
	if err != nil {
		return false, err
	}
	if l.mine != 0 && sign.epoch == l.mine {
		return l.renew(ctx, s)
	}
	l.mine = 0
	now := l.elapsed()
	if sign != l.seen {
		l.seen, l.since = sign, now
	}
	if sign.epoch != 0 && !sign.released && now-l.since < l.ttl {
		mine, err := s.heldBy(ctx, sign.epoch, l.holder)
		if err != nil || !mine { // otherwise a predecessor of this process held it, and is gone
			return false, err
		}
	}
	return l.take(ctx, s, sign.epoch+1, epochs)
}

// renew gives a sign of life, if the last one isn't fresh, and looks whether it came in time.
func (l *Lease) renew(ctx context.Context, s *Store) (bool, error) {
	const perTTL = 3
	if l.elapsed()-l.renewed < l.ttl/perTTL {
		return true, nil
	}
	return l.sign(ctx, s)
}

func (l *Lease) sign(ctx context.Context, s *Store) (bool, error) {
	at := l.elapsed()
	l.beat++
	if err := s.writeBeat(ctx, l.mine, l.holder, l.beat, false); err != nil {
		return false, err
	}
	sign, _, err := s.leaseSign(ctx)
	if err != nil {
		return false, err
	}
	if sign.epoch != l.mine {
		l.mine = 0
		return false, nil
	}
	l.renewed = at
	return true, nil
}

// take tries to become the holder of an epoch.
func (l *Lease) take(ctx context.Context, s *Store, epoch uint64, before []uint64) (bool, error) {
	view := leaseView(epoch)
	created := s.conn.Exec(ctx, "CREATE VIEW "+view+s.onCluster()+" AS SELECT "+hexText(l.holder)+" AS holder")
	// Whatever the answer was, the view decides: an error may have come after the deed.
	if mine, err := s.heldBy(ctx, epoch, l.holder); err != nil || !mine {
		if err != nil {
			err = errors.Join(created, err)
		}
		return false, err
	}
	l.mine, l.beat = epoch, 0
	held, err := l.sign(ctx, s)
	if err != nil || !held {
		return false, err
	}
	if err := s.dropOld(ctx, leasePrefix, before, epoch, keptEpochs); err != nil {
		s.logger.Warn("old views of the lease not dropped", "err", err)
	}
	return true, nil
}

// heldBy reports whether an epoch belongs to the holder.
func (s *Store) heldBy(ctx context.Context, epoch uint64, holder string) (bool, error) {
	var name string
	if err := s.conn.QueryRow(ctx, "SELECT holder FROM "+leaseView(epoch)).Scan(&name); err != nil {
		return false, fmt.Errorf("read %s: %w", leaseView(epoch), err)
	}
	return name == holder, nil
}

// Release gives the lease up, so that another process need not wait for it to run out. It does nothing for a process that
// doesn't hold it.
func (l *Lease) Release(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mine == 0 {
		return nil
	}
	s, err := l.open()
	if err == nil {
		err = s.writeBeat(ctx, l.mine, l.holder, l.beat+1, true)
	}
	if err == nil {
		l.mine = 0
	}
	return wrap("release lease", err)
}

func leaseView(epoch uint64) string { return fmt.Sprintf("%s%020d", leasePrefix, epoch) }

var leaseRenewals = newTable("lease_renewals", "epoch", "UInt64", "holder", "String", "beat", "UInt64", "released", "UInt8")

func (s *Store) writeBeat(ctx context.Context, epoch uint64, holder string, beat uint64, released bool) error {
	err := s.insertRows(ctx, leaseRenewals, 1, func(_ int, d []columnData) error {
		d[0].uint64(epoch)
		d[1].string(holder)
		d[2].uint64(beat)
		d[3].bool(released)
		return nil
	})
	return wrap("renew", err)
}

// leaseSign reads the newest epoch and its last sign of life, and the epochs that have views.
func (s *Store) leaseSign(ctx context.Context) (sign leaseSign, epochs []uint64, err error) {
	epochs, err = s.viewNumbers(ctx, leasePrefix)
	if err != nil || len(epochs) == 0 {
		return sign, nil, err
	}
	sign.epoch = slices.Max(epochs)
	query := "SELECT max(beat), max(released) FROM lease_renewals WHERE epoch = " + sqlUint(sign.epoch)
	err = s.each(ctx, query, func(rows driver.Rows) error {
		var released uint8
		err := rows.Scan(&sign.beat, &released)
		sign.released = released == 1
		return err
	})
	return sign, epochs, wrap("read renewals", err)
}
