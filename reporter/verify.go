package reporter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meterd/meterd/meter"
)

// Check names what [Verify] compared. The names are part of its output and don't change.
type Check string

// The checks.
const (
	// CheckBooks: per account, Σ usage booked = Σ records + balance + held + written off + unbillable (ADR 9).
	CheckBooks Check = "books"
	// CheckUsage: per account and closed hour, the usage of the stored events = the usage booked.
	CheckUsage Check = "usage"
	// CheckRows: the rows don't contradict each other.
	CheckRows Check = "rows"
	// CheckIntake: every event acknowledged is stored, in the spool, or in the dead letters.
	CheckIntake Check = "intake"
)

// Defaults and bounds of [Verify].
const (
	defaultVerifyLimit = 100
	defaultVerifyTries = 3
	defaultVerifyPause = 2 * time.Second
	// maxOpen bounds how many accounts are remembered in order to be looked at again.
	maxOpen = 10_000
	// maxStale bounds how many stale hours are looked at.
	maxStale = 20_000
)

// VerifySource is what [Verify] reads. The books of the store and of reportertest are one.
type VerifySource interface {
	VerifyBooks
	LastBooking(ctx context.Context) (b Booking, ok bool, err error)
	LastClosed(ctx context.Context) (b Booking, ok bool, err error)
	FirstEventHour(ctx context.Context) (w meter.Window, ok bool, err error)
	StaleHours(ctx context.Context, before time.Time, limit int) ([]StaleHour, error)
	Bookings(ctx context.Context, from, to time.Time) ([]Booking, error)
}

// VerifyOptions say what to verify. Clock is required.
type VerifyOptions struct {
	// Meters are the configured meters: only their events can be counted again, and only billed ones have records.
	Meters []meter.Meter
	// Recount counts the stored events of every closed hour that starts in [From, To) again. A zero From means the first
	// hour with events, a zero To the last closed hour. Hours whose events retention may have dropped must be left out by
	// the caller.
	Recount  bool
	From, To time.Time
	// Intake tells what lies before the store; nil leaves that out.
	Intake func(ctx context.Context) (Intake, error)
	// Limit bounds how many differences, and how many waiting hours, are listed; 0 means 100. Their numbers are always exact.
	Limit int
	// Tries is how often a difference must be found before it is reported, because bookings are made and events arrive
	// while the books are read; Pause lies between. 0 means 3 and 2 seconds.
	Tries int
	Pause time.Duration
	Clock Clock
	// Lines is given every account with its sums, and every hour that differs or waits; nil for none. See [VerifyCSV].
	Lines func(VerifyLine) error
}

// Intake is what lies between the acknowledgement of an event and the store. All are numbers of events.
type Intake struct {
	// InSpool are durable in the spool and not confirmed by the store yet.
	InSpool uint64 `json:"in_spool"`
	// DeadLetters were acknowledged and then refused by the store: they wait in the dead-letter file.
	DeadLetters uint64 `json:"dead_letters"`
	// Counts are those of the running process; nil when nobody counted, as without a daemon.
	Counts *IntakeCounts `json:"counts,omitempty"`
}

// IntakeCounts are numbers of events since the process started. The law: Before + Acknowledged = Stored + Refused + Lost + [Intake.InSpool].
type IntakeCounts struct {
	Before       uint64 `json:"before"`       // in the spool when the process started
	Acknowledged uint64 `json:"acknowledged"` // made durable since
	Stored       uint64 `json:"stored"`       // confirmed by the store
	Refused      uint64 `json:"refused"`      // moved to the dead letters
	Lost         uint64 `json:"lost"`         // in damaged parts of the spool, kept in its quarantine
}

// Report is what [Verify] found.
type Report struct {
	// OK says that there is no difference. Waiting hours are no difference.
	OK         bool      `json:"ok"`
	StartedAt  time.Time `json:"started_at"`
	FinishedAt time.Time `json:"finished_at"`
	// Booking is the number of the last booking when the verification began.
	Booking  uint64       `json:"booking"`
	Accounts uint64       `json:"accounts"`
	Totals   []MeterTotal `json:"totals"`            // by meter
	Recount  *Recounted   `json:"recount,omitempty"` // nil unless asked for
	Intake   *Intake      `json:"intake,omitempty"`  // nil unless asked for
	Notes    []string     `json:"notes,omitempty"`   // what could not be verified, and why
	// Differences are the first of DifferenceCount.
	Differences     []Difference `json:"differences"`
	DifferenceCount uint64       `json:"difference_count"`
}

// MeterTotal is the sum over all accounts of a meter, in its unit.
type MeterTotal struct {
	Meter string `json:"meter"`
	// Billed says that the meter has records. Usage of one that isn't billed is counted and goes nowhere.
	Billed   bool           `json:"billed"`
	Accounts uint64         `json:"accounts"`
	Booked   meter.Quantity `json:"booked"`
	// Records is Σ billed × scale by state.
	Records map[State]meter.Quantity `json:"records"`
	// Carried is the sum of the positive balances, Credit that of the negative ones.
	Carried    meter.Quantity `json:"carried"`
	Credit     meter.Quantity `json:"credit"`
	Held       meter.Quantity `json:"held"`
	WrittenOff meter.Quantity `json:"written_off"`
	Unbillable meter.Quantity `json:"unbillable"`
	// Difference is what Booked is short of the sum of the others: 0 unless something is wrong.
	Difference meter.Quantity `json:"difference"`
	// RecountedStored and RecountedBooked are the usage of the hours that were counted again.
	RecountedStored meter.Quantity `json:"recounted_stored"`
	RecountedBooked meter.Quantity `json:"recounted_booked"`
}

// Recounted tells which hours were counted again.
type Recounted struct {
	From  time.Time `json:"from"`
	To    time.Time `json:"to"`
	Hours uint64    `json:"hours"`
	// Waiting are hours with events that arrived after they were counted: the next recount books them. The first of
	// WaitingCount.
	Waiting      []WaitingHour `json:"waiting"`
	WaitingCount uint64        `json:"waiting_count"`
	// WaitingAccounts is in how many (account, hour) stored and booked usage differ for that reason.
	WaitingAccounts uint64 `json:"waiting_accounts"`
	// SkippedMeters have usage in the books but are not configured any more, so that it can't be counted again.
	SkippedMeters []string `json:"skipped_meters,omitempty"`
}

// WaitingHour is a closed hour that waits for its next recount.
type WaitingHour struct {
	Hour     meter.Window `json:"hour"`
	Subjects int          `json:"subjects"` // 0: any subject
	Touches  int          `json:"touches"`
}

// Difference is one finding: what, where, by how much, and what to do.
type Difference struct {
	Check   Check         `json:"check"`
	Subject string        `json:"subject,omitempty"`
	Meter   string        `json:"meter,omitempty"`
	Hour    *meter.Window `json:"hour,omitempty"` // only for [CheckUsage]
	// Expected and Found are the two sides, By is Found − Expected; nil where there are none.
	Expected *meter.Quantity `json:"expected,omitempty"`
	Found    *meter.Quantity `json:"found,omitempty"`
	By       *meter.Quantity `json:"by,omitempty"`
	What     string          `json:"what"`
	Do       string          `json:"do"`
}

// Accounted is where the usage booked of an account is, by the books: what must equal Booked.
func (s AccountSum) Accounted() meter.Quantity {
	sum := s.Balance.Add(s.Held).Add(s.WrittenOff).Add(s.Unbillable)
	for _, q := range s.Records {
		sum = sum.Add(q)
	}
	return sum
}

// Verify re-derives the books from rows and compares what must be equal: per account, per account and hour, in total, within
// the rows, and before the store. It only reads. Its memory does not grow with the books. An error means that it could not
// finish; differences are no error.
func Verify(ctx context.Context, books VerifySource, o VerifyOptions) (Report, error) {
	v, err := newVerification(books, o)
	if err != nil {
		return Report{}, err
	}
	last, _, err := books.LastBooking(ctx)
	if err != nil {
		return v.report, fmt.Errorf("read the last booking: %w", err)
	}
	v.report.Booking = last.Number
	steps := []struct {
		name string
		run  func(context.Context) error
	}{
		{"sum up the accounts", v.checkBooks},
		{"count the hours again", v.checkHours},
		{"check the rows", v.checkRows},
		{"compare the intake", v.checkIntake},
	}
	for _, step := range steps {
		if err := step.run(ctx); err != nil {
			return v.finish(), fmt.Errorf("%s: %w", step.name, err)
		}
	}
	r := v.finish()
	r.OK = r.DifferenceCount == 0
	return r, nil
}

// verification is one run of [Verify].
type verification struct {
	onceUnbilled map[string]bool // slugs of meters that some close counted without billing them
	books        VerifySource
	o            VerifyOptions
	meters       map[string]meter.Meter
	report       Report
	totals       map[string]*MeterTotal
}

func newVerification(books VerifySource, o VerifyOptions) (*verification, error) {
	if books == nil || o.Clock == nil {
		return nil, errors.New("verify: books and Clock are required")
	}
	if o.Limit <= 0 {
		o.Limit = defaultVerifyLimit
	}
	if o.Tries <= 0 {
		o.Tries = defaultVerifyTries
	}
	if o.Pause <= 0 {
		o.Pause = defaultVerifyPause
	}
	v := &verification{books: books, o: o, meters: make(map[string]meter.Meter, len(o.Meters)), totals: map[string]*MeterTotal{}, onceUnbilled: map[string]bool{}}
	for _, m := range o.Meters {
		v.meters[m.Slug] = m
	}
	v.report = Report{StartedAt: o.Clock.Now().UTC(), Totals: []MeterTotal{}, Differences: []Difference{}}
	return v, nil
}

// finish completes the report.
func (v *verification) finish() Report {
	r := v.report
	for _, t := range v.totals {
		r.Totals = append(r.Totals, *t)
	}
	slices.SortFunc(r.Totals, func(a, b MeterTotal) int { return strings.Compare(a.Meter, b.Meter) })
	r.FinishedAt = v.o.Clock.Now().UTC()
	return r
}

// differ adds a difference to the report.
func (v *verification) differ(d Difference) {
	v.report.DifferenceCount++
	if len(v.report.Differences) < v.o.Limit {
		v.report.Differences = append(v.report.Differences, d)
	}
}

func (v *verification) note(format string, args ...any) {
	v.report.Notes = append(v.report.Notes, fmt.Sprintf(format, args...))
}

func (v *verification) line(l VerifyLine) error {
	if v.o.Lines == nil {
		return nil
	}
	if err := v.o.Lines(l); err != nil {
		return fmt.Errorf("write a line: %w", err)
	}
	return nil
}

// pause waits between two tries.
func (v *verification) pause(ctx context.Context) error {
	return v.o.Clock.WaitUntil(ctx, v.o.Clock.Now().Add(v.o.Pause))
}

func (v *verification) total(slug string) *MeterTotal {
	t, ok := v.totals[slug]
	if !ok {
		t = &MeterTotal{Meter: slug, Records: map[State]meter.Quantity{}}
		v.totals[slug] = t
	}
	return t
}

// again runs try until it reports that nothing is left open, at most [VerifyOptions.Tries] times with pauses between. What
// is booked while the books are read makes differences that the next try does not find.
func (v *verification) again(ctx context.Context, try func(first bool) (open int, err error)) error {
	for n := 1; ; n++ {
		open, err := try(n == 1)
		if err != nil || open == 0 || n == v.o.Tries {
			return err
		}
		if err := v.pause(ctx); err != nil {
			return err
		}
	}
}

// sums is [VerifyBooks.AccountSums], repeated when it fails before its first account: books that count in two ways fail when
// events arrive in between.
func (v *verification) sums(ctx context.Context, from, to time.Time, recount bool, meters []meter.Meter, yield func(AccountSum) error) error {
	for n := 1; ; n++ {
		yielded := false
		err := v.books.AccountSums(ctx, from, to, recount, meters, func(s AccountSum) error {
			yielded = true
			return yield(s)
		})
		if err == nil || yielded || ctx.Err() != nil || n == v.o.Tries {
			return err
		}
		if err := v.pause(ctx); err != nil {
			return err
		}
	}
}

// checkBooks compares, account by account, what was booked with where it is.
func (v *verification) checkBooks(ctx context.Context) error {
	if err := v.readUnbilled(ctx); err != nil {
		return err
	}
	open := map[Account]AccountSum{}
	err := v.again(ctx, func(first bool) (int, error) {
		err := v.sums(ctx, time.Time{}, time.Time{}, false, v.o.Meters, func(s AccountSum) error {
			a := Account{Subject: s.Subject, Meter: s.Meter}
			if _, was := open[a]; !first && !was {
				return nil
			}
			if v.balanced(s) || first && len(open) >= maxOpen {
				delete(open, a)
				return v.settleAccount(s)
			}
			open[a] = s
			return nil
		})
		return len(open), err
	})
	if err != nil {
		return err
	}
	for _, a := range sortedAccounts(open) {
		if err := v.settleAccount(open[a]); err != nil {
			return err
		}
	}
	return nil
}

// readUnbilled finds the meters that were counted without being billed at some time: their usage of then is nowhere else.
func (v *verification) readUnbilled(ctx context.Context) error {
	list, err := v.books.Bookings(ctx, time.Time{}, time.Time{})
	if err != nil {
		return fmt.Errorf("read the bookings: %w", err)
	}
	seen := map[string]bool{}
	for _, b := range list {
		if b.Meters == "" || seen[b.Meters] {
			continue
		}
		seen[b.Meters] = true
		for _, m := range v.o.Meters {
			if !b.billed(m.Slug) {
				v.onceUnbilled[m.Slug] = true
			}
		}
	}
	for _, m := range v.o.Meters {
		if m.Billed && v.onceUnbilled[m.Slug] {
			v.note("meter %s was counted in some hours without being billed; where its usage went can't be added up", m.Slug)
		}
	}
	return nil
}

// unbilled reports whether the account's usage is only counted: its meter is or was not billed, or not configured and has left
// no trace but its usage.
func (v *verification) unbilled(s AccountSum) bool {
	if v.onceUnbilled[s.Meter] {
		return true
	}
	m, known := v.meters[s.Meter]
	bare := len(s.Records) == 0 && s.Balance.IsZero() && s.Held.IsZero() && s.WrittenOff.IsZero() && s.Unbillable.IsZero()
	return bare && (!known || !m.Billed)
}

func (v *verification) balanced(s AccountSum) bool {
	return s.Booked.Equal(s.Accounted()) || v.unbilled(s)
}

// settleAccount puts an account into totals and export, and into the differences if it differs.
func (v *verification) settleAccount(s AccountSum) error {
	by := s.Accounted().Sub(s.Booked)
	verdict := VerdictOK
	t := v.total(s.Meter)
	switch {
	case v.unbilled(s):
		by, verdict = meter.Quantity{}, VerdictNotBilled
	case !by.IsZero():
		verdict = VerdictDifferent
		v.differ(booksDifference(s, by))
	}
	t.Billed = t.Billed || verdict != VerdictNotBilled
	v.report.Accounts++
	t.Accounts++
	t.Booked = t.Booked.Add(s.Booked)
	for state, q := range s.Records {
		t.Records[state] = t.Records[state].Add(q)
	}
	if s.Balance.Sign() < 0 {
		t.Credit = t.Credit.Add(s.Balance)
	} else {
		t.Carried = t.Carried.Add(s.Balance)
	}
	t.Held, t.WrittenOff, t.Unbillable = t.Held.Add(s.Held), t.WrittenOff.Add(s.WrittenOff), t.Unbillable.Add(s.Unbillable)
	t.Difference = t.Difference.Add(by)
	return v.line(VerifyLine{Check: CheckBooks, Verdict: verdict, Sum: s, By: by})
}

// checkRows asks the books for contradictions within their rows.
func (v *verification) checkRows(ctx context.Context) error {
	var found []string
	err := v.again(ctx, func(first bool) (int, error) {
		sentences, err := v.books.CheckRows(ctx, maxOpen)
		if err != nil {
			return 0, err
		}
		if first {
			found = sentences
		} else {
			found = slices.DeleteFunc(found, func(s string) bool { return !slices.Contains(sentences, s) })
		}
		return len(found), nil
	})
	for _, sentence := range found {
		v.differ(Difference{Check: CheckRows, What: sentence, Do: adviceRows})
	}
	if len(found) >= maxOpen {
		v.note("there may be more than %d contradictions within the rows; the others were not read", maxOpen)
	}
	return err
}

// checkIntake compares what was acknowledged with where it is. Counters of a running daemon are never read at the same
// instant, so only a difference that stays the same counts.
func (v *verification) checkIntake(ctx context.Context) error {
	if v.o.Intake == nil {
		return nil
	}
	var missing int64
	steady := true
	err := v.again(ctx, func(first bool) (int, error) {
		in, err := v.o.Intake(ctx)
		if err != nil {
			return 0, err
		}
		v.report.Intake = &in
		now := in.missing()
		steady = first || steady && now == missing
		missing = now
		if now == 0 {
			return 0, nil
		}
		return 1, nil
	})
	switch {
	case err != nil || missing == 0:
		return err
	case !steady:
		v.note("the intake could not be compared: events arrived all the time; repeat it at a quieter moment")
	default:
		v.differ(intakeDifference(*v.report.Intake, missing))
	}
	return nil
}

// missing is how many events were acknowledged and are nowhere; negative when there are more than were acknowledged.
func (in Intake) missing() int64 {
	c := in.Counts
	if c == nil {
		return 0
	}
	return int64(c.Before+c.Acknowledged) - int64(c.Stored+c.Refused+c.Lost+in.InSpool) //nolint:gosec // counts of events are far below 2^63
}

func sortedAccounts[V any](m map[Account]V) []Account {
	all := make([]Account, 0, len(m))
	for a := range m {
		all = append(all, a)
	}
	slices.SortFunc(all, compareAccounts)
	return all
}

// compareAccounts orders by subject, then meter.
func compareAccounts(a, b Account) int {
	return cmp.Or(strings.Compare(a.Subject, b.Subject), strings.Compare(a.Meter, b.Meter))
}
