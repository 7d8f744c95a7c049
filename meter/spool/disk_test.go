package spool_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter/spool"
)

// On a real file system: many writers over several segments, a copy taken of
// the files while the spool is open (as kill -9 would leave them), and the
// whole read back from the copy.
func TestSpool_OnDisk(t *testing.T) {
	t.Parallel()
	o := spool.Options{Dir: filepath.Join(t.TempDir(), "a", "spool"), MaxBytes: 64 << 20, SegmentBytes: 1 << 20, Now: time.Now}
	s, err := spool.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 25 {
				p := incompressible(fmt.Sprintf("%d/%d ", w, i), 20_000)
				if _, err := s.Append(t.Context(), []byte(p), 1); err != nil {
					t.Error(err)
				}
				mu.Lock()
				want[p] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if got := s.Durable().Segment; got < 4 {
		t.Errorf("4 MB are in %d segments of 1 MiB, want at least 4", got)
	}
	killed := o
	killed.Dir = filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(killed.Dir, os.DirFS(o.Dir)); err != nil {
		t.Fatal(err)
	}
	mustConfirm(t, s, s.Durable())
	if names, err := filepath.Glob(filepath.Join(o.Dir, "*.seg")); err != nil || len(names) != 1 {
		t.Errorf("%d segment files (%v) after all was confirmed, want 1", len(names), err)
	}
	mustClose(t, s)

	s, err = spool.Open(killed)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, r := range drain(t, s, s.Confirmed()) {
		got[string(r.Payload)] = true
	}
	if diff := cmp.Diff(len(want), len(got)); diff != "" {
		t.Errorf("number of records (-want +got):\n%s", diff)
	}
	for p := range want {
		if !got[p] {
			t.Errorf("record %.10q is lost", p)
		}
	}
	mustClose(t, s)
}

// The files must not be readable by others: payloads may name customers.
func TestSpool_FileModes(t *testing.T) {
	t.Parallel()
	o := spool.Options{Dir: filepath.Join(t.TempDir(), "spool"), Now: time.Now}
	s, err := spool.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, "x")
	mustConfirm(t, s, s.Durable())
	mustClose(t, s)
	err = filepath.WalkDir(o.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// Payloads must not get into the log, not even of damaged records.
func TestSpool_LogHoldsNoPayload(t *testing.T) {
	t.Parallel()
	const secret = "secret-customer-0001"
	var log bytes.Buffer
	o := spool.Options{Dir: t.TempDir(), Now: time.Now, Logger: slog.New(slog.NewTextHandler(&log, nil))}
	s, err := spool.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, secret)
	mustAppend(t, s, "x")
	mustClose(t, s)
	name := filepath.Join(o.Dir, spool.SegmentName(1))
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[spool.SegmentHeaderSize+spool.FrameHeaderSize] ^= 1
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err = spool.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	drain(t, s, s.Confirmed())
	mustClose(t, s)
	if !strings.Contains(log.String(), "spool damage") || strings.Contains(log.String(), "ecret-customer") {
		t.Errorf("the log must tell of the damage and not of the payload:\n%s", log.String())
	}
}
