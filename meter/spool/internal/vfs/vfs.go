// Package vfs is the thin layer between the spool and the file system. It
// exists so that tests can fail one chosen write or sync and drop the bytes
// that were never synced, as a power cut does; production code uses [OS].
//
// Durability follows POSIX: bytes are durable after [File.Sync], names (a file
// created, renamed or removed) after [FS.SyncDir].
package vfs

import (
	"errors"
	"io"
)

// ErrLocked says that another process, or another spool of this process,
// holds the lock file.
var ErrLocked = errors.New("locked by another process")

// File is an open file addressed by offset. ReadAt and WriteAt may be called
// concurrently.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer

	// Size returns the file's present length in bytes.
	Size() (int64, error)
	// Truncate cuts the file to size bytes, or extends it with zeros.
	Truncate(size int64) error
	// Sync makes the content and the length durable. It need not make
	// times durable (fdatasync where the system has it).
	Sync() error
}

// FS is the part of a file system that the spool needs.
type FS interface {
	// MkdirAll creates dir and its parents with mode 0700.
	MkdirAll(dir string) error
	// OpenFile opens name with the flags of package os; new files get mode 0600.
	OpenFile(name string, flag int) (File, error)
	// List returns the names of the entries of dir, sorted.
	List(dir string) ([]string, error)
	// Rename replaces newName by oldName atomically.
	Rename(oldName, newName string) error
	// Remove deletes a file.
	Remove(name string) error
	// SyncDir makes the names in dir durable.
	SyncDir(dir string) error
	// Lock takes an exclusive lock on the file name, creating it. It does not
	// wait: the error is [ErrLocked] when somebody else holds it. Closing the
	// result releases the lock, and so does the end of the process.
	Lock(name string) (io.Closer, error)
}
