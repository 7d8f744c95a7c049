package doctor

import (
	"context"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// checkProfile shows the marketplace's rules that the daemon would go by: whoever changed them should see it.
func (d *doctor) checkProfile(context.Context) []Finding {
	const name = "profile"
	p, err := d.cfg.Profile()
	if err != nil {
		return []Finding{fail(name, err.Error(), "mend the file, or leave koogallery.profile_file empty for the built-in rules")}
	}
	zone, err := d.cfg.DayZone()
	if err != nil {
		return []Finding{fail(name, err.Error(), `set closing.day_zone, for example to "+08:00"`)}
	}
	which := "built-in"
	if d.cfg.KooGallery.ProfileFile != "" {
		which = d.cfg.KooGallery.ProfileFile
	}
	limits := p.Limits()
	found := fmt.Sprintf("%s: at most %d records a call, %d decimals, nothing older than %d days; days of daily products begin at midnight of %s",
		which, limits.MaxBatch, limits.Scale, int(limits.MaxAge/(24*time.Hour)), zone)
	return []Finding{ok(name, found)}
}

// serverLease tells which daemon closes hours and delivers, if one ever did on this database: a second one that was started by mistake is
// seen here. Nothing is found where the tables are not there yet.
func (d *doctor) serverLease(ctx context.Context, conn driver.Conn, addr string) []Finding {
	const name = "server"
	database := d.cfg.Store.Database
	var n uint64
	err := conn.QueryRow(ctx, "SELECT count() FROM system.tables WHERE database = '"+database+"' AND name = 'lease_renewals'").Scan(&n)
	if err != nil || n == 0 {
		return nil
	}
	var epoch uint64
	var holder string
	var released uint8
	query := "SELECT max(epoch), argMax(holder, (epoch, beat)), argMax(released, (epoch, beat)) FROM `" + database + "`.lease_renewals"
	if err := conn.QueryRow(ctx, query).Scan(&epoch, &holder, &released); err != nil {
		return []Finding{warn(name, fmt.Sprintf("%s: the lease can't be read: %v", addr, err), "see the server's log")}
	}
	switch {
	case epoch == 0:
		return []Finding{ok(name, addr+": no daemon has held the lease of this database yet")}
	case released == 1:
		return []Finding{ok(name, fmt.Sprintf("%s: the lease is free; %q held it last", addr, holder))}
	}
	return []Finding{ok(name, fmt.Sprintf("%s: %q took the lease last (%d); other daemons on this database wait for it", addr, holder, epoch))}
}
