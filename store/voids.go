package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/meterd/meterd/internal/killpoint"
	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

var eventVoids = newTable("event_voids",
	"hour", "DateTime('UTC')", "subject", "String", "event_key", "FixedString(16)", "void", "UInt64", "stamped", "UInt8",
	"at", "DateTime('UTC')", "actor", "String", "reason", "String")

const (
	// maxVoid is how many stored rows one void may select: their keys are kept in memory.
	maxVoid = 1_000_000
	// maxVoidIDs is how many events one void may name.
	maxVoidIDs = 10_000
	// voidChunk is how many rows one insert of a void writes.
	voidChunk = 100_000
)

// PreviewVoid computes what VoidEvents would change, without changing anything. It needs the meters: Config.Values must know
// them, as *meter.Catalog does. The error wraps [ErrBadQuery] if the request can't be done as it is.
func (s *Store) PreviewVoid(ctx context.Context, req meter.VoidRequest) (meter.Effect, error) {
	p, err := s.planVoid(ctx, req)
	if err != nil {
		return meter.Effect{}, fmt.Errorf("preview void: %w", err)
	}
	return p.effect, nil
}

// VoidEvents makes the selected events count no more, whatever is received later under their keys, and returns the effect
// once that is durable. token must be that of a preview whose effect still holds; otherwise the error wraps
// [ErrEffectChanged] and nothing is done. Voiding what is void already announces it once more, so a call that was
// interrupted may be repeated, with a new preview. The caller keeps the audit log; actor and reason stay with the rows, too.
func (s *Store) VoidEvents(ctx context.Context, req meter.VoidRequest, actor, reason, token string) (meter.Effect, error) {
	if strings.TrimSpace(actor) == "" || strings.TrimSpace(reason) == "" {
		return meter.Effect{}, fmt.Errorf("void events: %w: actor and reason are required", ErrBadQuery)
	}
	p, err := s.planVoid(ctx, req)
	if err != nil {
		return meter.Effect{}, fmt.Errorf("void events: %w", err)
	}
	if token != p.effect.Token {
		return p.effect, fmt.Errorf("void events: %w", ErrEffectChanged)
	}
	if len(p.keys) == 0 {
		return p.effect, nil
	}
	// A void that takes longer might be taken for an interrupted one.
	writing, cancel := context.WithTimeout(ctx, voidWriteLimit-time.Minute)
	defer cancel()
	if err := s.writeVoid(writing, p, actor, reason); err != nil {
		return meter.Effect{}, fmt.Errorf("void events: %w", classify(err))
	}
	s.logger.Info("events voided", "subject", req.Subject, "events", p.effect.Events, "already", p.effect.Already, "actor", actor)
	return p.effect, nil
}

// voidKey is one selected event.
type voidKey struct {
	hour    int64
	key     meter.EventKey
	stamped bool
	void    bool // already
}

// voidPlan is a checked request with its effect.
type voidPlan struct {
	subject string
	keys    []voidKey // by hour, key
	effect  meter.Effect
}

// selection is the condition of rows that a request selects.
func selection(req meter.VoidRequest) (clauses, error) {
	var errs []error
	if req.Subject == "" {
		errs = append(errs, errors.New("subject is required"))
	}
	c := clauses{"subject = " + quote(req.Subject)}
	period := !req.From.IsZero() || !req.To.IsZero()
	switch {
	case len(req.IDs) == 0 && !period:
		errs = append(errs, errors.New("name events by source and ids, or a period, or both"))
	case len(req.IDs) == 0 && req.Source != "":
		c.add("source = " + quote(req.Source))
	case len(req.IDs) > maxVoidIDs:
		errs = append(errs, fmt.Errorf("%d ids are too many: name at most %d at once", len(req.IDs), maxVoidIDs))
	case len(req.IDs) > 0 && req.Source == "":
		errs = append(errs, errors.New("source is required with ids"))
	case len(req.IDs) > 0:
		c.add("source = " + quote(req.Source))
		c.add("id IN (" + quoteList(req.IDs) + ")")
	}
	if req.Type != "" {
		c.add("type = " + quote(req.Type))
	}
	if period {
		if req.From.IsZero() || req.To.IsZero() || !req.From.Before(req.To) {
			errs = append(errs, errors.New("from must be before to, and both are required for a period"))
		} else if req.From.Unix() < 0 || req.To.Unix() > maxSeconds {
			errs = append(errs, errTime)
		} else {
			sc := windowScope(meter.Window{Start: req.From, End: req.To})
			c = append(c, sc.where()...)
			c.add(fmt.Sprintf("time >= %d", req.From.UnixNano()))
			c.add(fmt.Sprintf("time < %d", req.To.UnixNano()))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadQuery, err)
	}
	return c, nil
}

// meters are those that the store knows.
func (s *Store) meters() ([]meter.Meter, error) {
	known, ok := s.cfg.Values.(interface{ Meters() []meter.Meter })
	if !ok {
		return nil, errors.New("the store was opened without a catalog of meters")
	}
	return known.Meters(), nil
}

func (s *Store) planVoid(ctx context.Context, req meter.VoidRequest) (*voidPlan, error) {
	meters, err := s.meters()
	if err != nil {
		return nil, err
	}
	selected, err := selection(req)
	if err != nil {
		return nil, err
	}
	p := &voidPlan{subject: req.Subject}
	var n uint64
	var first, last time.Time
	err = s.conn.QueryRow(ctx, "SELECT count(), min(hour), max(hour) FROM usage_events WHERE "+selected.String()).Scan(&n, &first, &last)
	switch {
	case err != nil:
		return nil, fmt.Errorf("look for events: %w", err)
	case n > maxVoid:
		return nil, fmt.Errorf("%w: %d stored rows are selected, more than %d: void a shorter period at once", ErrBadQuery, n, maxVoid)
	case n == 0:
		p.effect.Token = p.token(req)
		return p, nil
	}
	e, err := s.probe(ctx, scope{from: first.UTC(), to: last.UTC().Add(time.Hour), subjects: []string{req.Subject}})
	if err != nil {
		return nil, err
	}
	if err := s.selectKeys(ctx, p, e, selected); err != nil {
		return nil, fmt.Errorf("select events: %w", err)
	}
	if p.effect.Already < p.effect.Events {
		if err := s.compareVoid(ctx, p, e, meters, selected); err != nil {
			return nil, err
		}
	}
	p.effect.Token = p.token(req)
	return p, nil
}

// selectKeys finds the selected events that count, or would if they were not void already. Conflicts and retries are not
// among them: they make no difference, and if what they lost against is voided they still don't count.
func (s *Store) selectKeys(ctx context.Context, p *voidPlan, e exceptions, selected clauses) error {
	void := "0"
	if c := e.voidConditions(); len(c) > 0 {
		void = "NOT (" + c.String() + ")"
	}
	query := "SELECT hour, event_key, stamped, toUInt8(" + void + ") FROM usage_events FINAL WHERE " +
		append(e.beforeVoids().where(), selected...).String() + " ORDER BY hour, event_key"
	return s.each(ctx, query, func(rows driver.Rows) error {
		var hour time.Time
		var key string
		var stamped, void uint8
		if err := rows.Scan(&hour, &key, &stamped, &void); err != nil {
			return err
		}
		k := voidKey{hour: hour.Unix(), stamped: stamped == 1, void: void == 1}
		copy(k.key[:], key)
		p.keys = append(p.keys, k)
		p.effect.Events++
		if k.void {
			p.effect.Already++
		}
		return nil
	})
}

// compareVoid computes the lines of the effect.
func (s *Store) compareVoid(ctx context.Context, p *voidPlan, e exceptions, meters []meter.Meter, selected clauses) error {
	hours := make([]string, 0, 24)
	for _, k := range p.keys {
		if h := sqlTime(time.Unix(k.hour, 0)); len(hours) == 0 || hours[len(hours)-1] != h {
			hours = append(hours, h)
		}
	}
	within := "hour IN (" + strings.Join(hours, ", ") + ")"
	rest := "(hour, subject, event_key, content) " + s.global + "NOT IN (SELECT hour, subject, event_key, content FROM usage_events FINAL WHERE " +
		append(e.beforeVoids().where(), selected...).String() + ")"
	before, after := usageTable{}, usageTable{}
	if err := s.aggregateScope(ctx, e.scope, meters, clauses{within}, before.add); err != nil {
		return err
	}
	if err := s.aggregateScope(ctx, e.scope, meters, clauses{within, rest}, after.add); err != nil {
		return err
	}
	var err error
	p.effect.Lines, err = s.effectLines(ctx, before, after)
	return err
}

// usageKey is one line of an effect.
type usageKey struct {
	hour           int64
	subject, meter string
}

// usageTable is usage by line.
type usageTable map[usageKey]meter.Quantity

func (t usageTable) add(hour time.Time, u reporter.WindowUsage) error {
	if u.Overflow {
		return fmt.Errorf("%w: subject %q, meter %s, hour %s", ErrOverflow, u.Subject, u.Meter, hour.Format(time.RFC3339))
	}
	t[usageKey{hour.Unix(), u.Subject, u.Meter}] = u.Quantity
	return nil
}

// effectLines are the differences between two states, by hour, subject, meter.
func (s *Store) effectLines(ctx context.Context, before, after usageTable) ([]meter.EffectLine, error) {
	closed, ok, err := s.LastClosed(ctx)
	if err != nil {
		return nil, err
	}
	keys := map[usageKey]bool{}
	for k := range before {
		keys[k] = true
	}
	for k := range after {
		keys[k] = true
	}
	var lines []meter.EffectLine
	for k := range keys {
		if before[k].Cmp(after[k]) == 0 {
			continue
		}
		hour := meter.HourOf(time.Unix(k.hour, 0))
		lines = append(lines, meter.EffectLine{
			Hour: hour, Subject: k.subject, Meter: k.meter, Before: before[k], After: after[k],
			Closed: ok && hour.Start.Before(closed.Window.End),
		})
	}
	slices.SortFunc(lines, func(a, b meter.EffectLine) int {
		return cmp.Or(a.Hour.Start.Compare(b.Hour.Start), cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Meter, b.Meter))
	})
	return lines, nil
}

// token names the request with the events it selects and its effect.
func (p *voidPlan) token(req meter.VoidRequest) string {
	h := sha256.New()
	fmt.Fprintf(h, "meterd/void/1 %q %q %q %q %d %d\n", req.Subject, req.Source, req.IDs, req.Type, req.From.UnixNano(), req.To.UnixNano())
	for _, k := range p.keys {
		fmt.Fprintf(h, "%d %x %v\n", k.hour, k.key, k.void)
	}
	return hashLines(h, p.effect.Lines)
}

// hashLines ends a token with the lines of an effect. That an hour was closed meanwhile changes none of its amounts.
func hashLines(h interface {
	Write(p []byte) (int, error)
	Sum(b []byte) []byte
}, lines []meter.EffectLine,
) string {
	for _, l := range lines {
		fmt.Fprintf(h, "%d %q %q %s %s\n", l.Hour.Start.Unix(), l.Subject, l.Meter, l.Before, l.After)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// writeVoid writes the rows and then the touches. Each hour gets a touch with a number of its own, which no booking can
// have covered before the rows were durable, and one with the void's number, which says that this was done.
func (s *Store) writeVoid(ctx context.Context, p *voidPlan, actor, reason string) error {
	void := rand.Uint64() //nolint:gosec // a name, not a secret
	at := s.touchNow()
	fresh := make([]voidKey, 0, len(p.keys))
	var list []touch
	for _, k := range p.keys {
		if !k.void {
			fresh = append(fresh, k)
		}
		if n := len(list); n == 0 || list[n-1].hour != k.hour {
			subjects := []string{p.subject}
			list = append(list, newTouch(k.hour, subjects, touchVoid), touch{hour: k.hour, id: void, subjects: subjects, reason: touchMarker})
		}
	}
	killpoint.Hit("void.before")
	for chunk := range slices.Chunk(fresh, voidChunk) {
		err := s.insertRows(ctx, eventVoids, len(chunk), func(i int, d []columnData) error {
			d[1].string(p.subject)
			d[2].fixed(chunk[i].key[:])
			d[3].uint64(void)
			d[4].bool(chunk[i].stamped)
			d[6].string(actor)
			d[7].string(reason)
			return errors.Join(d[0].dateTime(time.Unix(chunk[i].hour, 0)), d[5].dateTime(at))
		})
		if err != nil {
			return err
		}
	}
	if len(fresh) > 0 {
		var stored uint64
		first, last := time.Unix(p.keys[0].hour, 0), time.Unix(p.keys[len(p.keys)-1].hour, 0)
		query := "SELECT uniqExact(hour, event_key) FROM event_voids WHERE hour >= " + sqlTime(first) + " AND hour <= " + sqlTime(last) +
			" AND subject = " + quote(p.subject) + " AND void = " + sqlUint(void)
		if err := s.conn.QueryRow(ctx, query).Scan(&stored); err != nil {
			return fmt.Errorf("count rows written: %w", err)
		}
		if stored != uint64(len(fresh)) {
			return fmt.Errorf("%w: %d of %d voids", ErrRowsMissing, stored, len(fresh))
		}
	}
	killpoint.Hit("void.durable")
	if err := s.writeTouches(ctx, list); err != nil {
		return fmt.Errorf("touch %d hours: %w", len(list)/2, err)
	}
	killpoint.Hit("void.touched")
	return nil
}
