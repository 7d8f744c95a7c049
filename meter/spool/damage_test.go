package spool_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter/spool"
	"github.com/meterd/meterd/meter/spool/internal/vfs/memfs"
)

// The spool that the damage tests start from: twelve records of one event in
// three segments, four in each, every one synced by itself.
const (
	damageRecords = 12
	recordSize    = 900
	frameSize     = recordSize + spool.FrameHeaderSize
)

func damagePayload(i int) string { return incompressible(fmt.Sprintf("record %02d ", i), recordSize) }

func fillForDamage(tb testing.TB, s *spool.Spool) {
	tb.Helper()
	for i := range damageRecords {
		mustAppend(tb, s, damagePayload(i))
	}
	if got, want := s.Durable(), (spool.Position{Segment: 3, Offset: at(4)}); got != want {
		tb.Fatalf("the records end at %v, want %v", got, want)
	}
}

func segmentPath(n uint64) string { return filepath.Join(dir, spool.SegmentName(n)) }

// at is the offset of the nth record of a segment.
func at(n int) int64 { return spool.SegmentHeaderSize + int64(n)*frameSize }

// edit returns a damage function that changes a segment file.
func edit(segment uint64, fn func(b []byte) []byte) func(testing.TB, *memfs.FS) {
	return func(tb testing.TB, fsys *memfs.FS) {
		tb.Helper()
		if err := fsys.Edit(segmentPath(segment), fn); err != nil {
			tb.Fatal(err)
		}
	}
}

func flip(segment uint64, off int64) func(testing.TB, *memfs.FS) {
	return edit(segment, func(b []byte) []byte { b[off] ^= 0x10; return b })
}

func remove(segment uint64) func(testing.TB, *memfs.FS) {
	return func(tb testing.TB, fsys *memfs.FS) {
		tb.Helper()
		if err := fsys.Remove(segmentPath(segment)); err != nil {
			tb.Fatal(err)
		}
	}
}

func garbage(b []byte) []byte { copy(b, incompressible("", len(b))); return b }

// hit is what a damage report must say.
type hit struct {
	Segment uint64
	Offset  int64
	Length  int64
	Records int64
	Counted bool
}

func hits(list []spool.Damage) []hit {
	out := []hit{}
	for _, d := range list {
		if d.Records != d.Events {
			out = append(out, hit{}) // Every record holds one event.
		}
		out = append(out, hit{d.Segment, d.Offset, d.Length, d.Records, d.Counted})
	}
	return out
}

type damageCase struct {
	// damage is done to the closed or killed spool.
	damage func(testing.TB, *memfs.FS)
	// crashed: the spool was killed, not closed, so it may end in a torn group.
	crashed bool
	// onlyAtOpen: makes no sense under an open spool.
	onlyAtOpen bool
	lost       []int // Records that can't survive.
	want       []hit
	torn       int64
}

func damageCases() map[string]damageCase {
	return map[string]damageCase{
		"none": {want: []hit{}},
		"bit flip in a body": {
			damage: flip(2, at(1)+500), lost: []int{5}, want: []hit{{2, at(1), frameSize, 1, true}},
		},
		"bit flip in a length field": {
			damage: flip(2, at(1)+36), lost: []int{5}, want: []hit{{2, at(1), frameSize, 1, true}},
		},
		"high bit flip in a length field": {
			damage: flip(2, at(1)+39), lost: []int{5}, want: []hit{{2, at(1), frameSize, 1, true}},
		},
		"bit flip in the magic": {
			damage: flip(2, at(2)), lost: []int{6}, want: []hit{{2, at(2), frameSize, 1, true}},
		},
		"bit flip in the salt": {
			damage: flip(2, at(2)+5), lost: []int{6}, want: []hit{{2, at(2), frameSize, 1, true}},
		},
		"first record of a segment": {
			damage: flip(2, at(0)+8), lost: []int{4}, want: []hit{{2, at(0), frameSize, 1, true}},
		},
		"last record of a segment": {
			damage: flip(2, at(3)+8), lost: []int{7}, want: []hit{{2, at(3), frameSize, 1, true}},
		},
		"very first record": {
			damage: flip(1, at(0)), lost: []int{0}, want: []hit{{1, at(0), frameSize, 1, true}},
		},
		"two records apart": {
			damage: func(tb testing.TB, f *memfs.FS) { tb.Helper(); flip(1, at(1))(tb, f); flip(3, at(0)+70)(tb, f) },
			lost:   []int{1, 8}, want: []hit{{1, at(1), frameSize, 1, true}, {3, at(0), frameSize, 1, true}},
		},
		"zeroed block across two headers": {
			damage: edit(2, func(b []byte) []byte { clear(b[at(1)-100 : at(2)+100]); return b }),
			lost:   []int{4, 5, 6},
			want:   []hit{{2, at(0), frameSize, 1, true}, {2, at(1), 2 * frameSize, 2, true}},
		},
		"last record after a clean close": {
			damage: flip(3, at(3)+100), lost: []int{11}, want: []hit{{3, at(3), frameSize, 1, true}},
		},
		"last header after a clean close": {
			damage: flip(3, at(3)+1), lost: []int{11}, want: []hit{{3, at(3), frameSize, 1, true}},
		},
		"last body after a crash": { // Looks like a torn write, and may be one.
			damage: flip(3, at(3)+100), crashed: true, onlyAtOpen: true, lost: []int{11}, want: []hit{}, torn: frameSize,
		},
		"torn record at the end": {
			damage:  edit(3, func(b []byte) []byte { return append(b, b[at(3):at(3)+300]...) }),
			crashed: true, onlyAtOpen: true, want: []hit{}, torn: 300,
		},
		"zero-filled end": {
			damage:  edit(3, func(b []byte) []byte { return append(b, make([]byte, 5000)...) }),
			crashed: true, onlyAtOpen: true, want: []hit{}, torn: 5000,
		},
		"garbage at the end": {
			damage:  edit(3, func(b []byte) []byte { return append(b, incompressible("", 777)...) }),
			crashed: true, onlyAtOpen: true, want: []hit{}, torn: 777,
		},
		"segment that was never begun": {
			damage: func(tb testing.TB, f *memfs.FS) {
				tb.Helper()
				n, err := f.OpenFile(segmentPath(4), syscall.O_CREAT|syscall.O_RDWR)
				if _, werr := n.WriteAt(make([]byte, 40), 0); err != nil || werr != nil {
					tb.Fatal(err, werr)
				}
			},
			crashed: true, onlyAtOpen: true, want: []hit{},
		},
		"unacknowledged bytes behind a segment that was given up": {
			damage:     edit(2, func(b []byte) []byte { return append(b, b[at(0):at(2)]...) }),
			onlyAtOpen: true, want: []hit{},
		},
		"segment header": {
			damage: flip(2, 20), onlyAtOpen: true, want: []hit{{2, 0, spool.SegmentHeaderSize, 0, true}},
		},
		"segment header and first record": {
			damage:     edit(2, func(b []byte) []byte { clear(b[:100]); return b }),
			onlyAtOpen: true, lost: []int{4},
			want: []hit{{2, 0, spool.SegmentHeaderSize, 0, true}, {2, at(0), frameSize, 1, true}},
		},
		"first segment header": {
			damage: flip(1, 0), onlyAtOpen: true, want: []hit{{1, 0, spool.SegmentHeaderSize, 0, true}},
		},
		"last segment header": {
			damage: flip(3, 0), onlyAtOpen: true, want: []hit{{3, 0, spool.SegmentHeaderSize, 0, true}},
		},
		"whole segment is garbage": {
			damage: edit(2, garbage), onlyAtOpen: true, lost: []int{4, 5, 6, 7},
			want: []hit{{2, 0, spool.SegmentHeaderSize, 0, true}, {2, at(0), 4 * frameSize, 4, true}},
		},
		"segment replaced by a copy of another": {
			damage: func(tb testing.TB, f *memfs.FS) {
				tb.Helper()
				var first []byte
				edit(1, func(b []byte) []byte { first = slices.Clone(b); return b })(tb, f)
				edit(2, func([]byte) []byte { return first })(tb, f)
			},
			onlyAtOpen: true, lost: []int{4, 5, 6, 7},
			want: []hit{{2, 0, spool.SegmentHeaderSize, 0, true}, {2, at(0), 4 * frameSize, 4, true}},
		},
		"truncated middle segment": {
			damage:     edit(2, func(b []byte) []byte { return b[:at(2)+100] }),
			onlyAtOpen: true, lost: []int{6, 7},
			want: []hit{{2, at(2), 100, 2, true}, {2, at(2) + 100, 2*frameSize - 100, 0, true}},
		},
		"missing middle segment": {
			damage: remove(2), onlyAtOpen: true, lost: []int{4, 5, 6, 7}, want: []hit{{1, at(4), 0, 4, true}},
		},
		"missing first segment": {
			damage: remove(1), onlyAtOpen: true, lost: []int{0, 1, 2, 3}, want: []hit{{0, 0, 0, 4, true}},
		},
		"missing last segment": {
			damage: remove(3), onlyAtOpen: true, lost: []int{8, 9, 10, 11}, want: []hit{{2, at(4), 0, 4, true}},
		},
		"truncated last segment": {
			damage: edit(3, func(b []byte) []byte { return b[:at(2)] }), onlyAtOpen: true, lost: []int{10, 11},
			want: []hit{{3, at(2), 0, 2, true}},
		},
	}
}

func (c damageCase) survivors() []string {
	out := []string{}
	for i := range damageRecords {
		if !slices.Contains(c.lost, i) {
			out = append(out, damagePayload(i))
		}
	}
	return out
}

// Damage that happened while the spool was closed.
func TestOpen_Damage(t *testing.T) {
	t.Parallel()
	for name, c := range damageCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fsys := memfs.New()
			s := mustOpen(t, fsys, smallOptions())
			fillForDamage(t, s)
			if !c.crashed {
				mustClose(t, s)
			}
			fsys = fsys.Kill()
			if c.damage != nil {
				c.damage(t, fsys)
			}
			s = mustOpen(t, fsys, smallOptions())
			checkSurvivors(t, s, c)
			if got := s.Recovery().TornBytes; got != c.torn {
				t.Errorf("TornBytes = %d, want %d", got, c.torn)
			}
			checkQuarantine(t, fsys, s)

			// What is known is not news at the next start.
			mustClose(t, s)
			s = mustOpen(t, fsys.Kill(), smallOptions())
			for _, d := range s.Recovery().Damage {
				if !d.Known {
					t.Errorf("reported again as new: %+v", d)
				}
			}
			if got := s.Recovery().TornBytes; got != 0 {
				t.Errorf("second repair cut %d bytes", got)
			}
			if diff := cmp.Diff(c.survivors(), payloads(drain(t, s, spool.Position{}))); diff != "" {
				t.Errorf("records at the second start (-want +got):\n%s", diff)
			}
			checkGoesOn(t, s)
		})
	}
}

// Damage that happens under an open spool is found by the reader.
func TestReader_Damage(t *testing.T) {
	t.Parallel()
	for name, c := range damageCases() {
		if c.onlyAtOpen {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fsys := memfs.New()
			s := mustOpen(t, fsys, smallOptions())
			fillForDamage(t, s)
			if c.damage != nil {
				c.damage(t, fsys)
			}
			checkSurvivors(t, s, c)
			if st := s.Stats(); st.LostRecords != int64(len(c.lost)) || st.DamagedRanges != int64(len(c.want)) {
				t.Errorf("Stats() = %d records lost in %d ranges, want %d in %d", st.LostRecords, st.DamagedRanges, len(c.lost), len(c.want))
			}
			checkQuarantine(t, fsys, s)
			checkGoesOn(t, s)
		})
	}
}

func checkSurvivors(t *testing.T, s *spool.Spool, c damageCase) {
	t.Helper()
	if diff := cmp.Diff(c.survivors(), payloads(drain(t, s, spool.Position{}))); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(c.want, hits(s.Damage())); diff != "" {
		t.Errorf("Damage() (-want +got):\n%s", diff)
	}
}

// checkQuarantine compares the copies with the places they were taken from.
func checkQuarantine(t *testing.T, fsys *memfs.FS, s *spool.Spool) {
	t.Helper()
	for _, d := range s.Damage() {
		got := readAll(t, fsys, d.File)
		if strings.HasSuffix(d.File, "-missing.txt") {
			continue
		}
		b := readAll(t, fsys, segmentPath(d.Segment))
		want := b[min(d.Offset, int64(len(b))):min(d.Offset+d.Length, int64(len(b)))]
		if !bytes.HasPrefix(got, want) || int64(len(got)) != d.Length {
			t.Errorf("%s has %d bytes that differ from the %d damaged ones", d.File, len(got), d.Length)
		}
	}
}

func readAll(tb testing.TB, fsys *memfs.FS, name string) []byte {
	tb.Helper()
	f, err := fsys.OpenFile(name, 0)
	if err != nil {
		tb.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		tb.Fatal(err)
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); size > 0 && err != nil {
		tb.Fatal(err)
	}
	return b
}

// checkGoesOn appends, reads and confirms past the damage: nothing stays
// unconfirmed, so nothing of the bound is lost.
func checkGoesOn(t *testing.T, s *spool.Spool) {
	t.Helper()
	end := mustAppend(t, s, "after the damage")
	recs := drain(t, s, spool.Position{})
	if len(recs) == 0 || recs[len(recs)-1].End != end {
		t.Fatal("the record appended after the damage is not delivered")
	}
	mustConfirm(t, s, end)
	if st := s.Stats(); st.UnconfirmedBytes != 0 || st.UnconfirmedRecords != 0 {
		t.Errorf("%d bytes and %d records stay unconfirmed", st.UnconfirmedBytes, st.UnconfirmedRecords)
	}
}

// Damage at the very end has no record behind it whose confirmation would pass
// it, yet it must not stay unconfirmed.
func TestSpool_DamageAtTheEndIsConfirmed(t *testing.T) {
	t.Parallel()
	for _, order := range []string{"confirm first", "read first"} {
		t.Run(order, func(t *testing.T) {
			t.Parallel()
			fsys := memfs.New()
			s := mustOpen(t, fsys, smallOptions())
			fillForDamage(t, s)
			flip(3, at(3))(t, fsys)
			lastGood := spool.Position{Segment: 3, Offset: at(3)}
			if order == "confirm first" {
				mustConfirm(t, s, lastGood)
				drain(t, s, lastGood)
			} else {
				drain(t, s, spool.Position{})
				mustConfirm(t, s, lastGood)
			}
			if got := s.Confirmed(); got != s.Durable() {
				t.Errorf("confirmed up to %v, want the end %v", got, s.Durable())
			}
			if st := s.Stats(); st.UnconfirmedBytes != 0 || !st.OldestUnconfirmedAt.IsZero() {
				t.Errorf("%d bytes stay unconfirmed since %v", st.UnconfirmedBytes, st.OldestUnconfirmedAt)
			}
		})
	}
}

// A payload that holds the image of a record must not be taken for one when the
// record around it is damaged.
func TestReader_ForgedRecordInPayload(t *testing.T) {
	t.Parallel()
	fsys := memfs.New()
	s := mustOpen(t, fsys, smallOptions())
	mustAppend(t, s, incompressible("genuine", 300))
	image := readAll(t, fsys, segmentPath(1))[spool.SegmentHeaderSize:]
	start := s.Durable().Offset
	mustAppend(t, s, string(image)+string(image))
	mustAppend(t, s, "behind")
	flip(1, start+4)(t, fsys)
	want := []string{incompressible("genuine", 300), "behind"}
	if diff := cmp.Diff(want, payloads(drain(t, s, spool.Position{}))); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func TestOpen_Checkpoint(t *testing.T) {
	t.Parallel()
	name := filepath.Join(dir, "checkpoint")
	tests := map[string]struct {
		damage func(testing.TB, *memfs.FS)
		state  spool.CheckpointState
		first  int // First record delivered; records 0 to 5 were confirmed.
	}{
		"good": {func(testing.TB, *memfs.FS) {}, spool.CheckpointGood, 6},
		"missing": {func(tb testing.TB, f *memfs.FS) {
			tb.Helper()
			if err := f.Remove(name); err != nil {
				tb.Fatal(err)
			}
		}, spool.CheckpointMissing, 4},
		"empty": {func(tb testing.TB, f *memfs.FS) {
			tb.Helper()
			_ = f.Edit(name, func([]byte) []byte { return nil })
		}, spool.CheckpointDamaged, 4},
		"bit flip": {func(tb testing.TB, f *memfs.FS) {
			tb.Helper()
			_ = f.Edit(name, func(b []byte) []byte { b[40] ^= 1; return b })
		}, spool.CheckpointDamaged, 4},
		"longer": {func(tb testing.TB, f *memfs.FS) {
			tb.Helper()
			_ = f.Edit(name, func(b []byte) []byte { return append(b, 'x') })
		}, spool.CheckpointDamaged, 4},
		"from elsewhere, same place": {func(tb testing.TB, f *memfs.FS) {
			tb.Helper()
			copyCheckpoint(tb, f, 6)
		}, spool.CheckpointForeign, 4},
		"from elsewhere, ahead of the data": {func(tb testing.TB, f *memfs.FS) {
			tb.Helper()
			copyCheckpoint(tb, f, 30)
		}, spool.CheckpointForeign, 4},
		"data restored from an old backup": {func(tb testing.TB, f *memfs.FS) {
			tb.Helper()
			_ = f.Edit(segmentPath(2), func(b []byte) []byte { return b[:at(1)] })
		}, spool.CheckpointForeign, 4},
	}
	for tname, tt := range tests {
		t.Run(tname, func(t *testing.T) {
			t.Parallel()
			fsys := memfs.New()
			s := mustOpen(t, fsys, smallOptions())
			fillForDamage(t, s)
			mustConfirm(t, s, spool.Position{Segment: 2, Offset: at(2)})
			mustClose(t, s)
			tt.damage(t, fsys)
			s = mustOpen(t, fsys, smallOptions())
			if got := s.Recovery().Checkpoint; got != tt.state {
				t.Errorf("Checkpoint = %q, want %q", got, tt.state)
			}
			recs := drain(t, s, s.Confirmed())
			if len(recs) == 0 || string(recs[0].Payload) != damagePayload(tt.first) {
				t.Fatalf("%d records, want them from number %d", len(recs), tt.first)
			}
			end := mustAppend(t, s, "new")
			mustConfirm(t, s, end)
			mustClose(t, s)
			s = mustOpen(t, fsys, smallOptions())
			if got := s.Recovery(); got.Checkpoint != spool.CheckpointGood || got.Records != 0 {
				t.Errorf("after confirming all: checkpoint %q, %d records", got.Checkpoint, got.Records)
			}
		})
	}
}

// copyCheckpoint replaces the checkpoint by that of another spool, in which n
// records were confirmed.
func copyCheckpoint(tb testing.TB, fsys *memfs.FS, n int) {
	tb.Helper()
	other := memfs.New()
	s := mustOpen(tb, other, smallOptions())
	var end spool.Position
	for i := range n {
		end = mustAppend(tb, s, damagePayload(i))
	}
	mustConfirm(tb, s, end)
	mustClose(tb, s)
	b := readAll(tb, other, filepath.Join(dir, "checkpoint"))
	if err := fsys.Edit(filepath.Join(dir, "checkpoint"), func([]byte) []byte { return b }); err != nil {
		tb.Fatal(err)
	}
}

func TestOpen_LaterVersion(t *testing.T) {
	t.Parallel()
	fsys := memfs.New()
	s := mustOpen(t, fsys, smallOptions())
	fillForDamage(t, s)
	mustClose(t, s)
	edit(2, spool.SetVersion(2))(t, fsys)
	before := readAll(t, fsys, segmentPath(2))
	if _, err := spool.OpenFS(smallOptions(), fsys); !errors.Is(err, spool.ErrVersion) {
		t.Fatalf("Open: %v, want ErrVersion", err)
	}
	if !bytes.Equal(before, readAll(t, fsys, segmentPath(2))) {
		t.Error("the segment was changed")
	}
	edit(2, spool.SetVersion(1))(t, fsys)
	if got := len(drain(t, mustOpen(t, fsys, smallOptions()), spool.Position{})); got != damageRecords {
		t.Errorf("%d records with the right version, want %d", got, damageRecords)
	}
}

// nextUntil calls Next until it succeeds or n errors came.
func nextUntil(ctx context.Context, r *spool.Reader, n int) (rec spool.Record, errs int, err error) {
	for {
		if rec, err = r.Next(ctx); err == nil || errs == n {
			return rec, errs, err
		}
		errs++
	}
}

// A place that the disk cannot read is reported, and passed over in the end.
func TestReader_UnreadableBlock(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		failures int // Reads of segment 2 that fail.
		lost     int
	}{
		"for a moment": {3, 0},
		"for good":     {1 << 30, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fsys := memfs.New()
			s := mustOpen(t, fsys, smallOptions())
			fillForDamage(t, s)
			left := tt.failures
			fsys.Inject(func(op memfs.Op, file string) error {
				if op == memfs.OpRead && file == spool.SegmentName(2) && left > 0 {
					left--
					return syscall.EIO
				}
				return nil
			})
			r := s.NewReader(spool.Position{})
			got, errs := 0, 0
			for got < damageRecords-tt.lost {
				_, n, err := nextUntil(t.Context(), r, 10)
				if err != nil {
					t.Fatalf("after %d records: %v", got, err)
				}
				got, errs = got+1, errs+n
			}
			if errs == 0 {
				t.Error("the failing disk was never reported")
			}
			if lost := s.Stats().LostRecords; lost != int64(tt.lost) {
				t.Errorf("LostRecords = %d, want %d", lost, tt.lost)
			}
			mustConfirm(t, s, s.Durable())
			// The copy has holes, so the original is kept.
			_, err := fsys.OpenFile(filepath.Join(dir, "quarantine", spool.SegmentName(2)), 0)
			if kept := err == nil; kept != (tt.lost > 0) {
				t.Errorf("segment 2 kept in the quarantine: %v", kept)
			}
		})
	}
}

func TestReader_VanishedSegment(t *testing.T) {
	t.Parallel()
	fsys := memfs.New()
	s := mustOpen(t, fsys, smallOptions())
	fillForDamage(t, s)
	remove(2)(t, fsys)
	r := s.NewReader(spool.Position{})
	var got []string
	for len(got) < damageRecords-4 {
		rec, _, err := nextUntil(t.Context(), r, 10)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(rec.Payload))
	}
	want := damageCase{lost: []int{4, 5, 6, 7}}.survivors()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]hit{{2, at(0), 4 * frameSize, 4, true}}, hits(s.Damage())); diff != "" {
		t.Errorf("Damage() (-want +got):\n%s", diff)
	}
}

// Open must come up, and keep what it cannot copy, on a disk without room.
func TestOpen_DamageOnFullDisk(t *testing.T) {
	t.Parallel()
	fsys := memfs.New()
	s := mustOpen(t, fsys, smallOptions())
	fillForDamage(t, s)
	mustClose(t, s)
	flip(2, at(1))(t, fsys)
	fsys.SetCapacity(1)
	s = mustOpen(t, fsys, smallOptions())
	checkSurvivors(t, s, damageCase{lost: []int{5}, want: []hit{{2, at(1), frameSize, 1, true}}})
	if got := s.Damage()[0].File; got != "" {
		t.Errorf("File = %q, but nothing could be written", got)
	}
	if _, err := s.Append(t.Context(), []byte("x"), 1); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Append: %v, want ENOSPC", err)
	}
	fsys.SetCapacity(0)
	mustConfirm(t, s, mustAppend(t, s, "x"))
	if _, err := fsys.OpenFile(filepath.Join(dir, "quarantine", spool.SegmentName(2)), 0); err != nil {
		t.Errorf("the damaged segment is not kept: %v", err)
	}
	if _, err := fsys.OpenFile(segmentPath(1), 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the sound segment is still there: %v", err)
	}
}

// Copies of torn ends don't pile up in a crash loop.
func TestOpen_TornCopiesAreBounded(t *testing.T) {
	t.Parallel()
	fsys := memfs.New()
	o := smallOptions()
	o.Now = func() time.Time { return time.Unix(0, 0) }
	for i := range uint64(30) {
		s := mustOpen(t, fsys, o)
		mustConfirm(t, s, mustAppend(t, s, fmt.Sprint("record ", i)))
		fsys = fsys.Kill()
		edit(i+1, func(b []byte) []byte { return append(b, "torn"...) })(t, fsys)
	}
	s := mustOpen(t, fsys, o)
	if got := drain(t, s, spool.Position{}); len(got) != 1 { // The last segment is kept.
		t.Errorf("%d records are left, want 1", len(got))
	}
	names, err := fsys.List(filepath.Join(dir, "quarantine"))
	if err != nil || len(names) < 16 || len(names) > 18 {
		t.Errorf("%d copies (%v), want 16 and those of segments still there", len(names), err)
	}
}
