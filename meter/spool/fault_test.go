package spool_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter/spool"
	"github.com/meterd/meterd/meter/spool/internal/vfs/memfs"
)

// failNth makes the nth operation op on segment files fail, and with more the
// next ones, too.
func failNth(op memfs.Op, nth, more int, err error) func(memfs.Op, string) error {
	n := 0
	return func(o memfs.Op, name string) error {
		if o != op || !strings.HasSuffix(name, ".seg") && op != memfs.OpSyncDir {
			return nil
		}
		n++
		if n >= nth && n <= nth+more {
			return err
		}
		return nil
	}
}

// Whatever fails, what was acknowledged is delivered, what was not is not shown
// before a crash, and the spool goes on when the disk does.
func TestSpool_DiskFails(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		op   memfs.Op
		more int // Operations that fail after the first.
		err  error
	}{
		"one write":                  {memfs.OpWrite, 0, syscall.EIO},
		"writes for a while":         {memfs.OpWrite, 6, syscall.ENOSPC},
		"one sync":                   {memfs.OpSync, 0, syscall.EIO},
		"syncs for a while":          {memfs.OpSync, 6, syscall.EIO},
		"directory sync":             {memfs.OpSyncDir, 0, syscall.EIO},
		"directory syncs":            {memfs.OpSyncDir, 3, syscall.EIO},
		"opening files":              {memfs.OpOpen, 3, syscall.EMFILE},
		"write and then cutting off": {memfs.OpTruncate, 3, syscall.EIO},
	}
	for name, tt := range tests {
		for nth := 1; nth <= 6; nth++ {
			t.Run(fmt.Sprintf("%s/nth=%d", name, nth), func(t *testing.T) {
				t.Parallel()
				fsys := memfs.New()
				s := mustOpen(t, fsys, smallOptions())
				fail := failNth(tt.op, nth, tt.more, tt.err)
				if tt.op == memfs.OpTruncate { // Comes only after a failed write.
					write := failNth(memfs.OpWrite, nth, 0, tt.err)
					truncate := fail
					fail = func(o memfs.Op, n string) error { return errors.Join(write(o, n), truncate(o, n)) }
				}
				fsys.Inject(fail)
				acked, failed := appendThrough(t, s, 40, tt.err)
				if failed == 0 && tt.op != memfs.OpSyncDir {
					t.Fatal("nothing failed")
				}
				fsys.Inject(nil)
				acked = append(acked, "at last")
				mustAppend(t, s, "at last")
				if st := s.Stats(); st.Failing || st.FailedCommits != int64(failed) || st.QueuedBytes != 0 {
					t.Errorf("Stats() = failing %v, %d failed commits, %d bytes queued; want false, %d, 0",
						st.Failing, st.FailedCommits, st.QueuedBytes, failed)
				}
				if diff := cmp.Diff(acked, payloads(drain(t, s, spool.Position{}))); diff != "" {
					t.Errorf("records (-want +got):\n%s", diff)
				}
				if got := s.Damage(); len(got) != 0 {
					t.Errorf("Damage() = %+v, want none", got)
				}
				// A power cut loses nothing of it.
				s = mustOpen(t, fsys.Crash(rand.New(rand.NewPCG(1, uint64(nth)))), smallOptions())
				if diff := cmp.Diff(acked, payloads(drain(t, s, spool.Position{}))); diff != "" {
					t.Errorf("records after a crash (-want +got):\n%s", diff)
				}
				if got := s.Damage(); len(got) != 0 {
					t.Errorf("Damage() after a crash = %+v, want none", got)
				}
			})
		}
	}
}

// appendThrough appends n records one after the other and returns those that
// were acknowledged.
func appendThrough(t *testing.T, s *spool.Spool, n int, want error) (acked []string, failed int) {
	t.Helper()
	for i := range n {
		p := incompressible(fmt.Sprintf("record %02d", i), 500)
		_, err := s.Append(t.Context(), []byte(p), 1)
		switch {
		case err == nil:
			acked = append(acked, p)
		case errors.Is(err, want):
			failed++
		default:
			t.Fatalf("Append: %v, want %v", err, want)
		}
	}
	return acked, failed
}

// After a failed sync the page cache may hold bytes that the disk lacks: no
// later sync that succeeds may be taken for theirs.
func TestSpool_FailedSyncIsNotForgotten(t *testing.T) {
	t.Parallel()
	fsys := memfs.New()
	s := mustOpen(t, fsys, smallOptions())
	mustAppend(t, s, "first")
	// Neither the sync nor the repair succeeds, so the bytes stay in the file.
	fsys.Inject(func(op memfs.Op, _ string) error {
		if op == memfs.OpSync || op == memfs.OpTruncate {
			return syscall.EIO
		}
		return nil
	})
	_, err := s.Append(t.Context(), []byte("lost"), 1)
	if !errors.Is(err, syscall.EIO) || !errors.Is(err, spool.ErrUncertain) {
		t.Fatalf("Append: %v, want EIO and ErrUncertain", err)
	}
	fsys.Inject(nil)
	end := mustAppend(t, s, "second")
	if end.Segment != 2 {
		t.Errorf("the record after a failed sync is in segment %d, want a new one", end.Segment)
	}
	want := []string{"first", "second"}
	for i := range uint64(20) {
		s := mustOpen(t, fsys.Crash(rand.New(rand.NewPCG(2, i))), smallOptions())
		if diff := cmp.Diff(want, payloads(drain(t, s, spool.Position{}))); diff != "" {
			t.Fatalf("records after a crash (-want +got):\n%s", diff)
		}
		if got := s.Damage(); len(got) != 0 {
			t.Errorf("Damage() = %+v, want none", got)
		}
	}
}

// The policy holds even where the repair seems to succeed.
func TestSpool_FailedSyncEndsTheSegment(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		op   memfs.Op
		want uint64
	}{
		"sync":  {memfs.OpSync, 2},
		"write": {memfs.OpWrite, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fsys := memfs.New()
			s := mustOpen(t, fsys, smallOptions())
			end := mustAppend(t, s, "first")
			fsys.Inject(failNth(tt.op, 1, 0, syscall.EIO))
			if _, err := s.Append(t.Context(), []byte("fails"), 1); !errors.Is(err, syscall.EIO) {
				t.Fatalf("Append: %v, want EIO", err)
			}
			if got := int64(len(readAll(t, fsys, segmentPath(1)))); got != end.Offset {
				t.Errorf("the file has %d bytes after the failure, want it cut back to %d", got, end.Offset)
			}
			if got := mustAppend(t, s, "second").Segment; got != tt.want {
				t.Errorf("the next record is in segment %d, want %d", got, tt.want)
			}
		})
	}
}

// A process that dies after a failed sync leaves a group in the page cache,
// marked clean, that the disk lacks. The next process takes it up, so it has to
// put it onto the disk, or a power cut would turn it into damage.
func TestOpen_MakesTheLastGroupDurable(t *testing.T) {
	t.Parallel()
	fsys := memfs.New()
	s := mustOpen(t, fsys, smallOptions())
	mustAppend(t, s, "first")
	fsys.Inject(func(op memfs.Op, _ string) error {
		if op == memfs.OpSync || op == memfs.OpTruncate {
			return syscall.EIO
		}
		return nil
	})
	if _, err := s.Append(t.Context(), []byte(incompressible("second", 2000)), 1); err == nil {
		t.Fatal("Append succeeds without a sync")
	}
	fsys = fsys.Kill()
	s = mustOpen(t, fsys, smallOptions())
	before := payloads(drain(t, s, spool.Position{}))
	mustAppend(t, s, "third") // A segment behind makes the end of this one known.
	s = mustOpen(t, fsys.Crash(rand.New(rand.NewPCG(5, 5))), smallOptions())
	if diff := cmp.Diff(append(before, "third"), payloads(drain(t, s, spool.Position{}))); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	if got := s.Damage(); len(got) != 0 {
		t.Errorf("Damage() = %+v, want none", got)
	}
}

// The rename of a checkpoint whose directory sync failed must be durable before
// segments are deleted on its word.
func TestOpen_MakesTheCheckpointDurable(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		fsys := memfs.New()
		s := mustOpen(t, fsys, smallOptions())
		fillForDamage(t, s)
		fsys.Inject(failNth(memfs.OpSyncDir, 1, 10, syscall.EIO))
		if err := s.Confirm(s.Durable()); !errors.Is(err, syscall.EIO) {
			t.Fatalf("Confirm: %v, want EIO", err)
		}
		fsys = fsys.Kill()
		mustOpen(t, fsys, smallOptions())
		s = mustOpen(t, fsys.Crash(rand.New(rand.NewPCG(6, seed))), smallOptions())
		if got := s.Damage(); len(got) != 0 || s.Recovery().Checkpoint != spool.CheckpointGood {
			t.Fatalf("checkpoint %s, Damage() = %+v; want a good one and none", s.Recovery().Checkpoint, got)
		}
	}
}

// Reads that fail while the spool is opened must not make a torn end of
// acknowledged records, nor let them be confirmed unseen.
func TestOpen_UnreadableForAMoment(t *testing.T) {
	t.Parallel()
	for segment := uint64(1); segment <= 3; segment++ {
		t.Run(fmt.Sprint("segment=", segment), func(t *testing.T) {
			t.Parallel()
			fsys := memfs.New()
			fillForDamage(t, mustOpen(t, fsys, smallOptions()))
			fsys = fsys.Kill()
			fsys.Inject(func(op memfs.Op, name string) error {
				if op == memfs.OpRead && name == spool.SegmentName(segment) {
					return syscall.EIO
				}
				return nil
			})
			s := mustOpen(t, fsys, smallOptions())
			fsys.Inject(nil)
			if len(s.Damage()) == 0 {
				t.Error("the failing disk is not reported")
			}
			var want, got []string
			r := s.NewReader(s.Confirmed())
			for i := range damageRecords {
				want = append(want, damagePayload(i))
				rec, err := r.Next(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, string(rec.Payload))
				mustConfirm(t, s, rec.End)
				if c := s.Confirmed(); c != rec.End {
					t.Fatalf("confirmed up to %v, asked for %v", c, rec.End)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("records (-want +got):\n%s", diff)
			}
		})
	}
}

// The time of the latest append outlives everything but its files, so that a
// clock that goes back is noticed; records that were confirmed tell it as well.
func TestOpen_Newest(t *testing.T) {
	t.Parallel()
	begun := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for name, confirm := range map[string]bool{"confirmed": true, "unconfirmed": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fsys, o, now := memfs.New(), smallOptions(), begun
			var mu sync.Mutex // The committer reads the clock, too.
			o.Now = func() time.Time {
				mu.Lock()
				defer mu.Unlock()
				return now
			}
			set := func(at time.Time) {
				mu.Lock()
				defer mu.Unlock()
				now = at
			}
			s := mustOpen(t, fsys, o)
			if got := s.Recovery().Newest; !got.IsZero() {
				t.Errorf("new spool: Newest = %s, want none", got)
			}
			mustAppend(t, s, "first")
			set(begun.Add(time.Minute))
			mustAppend(t, s, "second")
			set(begun.Add(-time.Hour))
			end := mustAppend(t, s, "third")
			if confirm {
				mustConfirm(t, s, end)
			}
			mustClose(t, s)
			want := begun.Add(time.Minute)
			if got := mustOpen(t, fsys, o).Recovery().Newest; !got.Equal(want) {
				t.Errorf("Newest = %s, want %s", got, want)
			}
		})
	}
}

// Positions are not used again even when the files that had them are gone.
func TestOpen_AllSegmentsGone(t *testing.T) {
	t.Parallel()
	fsys := memfs.New()
	s := mustOpen(t, fsys, smallOptions())
	fillForDamage(t, s)
	done := spool.Position{Segment: 3, Offset: at(1)}
	mustConfirm(t, s, done)
	mustClose(t, s)
	remove(3)(t, fsys)
	s = mustOpen(t, fsys, smallOptions())
	if diff := cmp.Diff([]hit{{3, at(1), 0, 3, true}}, hits(s.Damage())); diff != "" {
		t.Errorf("Damage() (-want +got):\n%s", diff)
	}
	end := mustAppend(t, s, "new")
	if !done.Before(end) {
		t.Errorf("the new record ends at %v, which is not behind the confirmed %v", end, done)
	}
	if got := payloads(drain(t, s, s.Confirmed())); len(got) != 1 || got[0] != "new" {
		t.Errorf("%d records, want the new one", len(got))
	}
	mustConfirm(t, s, end)
}

func TestSpool_DiskFull(t *testing.T) {
	t.Parallel()
	fsys := memfs.New()
	fsys.SetCapacity(10 << 10)
	s := mustOpen(t, fsys, smallOptions())
	acked, failed := appendThrough(t, s, 40, syscall.ENOSPC)
	if failed == 0 || len(acked) < 10 {
		t.Fatalf("%d records fit into 10 KiB and %d failed", len(acked), failed)
	}
	st := s.Stats()
	if !st.Failing || !errors.Is(st.LastError, syscall.ENOSPC) || st.LastErrorAt.IsZero() {
		t.Errorf("Stats() = failing %v with %v at %v, want ENOSPC", st.Failing, st.LastError, st.LastErrorAt)
	}
	if diff := cmp.Diff(acked, payloads(drain(t, s, spool.Position{}))); diff != "" {
		t.Errorf("records on a full disk (-want +got):\n%s", diff)
	}
	// Confirming makes room by itself.
	fsys.SetCapacity(11 << 10)
	mustConfirm(t, s, s.Durable())
	mustAppend(t, s, "room again")
	mustClose(t, s)
	s = mustOpen(t, fsys, smallOptions())
	if got := payloads(drain(t, s, s.Confirmed())); len(got) != 1 || got[0] != "room again" {
		t.Errorf("%d records after the disk was full, want one", len(got))
	}
}

// On a disk without room for a second checkpoint the first is overwritten: else nothing could be deleted, ever.
func TestSpool_ConfirmOnFullDisk(t *testing.T) {
	t.Parallel()
	for name, errno := range map[string]syscall.Errno{"disk": syscall.ENOSPC, "quota": syscall.EDQUOT} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			confirmWithoutRoom(t, errno)
		})
	}
}

func confirmWithoutRoom(t *testing.T, errno syscall.Errno) {
	t.Helper()
	fsys := memfs.New()
	s := mustOpen(t, fsys, smallOptions())
	fillForDamage(t, s)
	full := func(names ...string) func(memfs.Op, string) error {
		return func(op memfs.Op, name string) error {
			if op == memfs.OpWrite && slices.Contains(names, name) {
				return errno
			}
			return nil
		}
	}
	fsys.Inject(full("checkpoint.tmp", "checkpoint"))
	if err := s.Confirm(s.Durable()); !errors.Is(err, errno) {
		t.Errorf("Confirm without any room: %v, want %v", err, errno)
	}
	fsys.Inject(full("checkpoint.tmp"))
	mustConfirm(t, s, s.Durable())
	fsys = fsys.Kill()
	s = mustOpen(t, fsys, smallOptions())
	if got := s.Recovery().Checkpoint; got != spool.CheckpointGood {
		t.Errorf("the overwritten checkpoint is %s, want good", got)
	}
	if got := payloads(drain(t, s, s.Confirmed())); len(got) != 0 {
		t.Errorf("%d records after everything was confirmed, want none", len(got))
	}
}

func TestSpool_ConfirmFails(t *testing.T) {
	t.Parallel()
	for _, op := range []memfs.Op{memfs.OpOpen, memfs.OpWrite, memfs.OpSync, memfs.OpRename, memfs.OpSyncDir} {
		t.Run(string(op), func(t *testing.T) {
			t.Parallel()
			fsys := memfs.New()
			s := mustOpen(t, fsys, smallOptions())
			fillForDamage(t, s)
			early := spool.Position{Segment: 1, Offset: at(2)}
			mustConfirm(t, s, early)
			fsys.Inject(func(o memfs.Op, name string) error {
				if o == op && !strings.HasSuffix(name, ".seg") {
					return syscall.EIO
				}
				return nil
			})
			if err := s.Confirm(s.Durable()); !errors.Is(err, syscall.EIO) {
				t.Fatalf("Confirm: %v, want EIO", err)
			}
			if got := s.Confirmed(); got != early {
				t.Errorf("Confirmed() = %v after a failure, want %v", got, early)
			}
			fsys.Inject(nil)
			if got := len(drain(t, s, s.Confirmed())); got != damageRecords-2 {
				t.Errorf("%d records are left, want %d", got, damageRecords-2)
			}
			mustConfirm(t, s, s.Durable())
			if got := s.Stats(); got.UnconfirmedRecords != 0 || got.Segments != 1 {
				t.Errorf("%d records in %d segments after confirming all", got.UnconfirmedRecords, got.Segments)
			}
		})
	}
}

// Segments that could not be deleted when they were confirmed go at the next start.
func TestSpool_RemoveFails(t *testing.T) {
	t.Parallel()
	fsys := memfs.New()
	s := mustOpen(t, fsys, smallOptions())
	fillForDamage(t, s)
	fsys.Inject(func(op memfs.Op, name string) error {
		if op == memfs.OpRemove && strings.HasSuffix(name, ".seg") {
			return syscall.EBUSY
		}
		return nil
	})
	mustConfirm(t, s, s.Durable())
	fsys.Inject(nil)
	mustClose(t, s)
	s = mustOpen(t, fsys, smallOptions())
	if got := s.Recovery(); got.Checkpoint != spool.CheckpointGood || got.Records != 0 || s.Stats().Segments != 1 {
		t.Errorf("checkpoint %q, %d records in %d segments; want good, none in 1", got.Checkpoint, got.Records, s.Stats().Segments)
	}
}

// Many writers, a consumer that reads and confirms, and somebody who looks at
// the counters, while the disk fails now and then.
func TestSpool_Concurrent(t *testing.T) {
	t.Parallel()
	const writers, each = 16, 60
	fsys := memfs.New()
	rng := rand.New(rand.NewPCG(3, 3))
	fsys.Inject(func(op memfs.Op, name string) error { // Called one at a time.
		if strings.HasSuffix(name, ".seg") && (op == memfs.OpWrite || op == memfs.OpSync) && rng.IntN(40) == 0 {
			return syscall.EIO
		}
		return nil
	})
	s := mustOpen(t, fsys, smallOptions())
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				p := incompressible(fmt.Sprintf("%d/%d ", w, i), 100+10*i)
				for {
					_, err := s.Append(t.Context(), []byte(p), 1)
					if err == nil {
						break
					}
					if !errors.Is(err, syscall.EIO) && !errors.Is(err, spool.ErrFull) {
						t.Error(err)
						return
					}
					_ = s.Stats()
				}
			}
		})
	}
	got := map[string]int{}
	r := s.NewReader(s.Confirmed())
	for n := 0; len(got) < writers*each; n++ {
		rec, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(string(rec.Payload), " ")
		got[name]++
		if n%7 == 0 || s.Stats().UnconfirmedBytes > 32<<10 {
			mustConfirm(t, s, rec.End)
		}
	}
	wg.Wait()
	for name, n := range got {
		if n != 1 {
			t.Errorf("record %s came %d times without a crash", name, n)
		}
	}
	if d := s.Damage(); len(d) != 0 {
		t.Errorf("Damage() = %+v, want none", d)
	}
}
