package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked is in the chain of the error of a second engine on the same data directory.
var ErrLocked = errors.New("data directory is in use by another engine")

// lockDir takes the lock of the data directory, waiting up to patience for an engine that is about to end. The lock
// goes with the process, however it ends.
func lockDir(ctx context.Context, dir string, patience time.Duration) (*os.File, error) {
	path := filepath.Join(dir, "engine.lock")
	file, err := os.OpenFile(filepath.Clean(path), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			holder := lockHolder(path)
			return nil, errors.Join(fmt.Errorf("%w (%s, waited %v): stop the other daemon or give this one a directory of its own", ErrLocked, holder, patience), file.Close())
		}
	}
	if err := writeHolder(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// writeHolder leaves the process ID for the message of the next one.
func writeHolder(file *os.File) error {
	if err := file.Truncate(0); err != nil {
		return fmt.Errorf("write lock: %w", err)
	}
	if _, err := file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return fmt.Errorf("write lock: %w", err)
	}
	return nil
}

func lockHolder(path string) string {
	text, err := os.ReadFile(filepath.Clean(path))
	pid := strings.TrimSpace(string(text))
	if err != nil || pid == "" {
		return path
	}
	return path + ", process " + pid
}
