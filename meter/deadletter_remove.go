package meter

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// Remove takes letters out after they were replayed or given up. The file is rewritten beside the old one and replaces
// it at once, so a crash leaves one or the other. It returns how many of the ids there were.
func (d *DeadLetters) Remove(ids ...uint64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == nil {
		return 0, fmt.Errorf("remove dead letters: %w", os.ErrClosed)
	}
	removed, err := d.rewrite(idSet(ids))
	if err != nil {
		return 0, fmt.Errorf("remove dead letters: %w", err)
	}
	return removed, nil
}

// rewrite replaces the file by one without the letters in gone.
func (d *DeadLetters) rewrite(gone map[uint64]bool) (removed int, err error) {
	// The highest number must survive its letter, so that no number is used twice.
	if err := d.saveHighest(); err != nil {
		return 0, err
	}
	name := d.path + ".new"
	temp, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // beside a configured file
	if err != nil {
		return 0, err
	}
	kept, err := d.copyWithout(temp, gone)
	if err == nil && kept.removed > 0 {
		err = os.Rename(name, d.path)
	}
	if err != nil || kept.removed == 0 {
		return 0, errors.Join(err, temp.Close(), os.Remove(name))
	}
	old := d.file
	d.file, d.size, d.recent = temp, kept.size, kept.recent
	d.stats.Letters -= kept.removed
	d.stats.Acknowledged -= kept.acknowledged
	return kept.removed, errors.Join(old.Close(), syncDir(filepath.Dir(d.path)))
}

// survivors is what a rewrite keeps.
type survivors struct {
	removed int
	// acknowledged are those removed whose event was acknowledged.
	acknowledged uint64
	size         int64
	recent       map[uint64]struct{}
}

// copyWithout writes the letters that aren't in gone to temp, durably. Lines that can't be read stay.
func (d *DeadLetters) copyWithout(temp *os.File, gone map[uint64]bool) (survivors, error) {
	s := survivors{recent: map[uint64]struct{}{}}
	out := bufio.NewWriterSize(temp, 1<<16)
	_, err := d.scan(0, func(l *DeadLetter, line []byte) bool {
		if l != nil && gone[l.ID] {
			s.removed++
			s.acknowledged += one(l.Acknowledged)
			return true
		}
		if l != nil {
			s.recent[letterDigest(l)] = struct{}{}
		}
		n, _ := out.Write(line) // a bufio.Writer keeps its error for Flush
		s.size += int64(n)
		return true
	})
	return s, errors.Join(err, out.Flush(), temp.Sync())
}

// saveHighest writes the next number beside the file, atomically.
func (d *DeadLetters) saveHighest() error {
	name := d.path + ".next"
	temp, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // beside a configured file
	if err != nil {
		return err
	}
	_, err = temp.WriteString(strconv.FormatUint(d.nextID, 10) + "\n")
	if err := errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(d.path))
}

// highest returns the larger of next and the number that was saved.
func (d *DeadLetters) highest(next uint64) (uint64, error) {
	text, err := os.ReadFile(d.path + ".next")
	if errors.Is(err, fs.ErrNotExist) {
		return next, nil
	}
	if err != nil {
		return 0, err
	}
	saved, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s.next: %w; it must hold one number, the next letter's", d.path, err)
	}
	return max(saved, next), nil
}

// syncDir makes a new or renamed name in a directory durable.
func syncDir(dir string) error {
	f, err := os.Open(dir) //nolint:gosec // the directory of a configured file
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
