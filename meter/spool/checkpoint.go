package spool

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/meterd/meterd/internal/killpoint"
	"github.com/meterd/meterd/meter/spool/internal/vfs"
)

const (
	checkpointName = "checkpoint"
	maxCheckpoint  = 4 << 10
)

// checkpoint is the durable state beside the segments: what the consumer has
// confirmed, and how far the data was durable when this was written.
type checkpoint struct {
	confirmed      Position
	confirmedAt    counters // Records and events before confirmed.
	salt           uint32   // Of the segment that confirmed points into.
	durable        Position
	durableThrough counters // Records and events before durable.
}

// checkpointForm is text, so that an operator can read it.
const checkpointForm = "meterd spool checkpoint 1\n" +
	"confirmed %d:%d records %d events %d salt %08x\n" +
	"durable %d:%d records %d events %d\n"

func (c checkpoint) encode() []byte {
	b := fmt.Appendf(nil, checkpointForm,
		c.confirmed.Segment, c.confirmed.Offset, c.confirmedAt.records, c.confirmedAt.events, c.salt,
		c.durable.Segment, c.durable.Offset, c.durableThrough.records, c.durableThrough.events)
	return fmt.Appendf(b, "crc32c %08x\n", crc32.Checksum(b, castagnoli))
}

var errBadCheckpoint = errors.New("checkpoint is damaged")

// parseCheckpoint accepts exactly what encode writes.
func parseCheckpoint(b []byte) (checkpoint, error) {
	var (
		c   checkpoint
		crc uint32
	)
	if len(b) > maxCheckpoint {
		return checkpoint{}, errBadCheckpoint
	}
	_, err := fmt.Sscanf(string(b), checkpointForm+"crc32c %08x\n",
		&c.confirmed.Segment, &c.confirmed.Offset, &c.confirmedAt.records, &c.confirmedAt.events, &c.salt,
		&c.durable.Segment, &c.durable.Offset, &c.durableThrough.records, &c.durableThrough.events, &crc)
	if err != nil || c.confirmed.Offset < 0 || c.durable.Offset < 0 || !bytes.Equal(c.encode(), b) {
		return checkpoint{}, errBadCheckpoint
	}
	return c, nil
}

// readCheckpoint returns fs.ErrNotExist when there is none and errBadCheckpoint
// when it cannot be trusted.
func readCheckpoint(fsys vfs.FS, dir string) (checkpoint, error) {
	f, err := fsys.OpenFile(filepath.Join(dir, checkpointName), os.O_RDONLY)
	if err != nil {
		return checkpoint{}, err
	}
	defer func() { _ = f.Close() }() // Only read.
	size, err := f.Size()
	if err != nil || size > maxCheckpoint {
		return checkpoint{}, errBadCheckpoint
	}
	b := make([]byte, size)
	if _, err := readFull(f, b, 0, false); err != nil {
		return checkpoint{}, errBadCheckpoint
	}
	return parseCheckpoint(b)
}

// writeCheckpoint replaces the checkpoint durably, and atomically as long as
// the disk has room for a second file. On a full disk it overwrites the one
// there is, which takes no room: without a checkpoint no segment could be
// deleted, and the disk would stay full for ever. A crash in the middle of that
// leaves a damaged checkpoint, and then everything on disk is delivered again.
func writeCheckpoint(fsys vfs.FS, dir string, c checkpoint) error {
	name := filepath.Join(dir, checkpointName)
	text := c.encode()
	err := writeAtomic(fsys, name, func(f vfs.File) error {
		_, err := f.WriteAt(text, 0)
		return err
	})
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	if overwriteErr := overwrite(fsys, name, text); overwriteErr != nil {
		return errors.Join(err, overwriteErr)
	}
	return nil
}

// overwrite replaces the content of a file that exists.
func overwrite(fsys vfs.FS, name string, content []byte) error {
	f, err := fsys.OpenFile(name, os.O_RDWR)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(content, 0)
	if err == nil {
		err = f.Truncate(int64(len(content)))
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// writeAtomic writes a new file under a temporary name, syncs it, renames it
// and syncs its directory, so that after a crash the old or the new content is
// there, whole.
func writeAtomic(fsys vfs.FS, name string, write func(vfs.File) error) error {
	tmp := name + ".tmp"
	f, err := fsys.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_RDWR)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		killpoint.Hit("spool.file.written")
		err = fsys.Rename(tmp, name)
	}
	if err != nil {
		if rmErr := fsys.Remove(tmp); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
		return err
	}
	killpoint.Hit("spool.file.renamed")
	return fsys.SyncDir(filepath.Dir(name))
}
