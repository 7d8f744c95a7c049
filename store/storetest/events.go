package storetest

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// base is an hour in the middle of the time that tests play in.
var base = time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)

// event is a usage event as a test writes it.
type event struct {
	subject, source, id string
	eventType           string // "" means "prompt"
	at                  time.Time
	stamped             bool // came without a time: at is the time of receipt
	received            time.Time
	data                string
}

// withDefaults fills in what most tests don't care for.
func (e event) withDefaults() event {
	if e.subject == "" {
		e.subject = "tenant-1"
	}
	if e.source == "" {
		e.source = "backend"
	}
	if e.eventType == "" {
		e.eventType = "prompt"
	}
	if e.at.IsZero() {
		e.at = base.Add(10 * time.Minute)
	}
	if e.received.IsZero() {
		e.received = e.at
	}
	if e.data == "" {
		e.data = `{"tokens":1}`
	}
	return e
}

func (e event) key() meter.EventKey {
	sum := sha256.Sum256([]byte(e.source + "\x00" + e.id))
	return meter.EventKey(sum[:16])
}

// content is a digest of the event as sent.
func (e event) content() uint64 {
	text := e.eventType + "\x00" + e.data
	if !e.stamped {
		text += "\x00" + e.at.Format(time.RFC3339Nano)
	}
	sum := sha256.Sum256([]byte(text))
	return binary.BigEndian.Uint64(sum[:])
}

// newMeter declares a meter of event type "prompt".
func newMeter(slug string, aggregation meter.Aggregation, path string, dimensions ...string) meter.Meter {
	m := meter.Meter{Slug: slug, EventType: "prompt", Aggregation: aggregation, Scale: meter.NewQuantity(1, 0), Billed: true, Instance: "{subject}"}
	if path != "" {
		m.Value = meter.MustParsePath(path)
	}
	for _, name := range dimensions {
		m.GroupBy = append(m.GroupBy, meter.Dimension{Name: name, Path: meter.MustParsePath("$." + name)})
	}
	return m
}

// allMeters has every aggregation, and two meters that share their values.
func allMeters() []meter.Meter {
	return []meter.Meter{
		newMeter("calls", meter.Count, "", "model"),
		newMeter("tokens_total", meter.Sum, "$.tokens", "model", "region"),
		newMeter("tokens_max", meter.Max, "$.tokens", "model", "region"),
		newMeter("tokens_min", meter.Min, "$.tokens"),
		newMeter("tokens_last", meter.Latest, "$.tokens"),
		newMeter("users", meter.UniqueCount, "$.user"),
	}
}

func newCatalog(tb testing.TB, meters []meter.Meter) *meter.Catalog {
	tb.Helper()
	c, err := meter.NewCatalog(meters)
	if err != nil {
		tb.Fatalf("NewCatalog: %v", err)
	}
	return c
}

// eventRows encodes events as the loader does.
func eventRows(catalog *meter.Catalog, events []event) *meter.EventRows {
	rows := &meter.EventRows{}
	for i, e := range events {
		e = e.withDefaults()
		rows.Subject = append(rows.Subject, []byte(e.subject))
		rows.Source = append(rows.Source, []byte(e.source))
		rows.ID = append(rows.ID, []byte(e.id))
		rows.Type = append(rows.Type, []byte(e.eventType))
		rows.Key = append(rows.Key, e.key())
		rows.Content = append(rows.Content, e.content())
		rows.Time = append(rows.Time, e.at.UnixNano())
		rows.Received = append(rows.Received, e.received.UnixNano())
		rows.Stamped = append(rows.Stamped, e.stamped)
		rows.Data = append(rows.Data, []byte(e.data))
		rows.Extensions = append(rows.Extensions, nil)
		values, _ := catalog.Values(&meter.Event{Type: []byte(e.eventType), Data: []byte(e.data)})
		for _, v := range values {
			v.Row = i
			rows.Values = append(rows.Values, v)
		}
	}
	return rows
}

// insert stores events with the values of the given meters.
func (s *suite) insert(t *testing.T, meters []meter.Meter, events ...event) {
	t.Helper()
	if err := s.store.InsertEvents(t.Context(), eventRows(newCatalog(t, meters), events)); err != nil {
		t.Fatalf("InsertEvents: %v", err)
	}
}

// usageLine is one row of usage as text.
func usageLine(u reporter.WindowUsage) string {
	return fmt.Sprintf("%q %s %s (%d)", u.Subject, u.Meter, u.Quantity, u.Events)
}

// aggregate returns the usage of a window as lines.
func (s *suite) aggregate(t *testing.T, w meter.Window, meters []meter.Meter) []string {
	t.Helper()
	lines := []string{}
	err := s.store.AggregateWindow(t.Context(), reporter.Scope{Hour: w}, meters, func(u reporter.WindowUsage) error {
		lines = append(lines, usageLine(u))
		return nil
	})
	if err != nil {
		t.Fatalf("AggregateWindow(%s): %v", w, err)
	}
	return lines
}

// query returns the answer to a query as lines.
func (s *suite) query(t *testing.T, q meter.Query) []string {
	t.Helper()
	lines := []string{}
	err := s.store.QueryMeter(t.Context(), q, func(r meter.QueryRow) error {
		lines = append(lines, queryLine(r))
		return nil
	})
	if err != nil {
		t.Fatalf("QueryMeter: %v", err)
	}
	return lines
}

func queryLine(r meter.QueryRow) string {
	names := make([]string, 0, len(r.Group))
	for name := range r.Group {
		names = append(names, name)
	}
	slices.Sort(names)
	groups := make([]string, len(names))
	for i, name := range names {
		groups[i] = fmt.Sprintf(" %s=%q", name, r.Group[name])
	}
	return fmt.Sprintf("%s %q%s %s (%d)", r.Window, r.Subject, strings.Join(groups, ""), r.Value, r.Events)
}

// countEvents returns the number of events of a window that count.
func (s *suite) countEvents(t *testing.T, w meter.Window) uint64 {
	t.Helper()
	n, err := s.store.CountWindowEvents(t.Context(), w)
	if err != nil {
		t.Fatalf("CountWindowEvents(%s): %v", w, err)
	}
	return n
}

// wantLines compares an answer.
func wantLines(t *testing.T, what string, got, want []string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}
