package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// event is one generated usage event.
type event struct {
	id, source, subject string
	at                  time.Time // zero: without a time
	units               int64     // tokens in ten-thousandths
	model               int
	pad                 int // bytes of noise
}

// appendJSON writes the event. The same event is always the same text.
func (e *event) appendJSON(b []byte) []byte {
	b = fmt.Appendf(b, `{"specversion":"1.0","id":%q,"source":%q,"type":"request","subject":%q`, e.id, e.source, e.subject)
	if !e.at.IsZero() {
		b = fmt.Appendf(b, `,"time":%q`, e.at.Format(time.RFC3339Nano))
	}
	value := fmt.Sprintf("%d.%04d", e.units/10_000, e.units%10_000)
	if e.units%2 == 0 { // numbers and texts are the same to a meter
		value = `"` + value + `"`
	}
	b = fmt.Appendf(b, `,"data":{"tokens":%s,"model":"model-%d"`, value, e.model)
	if e.pad > 0 {
		b = fmt.Appendf(b, `,"noise":"%x"`, e.noise())
	}
	return append(b, "}}"...)
}

// noise is the same for the same event, and can't be compressed.
func (e *event) noise() []byte {
	seed := [32]byte{}
	copy(seed[:], e.source+e.id)
	noise := make([]byte, e.pad/2)
	_, _ = rand.NewChaCha8(seed).Read(noise) // never fails
	return noise
}

// isStamped reports whether a subject's events come without a time.
func isStamped(subject string) bool { return strings.HasPrefix(subject, "stamped-") }

// maker makes events with ids that nobody else makes.
type maker struct {
	random *rand.Rand
	source string
	hours  []time.Time                // beginnings of the hours to spread events over; the last may be the running one
	when   func(*rand.Rand) time.Time // instead of hours: the time of the next event; zero for none
	pad    func() int                 // bytes of noise in the next event; nil: none
	made   int
}

// next makes an event: one in five without a time.
func (m *maker) next() event {
	m.made++
	e := event{
		id: fmt.Sprintf("e-%d", m.made), source: m.source,
		units: 1 + m.random.Int64N(2_000_000), model: m.random.IntN(3),
	}
	if m.pad != nil {
		e.pad = m.pad()
	}
	if m.when != nil {
		e.at = m.when(m.random)
		e.subject = fmt.Sprintf("customer-%02d", m.random.IntN(8))
		if e.at.IsZero() {
			e.subject = fmt.Sprintf("stamped-%d", m.random.IntN(3))
		}
		return e
	}
	if m.random.IntN(5) == 0 || len(m.hours) == 0 {
		e.subject = fmt.Sprintf("stamped-%d", m.random.IntN(4))
		return e
	}
	e.subject = fmt.Sprintf("customer-%02d", m.random.IntN(16))
	begin := m.hours[m.random.IntN(len(m.hours))]
	length := min(time.Hour, time.Since(begin))
	e.at = begin.Add(time.Duration(m.random.Int64N(int64(max(length, 1)))))
	return e
}

// ledger is what was acknowledged.
type ledger struct {
	mu       sync.Mutex
	accounts map[cell]account
	events   int64
	sample   []event // some of those with a time
}

// sampleSize is how many events a ledger remembers.
const sampleSize = 500

// pick returns one of the events acknowledged lately that have a time, each once.
func (l *ledger) pick(random *rand.Rand) (event, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sample) == 0 {
		return event{}, false
	}
	i, last := random.IntN(len(l.sample)), len(l.sample)-1
	picked := l.sample[i]
	l.sample[i] = l.sample[last]
	l.sample = l.sample[:last]
	return picked, true
}

// retract takes an event out that was voided.
func (l *ledger) retract(e *event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := cell{e.subject, e.at.Truncate(time.Hour)}
	a := l.accounts[key]
	a.events--
	a.units -= e.units
	l.accounts[key] = a
}

// acknowledge books events that the daemon answered for, each once.
func (l *ledger) acknowledge(events []event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.accounts == nil {
		l.accounts = map[cell]account{}
	}
	for i := range events {
		key := cell{subject: events[i].subject}
		if !events[i].at.IsZero() {
			key.hour = events[i].at.Truncate(time.Hour)
			if len(l.sample) == sampleSize {
				l.sample = append(l.sample[:0], l.sample[sampleSize/2:]...)
			}
			l.sample = append(l.sample, events[i])
		}
		a := l.accounts[key]
		a.events++
		a.units += events[i].units
		l.accounts[key] = a
	}
	l.events += int64(len(events))
}

// acknowledged is the number of events so far.
func (l *ledger) acknowledged() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.events
}

// usage is what must come out: per subject, or per subject and hour without the subjects whose hours the daemon chooses.
func (l *ledger) usage(hourly bool) map[cell]usage {
	l.mu.Lock()
	defer l.mu.Unlock()
	sums := map[cell]account{}
	for key, a := range l.accounts {
		if hourly && isStamped(key.subject) {
			continue
		}
		if !hourly {
			key.hour = time.Time{}
		}
		sum := sums[key]
		sum.events += a.events
		sum.units += a.units
		sums[key] = sum
	}
	found := make(map[cell]usage, len(sums))
	for key, a := range sums {
		found[key] = a.usage()
	}
	return found
}
