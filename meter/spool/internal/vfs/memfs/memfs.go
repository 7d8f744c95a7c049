// Package memfs is a file system in memory for tests of durability. It knows
// what has been synced and what has not: [FS.Crash] gives the state that a
// machine may find after a power cut, with unsynced pages, lengths and names
// each kept or lost at random. [FS.Inject] fails chosen operations. A failed
// sync behaves as Linux does: the pages that were dirty count as clean
// afterwards although they never reached the disk, so a later sync that
// succeeds does not save them.
package memfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/meterd/meterd/meter/spool/internal/vfs"
)

// pageSize is what a crash keeps or loses as a whole.
const pageSize = 512

// Op names an operation for [FS.Inject].
type Op string

// The operations that can be made to fail.
const (
	OpOpen     Op = "open"
	OpRead     Op = "read"
	OpWrite    Op = "write"
	OpTruncate Op = "truncate"
	OpSync     Op = "sync"
	OpSyncDir  Op = "syncdir"
	OpRename   Op = "rename"
	OpRemove   Op = "remove"
)

// ErrPowerOff is the error of everything after [FS.PowerOffAfter] has struck.
var ErrPowerOff = errors.New("power is off")

// FS is the file system. Use [New].
type FS struct {
	mu       sync.Mutex
	live     map[string]*node
	durable  map[string]*node
	locked   map[string]bool
	inject   func(op Op, name string) error
	capacity int64
	fuse     int  // Changes left until the power fails; 0 for never.
	dead     bool // The power has failed.
}

type node struct {
	live    []byte
	durable []byte
	dirty   map[int64]bool // By page.
	resized bool
}

var _ vfs.FS = (*FS)(nil)

// New returns an empty file system.
func New() *FS {
	return &FS{live: map[string]*node{}, durable: map[string]*node{}, locked: map[string]bool{}}
}

// Inject calls fn before every operation, with the base name of its file; an
// error makes the operation fail. A failed write has written its first half.
// nil ends the injection.
func (m *FS) Inject(fn func(op Op, name string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inject = fn
}

// SetCapacity bounds the bytes in all files; a write past it fails with ENOSPC
// after writing what fits. 0 removes the bound.
func (m *FS) SetCapacity(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = n
}

// PowerOffAfter lets n more changes of the disk begin; the nth is not
// completed (a write gets half way), and nothing changes any more after it.
// What is left is what [FS.Crash] starts from.
func (m *FS) PowerOffAfter(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fuse = n
}

// Edit changes the content of a file behind everybody's back, live and
// durable, as a failing disk does.
func (m *FS) Edit(name string, fn func([]byte) []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.live[name]
	if !ok {
		return fmt.Errorf("edit %s: %w", name, fs.ErrNotExist)
	}
	n.live = fn(n.live)
	n.durable = slices.Clone(n.live)
	return nil
}

// Kill returns the state after the end of the process: everything written is
// there, what was not synced is still not, and the locks are gone. The old FS
// is left to the old process.
func (m *FS) Kill() *FS {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, clones := New(), map[*node]*node{}
	clone := func(n *node) *node {
		if clones[n] == nil {
			clones[n] = n.clone()
		}
		return clones[n]
	}
	for name, n := range m.live {
		c.live[name] = clone(n)
	}
	for name, n := range m.durable {
		c.durable[name] = clone(n)
	}
	return c
}

// Crash returns a state that is possible after a power cut: where the durable
// name and the live one differ, one of them is there.
func (m *FS) Crash(rng *rand.Rand) *FS {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := slices.AppendSeq(slices.Collect(maps.Keys(m.live)), maps.Keys(m.durable))
	slices.Sort(names) // For the sake of a repeatable rng.
	c := New()
	for _, name := range slices.Compact(names) {
		n := m.durable[name]
		if m.live[name] != n && rng.IntN(2) == 0 {
			n = m.live[name]
		}
		if n != nil {
			c.live[name] = n.crash(rng)
			c.durable[name] = c.live[name]
		}
	}
	return c
}

func (n *node) clone() *node {
	c := &node{live: slices.Clone(n.live), durable: slices.Clone(n.durable), dirty: map[int64]bool{}, resized: n.resized}
	for p := range n.dirty {
		c.dirty[p] = true
	}
	return c
}

func (n *node) crash(rng *rand.Rand) *node {
	c := n.clone()
	if n.resized && rng.IntN(2) == 0 {
		size := len(n.live)
		if size > len(c.durable) && rng.IntN(2) == 0 {
			size = len(c.durable) + rng.IntN(size-len(c.durable))
		}
		c.durable = resize(c.durable, int64(size))
	}
	pages := make([]int64, 0, len(n.dirty))
	for p := range n.dirty {
		pages = append(pages, p)
	}
	slices.Sort(pages)
	for _, p := range pages {
		if rng.IntN(2) == 0 {
			c.savePage(p, n.live)
		}
	}
	c.live = slices.Clone(c.durable)
	c.dirty, c.resized = map[int64]bool{}, false
	return c
}

// savePage copies a page of live into the durable content, as far as that reaches.
func (n *node) savePage(p int64, live []byte) {
	from, to := p*pageSize, min((p+1)*pageSize, int64(len(live)), int64(len(n.durable)))
	if from < to {
		copy(n.durable[from:to], live[from:to])
	}
}

func resize(b []byte, size int64) []byte {
	if size <= int64(len(b)) {
		return b[:size]
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}

// check asks the injection; m.mu is held.
func (m *FS) check(op Op, name string) error {
	if m.fuse > 0 && op != OpRead && op != OpOpen {
		m.fuse--
		m.dead = m.fuse == 0
	}
	if m.dead {
		return &os.PathError{Op: string(op), Path: name, Err: ErrPowerOff}
	}
	if m.inject == nil {
		return nil
	}
	if err := m.inject(op, filepath.Base(name)); err != nil {
		return &os.PathError{Op: string(op), Path: name, Err: err}
	}
	return nil
}

// MkdirAll implements [vfs.FS]; directories exist without being made.
func (m *FS) MkdirAll(string) error { return nil }

// OpenFile implements [vfs.FS].
func (m *FS) OpenFile(name string, flag int) (vfs.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(OpOpen, name); err != nil {
		return nil, err
	}
	n, ok := m.live[name]
	switch {
	case ok && flag&os.O_EXCL != 0:
		return nil, &os.PathError{Op: "open", Path: name, Err: fs.ErrExist}
	case !ok && flag&os.O_CREATE == 0:
		return nil, &os.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case !ok:
		n = &node{dirty: map[int64]bool{}}
		m.live[name] = n
	}
	if flag&os.O_TRUNC != 0 {
		n.live, n.resized = n.live[:0], true
	}
	return &file{fs: m, name: name, n: n}, nil
}

// List implements [vfs.FS].
func (m *FS) List(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := map[string]bool{}
	var names []string
	for name := range m.live {
		rest, ok := strings.CutPrefix(name, dir+string(filepath.Separator))
		if first, _, _ := strings.Cut(rest, string(filepath.Separator)); ok && !seen[first] {
			seen[first] = true
			names = append(names, first)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Rename implements [vfs.FS].
func (m *FS) Rename(oldName, newName string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(OpRename, newName); err != nil {
		return err
	}
	n, ok := m.live[oldName]
	if !ok {
		return &os.PathError{Op: "rename", Path: oldName, Err: fs.ErrNotExist}
	}
	delete(m.live, oldName)
	m.live[newName] = n
	return nil
}

// Remove implements [vfs.FS].
func (m *FS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(OpRemove, name); err != nil {
		return err
	}
	if _, ok := m.live[name]; !ok {
		return &os.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	delete(m.live, name)
	return nil
}

// SyncDir implements [vfs.FS].
func (m *FS) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(OpSyncDir, dir); err != nil {
		return err
	}
	for name := range m.durable {
		if _, ok := m.live[name]; !ok && filepath.Dir(name) == dir {
			delete(m.durable, name)
		}
	}
	for name, n := range m.live {
		if filepath.Dir(name) == dir {
			m.durable[name] = n
		}
	}
	return nil
}

// Lock implements [vfs.FS].
func (m *FS) Lock(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locked[name] {
		return nil, vfs.ErrLocked
	}
	m.locked[name] = true
	return unlock(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.locked, name)
	}), nil
}

type unlock func()

func (u unlock) Close() error { u(); return nil }

type file struct {
	fs   *FS
	name string
	n    *node
}

func (f *file) ReadAt(b []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.check(OpRead, f.name); err != nil {
		return 0, err
	}
	if off >= int64(len(f.n.live)) {
		return 0, io.EOF
	}
	n := copy(b, f.n.live[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(b []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	wasDead := f.fs.dead
	err := f.fs.check(OpWrite, f.name)
	switch {
	case wasDead:
		return 0, err
	case err != nil:
		b = b[:len(b)/2]
	}
	if room := f.fs.room(); room >= 0 {
		if grow := off + int64(len(b)) - int64(len(f.n.live)); grow > room {
			b = b[:max(0, int64(len(b))-(grow-room))]
			err = errors.Join(err, &os.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC})
		}
	}
	if end := off + int64(len(b)); len(b) > 0 && end > int64(len(f.n.live)) {
		f.n.live, f.n.resized = resize(f.n.live, end), true
	}
	copy(f.n.live[min(off, int64(len(f.n.live))):], b)
	for p := off / pageSize; p*pageSize < off+int64(len(b)); p++ {
		f.n.dirty[p] = true
	}
	return len(b), err
}

// room is how many bytes may still be added, -1 for any number; mu is held.
func (m *FS) room() int64 {
	if m.capacity == 0 {
		return -1
	}
	used := int64(0)
	for _, n := range m.live {
		used += int64(len(n.live))
	}
	return max(0, m.capacity-used)
}

func (f *file) Size() (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return int64(len(f.n.live)), nil
}

func (f *file) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.check(OpTruncate, f.name); err != nil {
		return err
	}
	f.n.live, f.n.resized = resize(f.n.live, size), true
	for p := range f.n.dirty {
		if p*pageSize >= size {
			delete(f.n.dirty, p)
		}
	}
	return nil
}

func (f *file) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	n := f.n
	err := f.fs.check(OpSync, f.name)
	if f.fs.dead {
		return err
	}
	n.durable = resize(n.durable, int64(len(n.live))) // Lengths go through the journal.
	if err == nil {
		for p := range n.dirty {
			n.savePage(p, n.live)
		}
	}
	n.dirty, n.resized = map[int64]bool{}, false // Also after a failure.
	return err
}

func (f *file) Close() error { return nil }
