package spool_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/meterd/meterd/meter/spool"
	"github.com/meterd/meterd/meter/spool/internal/vfs/memfs"
)

// FuzzScan damages a segment of five records: the bytes from off on are
// replaced by patch, and the file is cut at size. Whatever that gives, reading
// it must not panic, must account for every byte, must return all records that
// the patch and the cut leave alone, and nothing that was not written.
func FuzzScan(f *testing.F) {
	const salt = 0x5a17
	in := [][]byte{
		[]byte("first"), bytes.Repeat([]byte("compresses "), 100), nil,
		[]byte(incompressible("fourth", 700)), []byte("last"),
	}
	whole, ends := spool.BuildSegment(f, 7, salt, in...)
	f.Add(uint16(0), []byte{}, uint16(len(whole)))
	f.Add(uint16(40), []byte("header"), uint16(len(whole)))
	f.Add(uint16(spool.SegmentHeaderSize+36), []byte{0xff, 0xff, 0xff, 0x7f}, uint16(len(whole)))
	f.Add(uint16(ends[0]+44), whole[spool.SegmentHeaderSize:], uint16(len(whole)))
	f.Add(uint16(ends[3]), make([]byte, 2000), uint16(len(whole)+1000))
	f.Add(uint16(ends[1]), whole[ends[0]:ends[1]], uint16(ends[2]+3))
	f.Fuzz(func(t *testing.T, off uint16, patch []byte, size uint16) {
		b := slices.Clone(whole)
		from := min(int(off), len(b))
		b = append(b[:from], append(slices.Clone(patch), b[min(from+len(patch), len(b)):]...)...)
		if int(size) < len(b) {
			b = b[:size]
		}
		got, gotEnds, gaps := spool.Scan(t, bytes.NewReader(b), int64(len(b)), 7)
		read := int64(0)
		for i, p := range got {
			n := slices.Index(ends, gotEnds[i])
			if n < 0 || !bytes.Equal(p, in[n]) {
				t.Fatalf("record %d of %d bytes, ending at %d, was never written", i, len(p), gotEnds[i])
			}
			start := int64(spool.SegmentHeaderSize)
			if n > 0 {
				start = ends[n-1]
			}
			read += gotEnds[i] - start
		}
		if want := max(0, int64(len(b))-spool.SegmentHeaderSize); read+gaps != want {
			t.Fatalf("records have %d bytes and gaps %d, want %d together", read, gaps, want)
		}
		for n, end := range ends {
			start := int64(spool.SegmentHeaderSize)
			if n > 0 {
				start = ends[n-1]
			}
			if end <= int64(len(b)) && bytes.Equal(b[start:end], whole[start:end]) && !slices.Contains(gotEnds, end) && bytes.Equal(b[:spool.SegmentHeaderSize], whole[:spool.SegmentHeaderSize]) {
				t.Fatalf("record %d stands whole in the file and was not found", n)
			}
		}
	})
}

// FuzzOpen gives Open arbitrary bytes as a segment and as a checkpoint: it must
// open or refuse, never panic, and what it opens must take records.
func FuzzOpen(f *testing.F) {
	whole, _ := spool.BuildSegment(f, 1, 1, []byte("one"), []byte("two"))
	f.Add(whole, []byte{})
	f.Add(whole[:100], []byte("meterd spool checkpoint 1\nconfirmed 1:72 records 0 events 0 salt 00000001\n"))
	f.Add([]byte("METERSPL"), []byte("\x00"))
	f.Fuzz(func(t *testing.T, segment, checkpoint []byte) {
		fsys := memfs.New()
		for name, b := range map[string][]byte{segmentPath(1): segment, dir + "/checkpoint": checkpoint} {
			w, err := fsys.OpenFile(name, 0x40)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.WriteAt(b, 0); err != nil {
				t.Fatal(err)
			}
		}
		s, err := spool.OpenFS(smallOptions(), fsys)
		if err != nil {
			return // Of a later version.
		}
		defer func() { _ = s.Close() }()
		end, err := s.Append(t.Context(), []byte("new"), 1)
		if err != nil {
			if s.Stats().UnconfirmedBytes+100 > s.Stats().CapacityBytes {
				return // More than the bound allows.
			}
			t.Fatal(err)
		}
		recs := drain(t, s, s.Confirmed())
		if len(recs) == 0 || recs[len(recs)-1].End != end {
			t.Fatal("the new record is not delivered")
		}
		mustConfirm(t, s, end)
	})
}

// FuzzParseCheckpoint: what is accepted is written back byte for byte.
func FuzzParseCheckpoint(f *testing.F) {
	f.Add([]byte(""))
	f.Add([]byte("meterd spool checkpoint 1\nconfirmed 0:0 records 0 events 0 salt 00000000\ndurable 0:0 records 0 events 0\ncrc32c 00000000\n"))
	fsys := memfs.New()
	s := mustOpen(f, fsys, smallOptions())
	if _, err := s.Append(f.Context(), []byte("x"), 1); err != nil {
		f.Fatal(err)
	}
	mustConfirm(f, s, s.Durable())
	f.Add(readAll(f, fsys, dir+"/checkpoint"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if again, err := spool.ParseCheckpoint(b); err == nil && !bytes.Equal(again, b) {
			t.Errorf("%q is read, but written back as %q", b, again)
		}
	})
}

// FuzzParsePosition: print and parse agree.
func FuzzParsePosition(f *testing.F) {
	f.Add("1:72")
	f.Add("0:0")
	f.Add("18446744073709551615:9223372036854775807")
	f.Fuzz(func(t *testing.T, in string) {
		p, err := spool.ParsePosition(in)
		if err != nil {
			return
		}
		if again, err := spool.ParsePosition(p.String()); err != nil || again != p {
			t.Errorf("ParsePosition(%q) = %v, which reads back as %v, %v", in, p, again, err)
		}
	})
}
