package vfs

import (
	"os"
	"syscall"
)

// datasync is fdatasync(2): it writes the data and the metadata needed to read
// it back (the length of an appended file), but spares the journal the times.
func datasync(f *os.File) error {
	if err := control(f, syscall.Fdatasync); err != nil {
		return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
	}
	return nil
}
