package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// durability completes what the engine's fsync settings leave open. With fsync_after_insert and
// fsync_part_directory the engine syncs a part's files, renames the part to its final name and then syncs the
// part's own directory (fdatasync). The rename is an entry of the table's directory, which nobody syncs: after a
// power cut the part may be back under its temporary name, which the engine deletes at start. So the bridge syncs
// the table's directory before it confirms an insert.
type durability struct {
	path string // the engine's data path
	off  bool

	mu      sync.Mutex
	dirs    map[string][]string // database + "\x00" + table → data directories
	changes int                 // counts forget, so that no answer from before it is kept
}

func newDurability(path string, off bool) *durability {
	return &durability{path: path, off: off, dirs: map[string][]string{}}
}

// forget drops what is known of tables; any statement that is not a read or an insert may have moved them.
func (d *durability) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.dirs)
	d.changes++
}

// inserted makes the directory entries of new parts of the table durable. c is used to find its directories.
func (d *durability) inserted(c *conn, database, table string) error {
	if d.off {
		return nil
	}
	dirs, err := d.tableDirs(c, database, table)
	if err != nil {
		return err
	}
	if len(dirs) == 0 {
		// Not a table with directories of its own, such as a table function: take everything.
		return d.syncAll()
	}
	for _, dir := range dirs {
		err := syncDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			// The table was replaced meanwhile.
			d.forget()
			return d.syncAll()
		}
		if err != nil {
			return fmt.Errorf("sync directory of table %s: %w", table, err)
		}
	}
	return nil
}

func (d *durability) tableDirs(c *conn, database, table string) ([]string, error) {
	if database == "" {
		database = c.database
	}
	key := database + "\x00" + table
	d.mu.Lock()
	dirs, ok := d.dirs[key]
	changes := d.changes
	d.mu.Unlock()
	if ok {
		return dirs, nil
	}
	dirs, err := c.lines("SELECT arrayJoin(data_paths) FROM system.tables WHERE database = " + quoteString(database) + " AND name = " + quoteString(table))
	if err != nil {
		return nil, fmt.Errorf("find directory of table %s: %w", table, err)
	}
	for i, dir := range dirs {
		if !filepath.IsAbs(dir) {
			dirs[i] = filepath.Join(d.path, dir)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if changes == d.changes {
		d.dirs[key] = dirs
	}
	return dirs, nil
}

// syncAll writes back the whole file system of the data path. It is for statements that change tables: they are rare
// and touch directories in several places.
func (d *durability) syncAll() error {
	if d.off {
		return nil
	}
	dir, err := os.Open(d.path)
	if err != nil {
		return fmt.Errorf("sync data directory: %w", err)
	}
	err = unix.Syncfs(int(dir.Fd()))
	if err = errors.Join(err, dir.Close()); err != nil {
		return fmt.Errorf("sync data directory %s: %w", d.path, err)
	}
	return nil
}

// changesFiles says whether a statement of kindChange can touch files: KILL and SYSTEM SYNC … only steer the engine.
func changesFiles(sql string) bool {
	sc := scanner{text: sql}
	return !strings.EqualFold(sc.next().text, "KILL")
}

func syncDir(path string) error {
	dir, err := os.Open(filepath.Clean(path)) //nolint:gosec // G703: a directory the engine named as its own
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
