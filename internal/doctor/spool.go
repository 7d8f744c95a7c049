package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Shares of spool.max_bytes, in percent.
const (
	spoolFilling = 50
	spoolFull    = 95
)

func (d *doctor) spoolDir() string { return filepath.Join(d.cfg.DataDir, "spool") }

// checkSpool looks at the spool from outside: opening it would repair it, and a daemon may be using it.
func (d *doctor) checkSpool(context.Context) []Finding {
	const name = "spool"
	dir := d.spoolDir()
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return []Finding{ok(name, dir+" doesn't exist yet; meterd serve will create it")}
	}
	var findings []Finding
	held, holder, err := lockHeld(filepath.Join(dir, "lock"))
	switch {
	case err != nil:
		findings = append(findings, fail(name, fmt.Sprintf("the lock of %s can't be looked at: %v", dir, cause(err)), "run doctor as meterd's user"))
	case held:
		findings = append(findings, ok(name, "in use by a running daemon"+holder))
	default:
		findings = append(findings, ok(name, "not in use: no daemon runs on this data directory"))
	}
	use, err := spoolUse(dir)
	if err != nil {
		return append(findings, fail(name, fmt.Sprintf("%s can't be read: %v", dir, cause(err)), "run doctor as meterd's user"))
	}
	limit := int64(d.cfg.Spool.MaxBytes)
	found := fmt.Sprintf("%s not yet in ClickHouse, of %s", size(use.unconfirmed), d.cfg.Spool.MaxBytes)
	switch percent := use.unconfirmed / max(limit/100, 1); {
	case percent >= spoolFull:
		findings = append(findings, fail(name, found+": full", "ingest answers 429 until ClickHouse takes events; see the engine's or server's check and the daemon's log"))
	case percent >= spoolFilling:
		findings = append(findings, warn(name, found, "ClickHouse doesn't keep up or was away; see the engine's or server's check"))
	default:
		findings = append(findings, ok(name, found))
	}
	if use.quarantined > 0 {
		findings = append(findings, warn(name, fmt.Sprintf("%d damaged stretches in %s", use.quarantined, filepath.Join(dir, "quarantine")),
			"the daemon's log tells how many events each held; check the disk, and let senders repeat that time"))
	}
	return findings
}

// spoolUsage is what is in a spool.
type spoolUsage struct {
	unconfirmed int64 // bytes of segments behind the confirmed position
	quarantined int   // files
}

// spoolUse adds up the segments. What the checkpoint says is confirmed doesn't count; without one everything counts.
func spoolUse(dir string) (spoolUsage, error) {
	var use spoolUsage
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return use, nil
	}
	if err != nil {
		return use, err
	}
	segment, offset := confirmed(filepath.Join(dir, "checkpoint"))
	for _, entry := range entries {
		number, isSegment := strings.CutSuffix(entry.Name(), ".seg")
		n, err := strconv.ParseUint(number, 10, 64)
		if !isSegment || err != nil || n < segment {
			continue
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // confirmed and deleted meanwhile
		}
		if err != nil {
			return use, err
		}
		use.unconfirmed += info.Size()
		if n == segment {
			use.unconfirmed -= min(offset, info.Size())
		}
	}
	quarantine, err := os.ReadDir(filepath.Join(dir, "quarantine"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return use, err
	}
	for _, entry := range quarantine {
		if !strings.HasSuffix(entry.Name(), "-torn.bin") { // nobody got an acknowledgement for those
			use.quarantined++
		}
	}
	return use, nil
}

// confirmed reads the confirmed position, zero if there is none that can be read.
func confirmed(checkpoint string) (segment uint64, offset int64) {
	text, err := os.ReadFile(checkpoint) //nolint:gosec // below the configured data directory
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(text)) {
		if n, _ := fmt.Sscanf(line, "confirmed %d:%d ", &segment, &offset); n == 2 && offset >= 0 {
			return segment, offset
		}
	}
	return 0, 0
}

// lockHeld tells whether a process holds the lock of a file. It takes a shared lock for a moment to find out.
func lockHeld(path string) (held bool, holder string, err error) {
	file, err := os.Open(path) //nolint:gosec // below the configured data directory
	if errors.Is(err, fs.ErrNotExist) {
		return false, "", nil
	}
	if err != nil {
		return false, "", err
	}
	defer file.Close()
	err = unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return false, "", err
	}
	text := make([]byte, 32)
	n, _ := file.Read(text) // an empty lock names nobody
	if pid, err := strconv.Atoi(strings.TrimSpace(string(text[:n]))); err == nil {
		holder = fmt.Sprintf(" (process %d)", pid)
	}
	return true, holder, nil
}
