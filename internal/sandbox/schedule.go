package sandbox

import "time"

// Collection times (KooGallery usage push, section 1.6).
const (
	hourlyMinute = 15 * time.Minute
	dailyHour    = 1
)

// nextCollection is the first collection strictly after t. Hourly collections are at minute 15 of the UTC hour, daily
// ones at 01:00 in the zone.
func nextCollection(t time.Time, cycle Collection, zone *time.Location) time.Time {
	if cycle == CollectDaily {
		local := t.In(zone)
		at := time.Date(local.Year(), local.Month(), local.Day(), dailyHour, 0, 0, 0, zone)
		if !at.After(t) {
			at = time.Date(local.Year(), local.Month(), local.Day()+1, dailyHour, 0, 0, 0, zone)
		}
		return at.UTC()
	}
	at := t.UTC().Truncate(time.Hour).Add(hourlyMinute)
	if !at.After(t) {
		at = at.Add(time.Hour)
	}
	return at
}
