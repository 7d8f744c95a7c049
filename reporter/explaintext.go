package reporter

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/meterd/meterd/meter"
)

// WriteText writes the explanation for people who read bills: what was billed, how it came about, what happened since.
func (e Explanation) WriteText(w io.Writer) error {
	out := bufio.NewWriter(w)
	e.writeHead(out)
	e.writeAmounts(out)
	e.writeCarried(out)
	e.writeLife(out)
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write the explanation: %w", err)
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

func period(w meter.Window) string {
	return w.Start.UTC().Format("2006-01-02 15:04:05Z") + " to " + w.End.UTC().Format("2006-01-02 15:04:05Z")
}

func (e Explanation) writeHead(out *bufio.Writer) {
	r := &e.Record
	fmt.Fprintf(out, "Bill record %s: %s\n\n", r.SN, r.Last.State)
	rows := [][2]string{
		{"billed", r.Billed.String()},
		{"period", period(r.Window)},
		{"instance", orNone(r.InstanceID)},
		{"subject", r.Subject},
		{"meter", r.Meter},
		{"product", r.ProductID},
		{"package", r.Package},
		{"mode", r.Mode.String()},
		{"booked by", bookingName(e.Booking)},
	}
	if r.Revision > 0 {
		rows = append(rows, [2]string{"revision", strconv.FormatUint(uint64(r.Revision), 10)})
	}
	for _, row := range rows {
		if row[1] != "" {
			fmt.Fprintf(out, "  %-10s %s\n", row[0], row[1])
		}
	}
	if e.Replaces != nil {
		fmt.Fprintf(out, "  %-10s %s (%s), which failed\n", "replaces", e.Replaces.SN, e.Replaces.Last.State)
	}
	if e.ReplacedBy != nil {
		fmt.Fprintf(out, "  %-10s %s (%s); this record's amount counts no more\n", "replaced", "by "+string(e.ReplacedBy.SN), e.ReplacedBy.Last.State)
	}
}

func bookingName(b Booking) string {
	name := fmt.Sprintf("booking %d (%s) at %s", b.Number, b.Kind, stamp(b.At))
	if b.Actor != "" {
		name += fmt.Sprintf(", by %s: %s", b.Actor, b.Reason)
	}
	return name
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

func (e Explanation) writeAmounts(out *bufio.Writer) {
	r := &e.Record
	fmt.Fprintf(out, "\nHow the amount came about, in units of the meter\n  %s\n", r.Formula())
	if !r.Usage.Add(r.CarriedIn).Equal(r.Billed.Mul(r.Scale).Add(r.CarriedOut)) {
		fmt.Fprintln(out, "  This does not add up: run meterd verify.")
	}
	fmt.Fprintf(out, "\nUsage counted for %s\n", period(r.Window))
	for _, u := range e.Usage {
		fmt.Fprintf(out, "  %s  %s from %d events\n", stamp(u.Hour.Start), u.Then.Quantity, u.Then.Events)
		if u.Latest.Version != u.Then.Version {
			fmt.Fprintf(out, "  %20s  since then counted as %s from %d events; the difference was booked separately\n", "", u.Latest.Quantity, u.Latest.Events)
		}
	}
	if len(e.Usage) == 0 {
		fmt.Fprintln(out, "  none: the amount was carried in")
	}
}

func (e Explanation) writeCarried(out *bufio.Writer) {
	r := &e.Record
	fmt.Fprintf(out, "\nCarried in: %s\n", r.CarriedIn)
	if e.Before != nil {
		fmt.Fprintf(out, "  %12s  carried out of the record before, %s (%s)\n", e.Before.CarriedOut, e.Before.SN, period(e.Before.Window))
	}
	for _, l := range e.Carried {
		a := l.Adjustment
		if a == nil {
			fmt.Fprintf(out, "  %12s  usage of %s\n", l.Quantity, stamp(l.Hour.Start))
			continue
		}
		fmt.Fprintf(out, "  %12s  usage of %s, into %s: %s%s\n", l.Quantity, stamp(l.Hour.Start), a.Into, a.Reason, byWhom(a.Actor))
	}
	if !e.Unexplained.IsZero() {
		fmt.Fprintf(out, "  %12s  is not explained by the books: run meterd verify\n", e.Unexplained)
	}
	fmt.Fprintf(out, "Carried out: %s\n", r.CarriedOut)
	for i := range e.Adjustments {
		if a := &e.Adjustments[i]; a.Version == r.Version || a.Into != IntoBalance {
			fmt.Fprintf(out, "  %12s  usage of %s went into %s: %s%s\n", a.Quantity, stamp(a.Hour.Start), a.Into, a.Reason, byWhom(a.Actor))
		}
	}
}

func byWhom(actor string) string {
	if actor == "" {
		return ""
	}
	return " (" + actor + ")"
}

func (e Explanation) writeLife(out *bufio.Writer) {
	fmt.Fprintln(out, "\nWhat happened to the record")
	for _, t := range e.Transitions {
		fmt.Fprintf(out, "  %s  %-11s", stamp(t.At), t.State)
		if t.Attempt > 0 {
			fmt.Fprintf(out, " attempt %d", t.Attempt)
		}
		if t.Endpoint != "" {
			fmt.Fprintf(out, " to %s", t.Endpoint)
		}
		if t.Code != "" {
			fmt.Fprintf(out, ", answer %s", t.Code)
		}
		if t.Latency > 0 {
			fmt.Fprintf(out, " after %s", t.Latency.Round(time.Millisecond))
		}
		if t.RequestHash != "" {
			fmt.Fprintf(out, ", request sha256:%s", t.RequestHash)
		}
		if t.Message != "" {
			fmt.Fprintf(out, ": %s", t.Message)
		}
		fmt.Fprintln(out, byWhom(t.Actor))
	}
}
