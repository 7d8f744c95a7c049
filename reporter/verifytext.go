package reporter

import (
	"encoding/csv"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/meterd/meterd/meter"
)

// Verdict is what [Verify] says of one line. The names are part of the export and don't change.
type Verdict string

// The verdicts.
const (
	VerdictOK        Verdict = "ok"
	VerdictDifferent Verdict = "different"
	// VerdictWaiting: events arrived after the hour was counted; its next recount books them.
	VerdictWaiting Verdict = "waiting"
	// VerdictNotBilled: the meter's usage is counted and goes nowhere.
	VerdictNotBilled Verdict = "not_billed"
)

// VerifyLine is one account (CheckBooks), or one account's hour that differs or waits (CheckUsage).
type VerifyLine struct {
	Check   Check
	Verdict Verdict
	Hour    meter.Window // zero for CheckBooks
	Sum     AccountSum
	// By is what is too much (or, negative, missing) in records, balance and adjustments (CheckBooks), or in what was
	// booked (CheckUsage).
	By meter.Quantity
}

// What to do about a difference, by check.
const (
	adviceBooks = "change nothing in the tables; run meterd verify again, compare the account's bill records and adjustments, and report it " +
		"as a bug with this line: no booking should have been able to do this"
	adviceUsageShort = "send one event of that subject and hour again, unchanged: it counts nothing, but the hour is then counted anew and the rest booked"
	adviceUsageOver  = "if events of that hour were removed from the tables by hand or by retention, leave the hour out (--from); else send one event of " +
		"that subject and hour again, unchanged, so that the hour is counted anew and the surplus becomes a credit"
	adviceRows   = "change nothing in the tables; keep a copy of the database and report it as a bug with this line"
	adviceIntake = "look for damaged parts in the spool's quarantine and for acknowledged events in the dead letters, and compare with the senders' own counts"
)

func pointers(expected, found, by meter.Quantity) (e, f, b *meter.Quantity) {
	return &expected, &found, &by
}

func booksDifference(s AccountSum, by meter.Quantity) Difference {
	d := Difference{Check: CheckBooks, Subject: s.Subject, Meter: s.Meter, Do: adviceBooks}
	d.Expected, d.Found, d.By = pointers(s.Booked, s.Accounted(), by)
	word := "too much"
	if by.Sign() < 0 {
		word, by = "missing", meter.Quantity{}.Sub(by)
	}
	d.What = fmt.Sprintf("subject %q, meter %q: usage booked is %s, but %s adds up to %s: %s %s", s.Subject, s.Meter, s.Booked,
		s.parts(), s.Accounted(), by, word)
	return d
}

// parts is "accepted 12 + balance 0.5", with everything that isn't zero.
func (s AccountSum) parts() string {
	var parts []string
	add := func(name string, q meter.Quantity) {
		if !q.IsZero() {
			parts = append(parts, name+" "+q.String())
		}
	}
	for _, state := range States() {
		add(state.String(), s.Records[state])
	}
	add("balance", s.Balance)
	add("held usage", s.Held)
	add("usage written off", s.WrittenOff)
	add("unbillable usage", s.Unbillable)
	if len(parts) == 0 {
		return "what was made of it"
	}
	return strings.Join(parts, " + ")
}

func usageDifference(s AccountSum, hour meter.Window, by meter.Quantity) Difference {
	d := Difference{Check: CheckUsage, Subject: s.Subject, Meter: s.Meter, Hour: &hour, Do: adviceUsageOver}
	d.Expected, d.Found, d.By = pointers(s.Stored, s.Booked, by)
	word := "was booked without an event"
	if by.Sign() < 0 {
		d.Do = adviceUsageShort
		word, by = "is not booked, and nothing announces it", meter.Quantity{}.Sub(by)
	}
	d.What = fmt.Sprintf("subject %q, meter %q, hour %s: the stored events make %s, booked is %s: %s %s", s.Subject, s.Meter,
		hour.Start.UTC().Format(time.RFC3339), s.Stored, s.Booked, by, word)
	return d
}

func intakeDifference(in Intake, missing int64) Difference {
	c := in.Counts
	word := "are nowhere"
	if missing < 0 {
		word, missing = "are too many", -missing
	}
	return Difference{
		Check: CheckIntake, Do: adviceIntake,
		What: fmt.Sprintf("%d events were in the spool and %d were acknowledged since; %d stored + %d in dead letters + %d damaged + %d in the spool: %d %s",
			c.Before, c.Acknowledged, c.Stored, c.Refused, c.Lost, in.InSpool, missing, word),
	}
}

// VerifyCSV writes [VerifyLine]s as comma-separated values with a heading, one after the other, for any number of them.
type VerifyCSV struct {
	w      *csv.Writer
	states []State
	header bool
}

// NewVerifyCSV returns a writer of CSV to w. Call [VerifyCSV.Flush] at the end.
func NewVerifyCSV(w io.Writer) *VerifyCSV { return &VerifyCSV{w: csv.NewWriter(w), states: States()} }

// Line writes one line. It has the type of [VerifyOptions.Lines].
func (c *VerifyCSV) Line(l VerifyLine) error {
	if err := c.heading(); err != nil {
		return err
	}
	row := make([]string, 0, 12+len(c.states))
	hour := ""
	if !l.Hour.IsZero() {
		hour = l.Hour.Start.UTC().Format(time.RFC3339)
	}
	row = append(row, string(l.Check), string(l.Verdict), cell(l.Sum.Subject), cell(l.Sum.Meter), hour)
	if l.Check == CheckUsage {
		row = append(row, l.Sum.Stored.String())
	} else {
		row = append(row, "")
	}
	row = append(row, l.Sum.Booked.String())
	for _, state := range c.states {
		row = append(row, c.part(l, l.Sum.Records[state]))
	}
	row = append(row, c.part(l, l.Sum.Balance), c.part(l, l.Sum.Held), c.part(l, l.Sum.WrittenOff), c.part(l, l.Sum.Unbillable), l.By.String())
	if err := c.w.Write(row); err != nil {
		return fmt.Errorf("write a CSV line: %w", err)
	}
	return nil
}

// part is a figure that only accounts have.
func (c *VerifyCSV) part(l VerifyLine, q meter.Quantity) string {
	if l.Check == CheckUsage {
		return ""
	}
	return q.String()
}

// Flush writes what is buffered, and the heading if there was no line at all.
func (c *VerifyCSV) Flush() error {
	if err := c.heading(); err != nil {
		return err
	}
	c.w.Flush()
	if err := c.w.Error(); err != nil {
		return fmt.Errorf("write CSV: %w", err)
	}
	return nil
}

func (c *VerifyCSV) heading() error {
	if c.header {
		return nil
	}
	c.header = true
	row := []string{"check", "verdict", "subject", "meter", "hour", "stored", "booked"}
	for _, state := range c.states {
		row = append(row, "records_"+state.String())
	}
	row = append(row, "balance", "held", "written_off", "unbillable", "difference")
	if err := c.w.Write(row); err != nil {
		return fmt.Errorf("write the CSV heading: %w", err)
	}
	return nil
}

// cell keeps a spreadsheet from reading a text that somebody else chose as a formula.
func cell(text string) string {
	if text != "" && strings.ContainsRune("=+-@\t\r", rune(text[0])) {
		return "'" + text
	}
	return text
}
