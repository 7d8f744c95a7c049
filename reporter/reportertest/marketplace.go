package reportertest

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// Answer decides about one call: what the marketplace takes of the batch, and what it says. Records it takes are
// remembered even when the class says otherwise (an answer that got lost).
type Answer struct {
	Result reporter.Result
	Takes  bool // the batch was taken, except Result.Refused
}

// Accept takes everything and says so.
func Accept() Answer {
	return Answer{Result: reporter.Result{Class: reporter.ClassAccepted, Code: "OK", Status: 200}, Takes: true}
}

// Refuse takes nothing and answers with the class and code.
func Refuse(class reporter.Class, code string) Answer {
	return Answer{Result: reporter.Result{Class: class, Code: code, Message: "scripted"}}
}

// LoseAnswer takes everything, and the answer never arrives.
func LoseAnswer() Answer {
	return Answer{Result: reporter.Result{Class: reporter.ClassUnknown, Message: "answer lost"}, Takes: true}
}

// Marketplace is a marketplace with a script. It remembers every call and checks the rules that hold for all: one call
// at a time, batches within the limit, one content per number, one number per instance and window.
type Marketplace struct {
	limits reporter.Limits
	busy   atomic.Bool

	mu         sync.Mutex
	script     func(call int, batch []reporter.UsageRecord) Answer
	check      func(reporter.UsageRecord) error
	before     func(reporter.UsageRecord)
	calls      [][]reporter.UsageRecord
	taken      map[reporter.MeteringSN]reporter.UsageRecord
	seen       map[reporter.MeteringSN]string
	windows    map[string]reporter.MeteringSN
	violations []string
}

// DefaultLimits are KooGallery's, with small batches.
func DefaultLimits() reporter.Limits {
	return reporter.Limits{
		MaxBatch: 10, Scale: 4, MaxQuantity: meter.MustParseQuantity("99999999.9999"), MaxAge: 21 * 24 * time.Hour,
	}
}

// NewMarketplace returns a marketplace that accepts everything.
func NewMarketplace(limits reporter.Limits) *Marketplace {
	return &Marketplace{
		limits: limits, taken: map[reporter.MeteringSN]reporter.UsageRecord{}, seen: map[reporter.MeteringSN]string{},
		windows: map[string]reporter.MeteringSN{},
	}
}

var _ reporter.Marketplace = (*Marketplace)(nil)

// Script installs what decides about each call, numbered from 1; nil accepts everything. A script may panic.
func (m *Marketplace) Script(f func(call int, batch []reporter.UsageRecord) Answer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.script = f
}

// CheckWith installs what [Marketplace.Check] does beyond its own rules.
func (m *Marketplace) CheckWith(f func(reporter.UsageRecord) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.check = f
}

// BeforeRecord installs a hook that sees each record of each call before the script decides.
func (m *Marketplace) BeforeRecord(f func(reporter.UsageRecord)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.before = f
}

// Name implements [reporter.Marketplace].
func (m *Marketplace) Name() string { return "scripted" }

// Limits implements [reporter.Marketplace].
func (m *Marketplace) Limits() reporter.Limits { return m.limits }

// Check implements [reporter.Marketplace]: an instance id of 1 to 64 characters and a positive quantity.
func (m *Marketplace) Check(r reporter.UsageRecord) error {
	if r.InstanceID == "" || len(r.InstanceID) > 64 {
		return fmt.Errorf("instance id %q must have 1 to 64 characters", r.InstanceID)
	}
	if r.Quantity.Sign() <= 0 {
		return fmt.Errorf("quantity %s is not positive", r.Quantity)
	}
	m.mu.Lock()
	check := m.check
	m.mu.Unlock()
	if check == nil {
		return nil
	}
	return check(r)
}

// Push implements [reporter.Marketplace].
func (m *Marketplace) Push(_ context.Context, batch []reporter.UsageRecord) reporter.Result {
	if !m.busy.CompareAndSwap(false, true) {
		m.violate("two calls at a time")
	}
	defer m.busy.Store(false)
	m.mu.Lock()
	m.calls = append(m.calls, append([]reporter.UsageRecord(nil), batch...))
	call, script, before := len(m.calls), m.script, m.before
	for _, r := range batch {
		m.inspect(r)
	}
	m.mu.Unlock()
	if len(batch) == 0 || len(batch) > m.limits.MaxBatch {
		m.violate(fmt.Sprintf("call %d carries %d records", call, len(batch)))
	}
	if before != nil {
		for _, r := range batch {
			before(r)
		}
	}
	answer := Accept()
	if script != nil {
		answer = script(call, batch)
	}
	if answer.Takes {
		m.take(batch, answer.Result.Refused)
	}
	if answer.Result.Endpoint == "" {
		answer.Result.Endpoint = "primary"
	}
	return answer.Result
}

// inspect checks one record. The caller holds the lock.
func (m *Marketplace) inspect(r reporter.UsageRecord) {
	content := fmt.Sprint(r.InstanceID, "|", r.ProductID, "|", r.Window, "|", r.RecordTime.UnixNano(), "|", r.Quantity, "|", r.Package)
	if old, known := m.seen[r.SN]; known && old != content {
		m.violations = append(m.violations, fmt.Sprintf("record %s was sent as %s and as %s", r.SN, old, content))
	}
	m.seen[r.SN] = content
	key := r.InstanceID + " " + r.Window.String()
	if old, known := m.windows[key]; known && old != r.SN {
		m.violations = append(m.violations, fmt.Sprintf("%s was sent as %s and as %s", key, old, r.SN))
	}
	m.windows[key] = r.SN
	if r.Quantity.Sign() <= 0 || -r.Quantity.Decimal().Exponent() > m.limits.Scale {
		m.violations = append(m.violations, fmt.Sprintf("record %s has quantity %s", r.SN, r.Quantity))
	}
}

func (m *Marketplace) take(batch []reporter.UsageRecord, refused map[reporter.MeteringSN]reporter.Refusal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range batch {
		if _, no := refused[r.SN]; !no {
			m.taken[r.SN] = r
		}
	}
}

func (m *Marketplace) violate(text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.violations = append(m.violations, text)
}

// Calls returns the batches in order of the calls.
func (m *Marketplace) Calls() [][]reporter.UsageRecord {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([][]reporter.UsageRecord(nil), m.calls...)
}

// Sizes returns the number of records of each call.
func (m *Marketplace) Sizes() []int {
	var sizes []int
	for _, batch := range m.Calls() {
		sizes = append(sizes, len(batch))
	}
	return sizes
}

// Taken returns the records that the marketplace holds.
func (m *Marketplace) Taken() map[reporter.MeteringSN]reporter.UsageRecord {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.taken)
}

// Violations returns the rules that were broken by the reporter.
func (m *Marketplace) Violations() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string(nil), m.violations...)
}
