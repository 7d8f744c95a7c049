package doctor

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// fileSystemTrouble names a file system on which a sync doesn't mean what the daemon needs; "" for others.
func fileSystemTrouble(st *unix.Statfs_t) string {
	switch int64(st.Type) { //nolint:unconvert // the type differs by architecture
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return "a file system in memory"
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC:
		return "a network file system"
	}
	return ""
}

// clockSync asks the kernel whether somebody keeps its clock right.
func clockSync() (synced bool, detail string, err error) {
	var t unix.Timex // Modes 0: only read
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return false, "", fmt.Errorf("adjtimex: %w", err)
	}
	if state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0 {
		return false, "", nil
	}
	return true, fmt.Sprintf("estimated error %s", time.Duration(t.Esterror)*time.Microsecond), nil
}
