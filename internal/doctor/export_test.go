package doctor

import (
	"context"
	"time"
)

// Functions that need no system to answer.
var (
	MayCreate     = mayCreate
	FilesFinding  = filesFinding
	DiskFinding   = diskFinding
	OffsetFinding = offsetFinding
	Version       = versionFinding
)

// MeasureSync runs the check of the disk alone.
func MeasureSync(ctx context.Context, now func() time.Time, dir string) []Finding {
	d := &doctor{Options: Options{Now: now}}
	d.cfg.DataDir = dir
	return d.checkSync(ctx)
}

// Guarded runs a check as Run does.
func Guarded(ctx context.Context, timeout time.Duration, run func(context.Context) []Finding) []Finding {
	return (&doctor{}).guarded(ctx, check{name: "test", timeout: timeout, run: run})
}

// SpoolUse returns the bytes of a spool that count.
func SpoolUse(dir string) (int64, error) {
	use, err := spoolUse(dir)
	return use.unconfirmed, err
}
