package doctor

import (
	"context"
	"fmt"
	"time"
)

// Differences between clocks. Events are stamped and hours closed by ours, and signed calls carry its time.
const (
	offsetWarn = 5 * time.Second
	offsetFail = 30 * time.Second
)

// checkClock asks the kernel whether the clock is kept right. Its difference to the marketplace's and to a ClickHouse
// server's is measured where those are asked.
func (d *doctor) checkClock(context.Context) []Finding {
	const name = "clock"
	at := d.Now().UTC().Format(time.RFC3339)
	synced, detail, err := clockSync()
	switch {
	case err != nil:
		return []Finding{warn(name, fmt.Sprintf("%s; whether it is synchronised can't be told: %v", at, err), "see the difference to the marketplace's clock")}
	case !synced:
		return []Finding{warn(name, at+"; the kernel says that nobody synchronises it",
			"run chrony, ntpd or systemd-timesyncd here or on the host: hours are billed by this clock")}
	}
	return []Finding{ok(name, at+", synchronised, "+detail)}
}

// offsetFinding compares a clock that shows whole seconds with the middle of the exchange.
func offsetFinding(check, whose string, theirs, before, after time.Time) Finding {
	middle := before.Add(after.Sub(before) / 2)
	ahead := middle.Sub(theirs.Add(500 * time.Millisecond)).Round(time.Second)
	const advice = "synchronise the clocks: hours are billed by them"
	found := whose + ": its clock agrees with ours"
	switch {
	case ahead > time.Second:
		found = fmt.Sprintf("%s: our clock is %s ahead of its clock", whose, ahead)
	case ahead < -time.Second:
		found = fmt.Sprintf("%s: our clock is %s behind its clock", whose, -ahead)
	}
	switch {
	case ahead.Abs() >= offsetFail:
		return fail(check, found, advice)
	case ahead.Abs() >= offsetWarn:
		return warn(check, found, advice)
	}
	return ok(check, found)
}
