package reporter

import (
	"fmt"
	"time"

	"github.com/meterd/meterd/meter"
)

// period returns the billing window that the hour belongs to: the hour itself, or the day in the zone.
func (c Cycle) period(hour meter.Window, zone *time.Location) meter.Window {
	if c != CycleDaily {
		return hour
	}
	y, m, d := hour.Start.In(zone).Date()
	return meter.Window{
		Start: time.Date(y, m, d, 0, 0, 0, 0, zone).UTC(), End: time.Date(y, m, d+1, 0, 0, 0, 0, zone).UTC(),
	}
}

// checkDayZone refuses zones whose days don't begin with an hour of UTC: an hour would belong to two days. It looks at
// summer and winter of the year.
func checkDayZone(zone *time.Location, now time.Time) error {
	for _, month := range []time.Month{time.January, time.July} {
		day := time.Date(now.Year(), month, 1, 0, 0, 0, 0, zone)
		if _, offset := day.Zone(); offset%3600 != 0 {
			return fmt.Errorf("the day zone %s is %s off whole hours of UTC; daily cycles need a zone with whole hours", zone,
				time.Duration(offset%3600)*time.Second)
		}
	}
	return nil
}
