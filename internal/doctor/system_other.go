//go:build !linux

package doctor

import (
	"errors"

	"golang.org/x/sys/unix"
)

// fileSystemTrouble knows only Linux's file systems.
func fileSystemTrouble(*unix.Statfs_t) string { return "" }

// clockSync knows only Linux's clock.
func clockSync() (synced bool, detail string, err error) {
	return false, "", errors.New("this system doesn't tell whether its clock is kept right")
}
