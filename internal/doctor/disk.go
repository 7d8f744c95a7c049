package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meterd/meterd/internal/config"
)

const (
	// minFree is the free space below which the engine's merges fail sooner or later.
	minFree   = int64(config.GiB)
	minInodes = 10_000
	// A sync that takes longer than slowSync is felt by senders of single events; stalledSync looks like a fault.
	slowSync    = 50 * time.Millisecond
	stalledSync = time.Second
	syncRounds  = 20
	syncBudget  = 3 * time.Second
)

// checkSpace compares the free space with what the configuration promises.
func (d *doctor) checkSpace(context.Context) []Finding {
	const name = "disk space"
	dir := existing(d.cfg.DataDir)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return []Finding{fail(name, fmt.Sprintf("%s: %v", dir, err), "mend the file system or set data_dir to another one")}
	}
	free := int64(st.Bavail) * int64(st.Bsize) //nolint:gosec,unconvert // bytes of a disk fit; the types differ by system
	used, err := spoolUse(d.spoolDir())
	if err != nil {
		used = spoolUsage{} // the spool's own check says so
	}
	promised := max(int64(d.cfg.Spool.MaxBytes)-used.unconfirmed, 0) + int64(d.cfg.Ingest.DeadLetterMaxBytes)
	found := fmt.Sprintf("%s free on %s; spool and dead letters may take %s more", size(free), dir, size(promised))
	findings := make([]Finding, 0, 2)
	switch {
	case free < minFree:
		findings = append(findings, fail(name, found, "make room: below "+size(minFree)+" ClickHouse and the spool soon stop"))
	case free < promised:
		findings = append(findings, warn(name, found,
			"make room or lower spool.max_bytes: the disk would be full before the spool is, and ingest answer 503 instead of 429"))
	default:
		findings = append(findings, ok(name, found))
	}
	if st.Files > 0 && st.Ffree < minInodes {
		findings = append(findings, warn(name, fmt.Sprintf("only %d inodes free on %s", st.Ffree, dir), "remove files: ClickHouse needs several for each part"))
	}
	if kind := fileSystemTrouble(&st); kind != "" {
		findings = append(findings, warn(name, dir+" is on "+kind, "put data_dir on a local disk: what is acknowledged must survive a power cut"))
	}
	return findings
}

// size is a number of bytes for people.
func size(n int64) string {
	for _, u := range []struct {
		unit config.Size
		name string
	}{{config.TiB, "TiB"}, {config.GiB, "GiB"}, {config.MiB, "MiB"}, {config.KiB, "KiB"}} {
		if unit := int64(u.unit); n >= unit {
			return fmt.Sprintf("%d.%d %s", n/unit, n%unit*10/unit, u.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}

// checkSync measures how long the disk takes to make 4 KiB durable: the least an acknowledgement takes.
func (d *doctor) checkSync(ctx context.Context) []Finding {
	const name = "disk sync"
	dir := existing(d.cfg.DataDir)
	took, err := d.measureSync(ctx, dir)
	if err != nil {
		return []Finding{fail(name, fmt.Sprintf("%s: %v", dir, cause(err)), writeAdvice(err, dir))}
	}
	slices.Sort(took)
	median, worst := took[len(took)/2], took[len(took)-1]
	found := fmt.Sprintf("4 KiB written and synced in %s (median of %d), %s at worst, in %s", round(median), len(took), round(worst), dir)
	switch {
	case median >= stalledSync:
		return []Finding{fail(name, found, "the disk is overloaded or broken; look at the kernel's log and at what else uses it")}
	case median >= slowSync || worst >= stalledSync:
		return []Finding{warn(name, found, "every acknowledgement waits that long; use a faster disk for data_dir")}
	}
	return []Finding{ok(name, found)}
}

func round(d time.Duration) time.Duration {
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}

func (d *doctor) measureSync(ctx context.Context, dir string) (took []time.Duration, err error) {
	file, err := os.CreateTemp(dir, ".meterd-doctor-*")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	block := make([]byte, 4096)
	began := d.Now()
	for range syncRounds {
		start := d.Now()
		if _, err := file.Write(block); err != nil {
			return nil, err
		}
		if err := file.Sync(); err != nil {
			return nil, err
		}
		took = append(took, d.Now().Sub(start))
		if ctx.Err() != nil || d.Now().Sub(began) > syncBudget {
			break
		}
	}
	return took, nil
}
