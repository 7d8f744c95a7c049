package meter_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
)

func openDeadLetters(t *testing.T, path string, maxBytes int64) *meter.DeadLetters {
	t.Helper()
	d, err := meter.OpenDeadLetters(path, meter.DeadLetterOptions{MaxBytes: maxBytes, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func letter(raw string) meter.DeadLetter {
	return meter.DeadLetter{ReceivedAt: testNow, Reason: meter.ReasonTime, Field: "time", Detail: "wrong", Raw: []byte(raw)}
}

func add(t *testing.T, d *meter.DeadLetters, letters ...meter.DeadLetter) {
	t.Helper()
	if err := d.Add(letters...); err != nil {
		t.Fatal(err)
	}
}

// bodies lists all letters as "id body", reading page by page.
func bodies(t *testing.T, d *meter.DeadLetters, page int) []string {
	t.Helper()
	var all []string
	for after := uint64(0); ; {
		letters, next, err := d.List(after, page)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range letters {
			all = append(all, fmt.Sprintf("%d %s", l.ID, l.Body()))
		}
		if next == 0 {
			return all
		}
		after = next
	}
}

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "dead.ndjson")
	d := openDeadLetters(t, path, 0)
	add(t, d, letter(`{ "id" : 1.50 }`), letter("no <json>"), letter("\xff\x00"))
	add(t, d, letter(`{"a":"<é>"}`))
	want := []string{`1 {"id":1.50}`, "2 no <json>", "3 \xff\x00", `4 {"a":"<é>"}`}
	for _, page := range []int{1, 2, 3, 4, 100} {
		if diff := cmp.Diff(want, bodies(t, d, page)); diff != "" {
			t.Errorf("in pages of %d: %s", page, diff)
		}
	}
	// The file is NDJSON that anybody can read.
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(content) {
		if !json.Valid(line) {
			t.Errorf("line %q is not JSON", line)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("permissions %v, %v", info.Mode(), err)
	}
	// It survives reopening.
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = openDeadLetters(t, path, 0)
	if diff := cmp.Diff(want, bodies(t, d, 10)); diff != "" {
		t.Error(diff)
	}
	add(t, d, letter("again no json"))
	if got := bodies(t, d, 10); got[4] != "5 again no json" {
		t.Errorf("after reopening: %q", got)
	}
	if s := d.Stats(); s.Letters != 5 || s.Written != 1 || s.Bytes == 0 {
		t.Errorf("stats %+v", s)
	}
}

func TestDeadLetters_repeated(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "dead.ndjson")
	d := openDeadLetters(t, path, 0)
	other := letter(`{"id":1}`)
	other.Reason = meter.ReasonTimeTooOld
	add(t, d, letter(`{"id":1}`), letter(`{ "id": 1 }`), other, letter("x"))
	add(t, d, letter(`{"id":1}`), letter("x"))
	if s := d.Stats(); s.Letters != 3 || s.Repeated != 3 || s.Written != 3 {
		t.Errorf("stats %+v", s)
	}
	_ = d.Close()
	d = openDeadLetters(t, path, 0)
	add(t, d, letter(`{"id":1}`), letter("x"))
	if s := d.Stats(); s.Letters != 3 || s.Repeated != 2 {
		t.Errorf("after reopening: %+v", s)
	}
	if _, err := d.Remove(1); err != nil {
		t.Fatal(err)
	}
	add(t, d, letter(`{"id":1}`)) // it was replayed and refused again
	if got, want := bodies(t, d, 10), []string{`2 {"id":1}`, "3 x", `4 {"id":1}`}; !cmp.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestDeadLetters_bound(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "dead.ndjson")
	d := openDeadLetters(t, path, 500)
	for i := range 10 {
		add(t, d, letter(fmt.Sprintf(`{"id":%d}`, i)))
	}
	full := d.Stats()
	if full.Bytes > 500 || full.Letters+int(full.Dropped) != 10 || full.Dropped == 0 {
		t.Errorf("stats %+v", full)
	}
	acknowledged := letter(`{"id":100}`)
	acknowledged.Acknowledged = true
	add(t, d, acknowledged)
	if s := d.Stats(); s.Letters != full.Letters+1 || s.Dropped != full.Dropped {
		t.Errorf("an acknowledged event must be kept: %+v", s)
	}
	long := letter(strings.Repeat("x", 1<<20))
	d = openDeadLetters(t, filepath.Join(t.TempDir(), "dead.ndjson"), 0)
	add(t, d, long)
	letters, err := d.Get(1)
	if err != nil || len(letters) != 1 || !letters[0].Truncated || len(letters[0].Raw) != 64<<10 {
		t.Errorf("%v; a long body is cut and marked", err)
	}
}

func TestDeadLetters_tornTail(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "dead.ndjson")
	d := openDeadLetters(t, path, 0)
	add(t, d, letter("a"), letter("b"))
	_ = d.Close()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first := bytes.IndexByte(content, '\n') + 1
	for n := first; n < len(content); n++ {
		if err := os.WriteFile(path, content[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		d := openDeadLetters(t, path, 0)
		add(t, d, letter("c"))
		if got, want := bodies(t, d, 10), []string{"1 a", "2 c"}; !cmp.Equal(got, want) {
			t.Errorf("cut at %d: %q", n, got)
		}
		_ = d.Close()
	}
	// A line in the middle that can't be read hides no other, and isn't thrown away.
	damaged := append(append([]byte("rubbish\n"), content...), "{}\n"...)
	if err := os.WriteFile(path, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	d = openDeadLetters(t, path, 0)
	if _, err := d.Remove(1); err != nil {
		t.Fatal(err)
	}
	if got, want := bodies(t, d, 10), []string{"2 b"}; !cmp.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if left, _ := os.ReadFile(path); !bytes.HasPrefix(left, []byte("rubbish\n")) {
		t.Errorf("the file begins with %.20q", left)
	}
}

func TestDeadLetters_Remove(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "dead.ndjson")
	d := openDeadLetters(t, path, 0)
	add(t, d, letter("a"), letter("b"), letter("c"))
	if n, err := d.Remove(9); n != 0 || err != nil {
		t.Errorf("Remove(9) = %d, %v", n, err)
	}
	if n, err := d.Remove(3, 1, 9); n != 2 || err != nil {
		t.Errorf("Remove = %d, %v", n, err)
	}
	if got, want := bodies(t, d, 10), []string{"2 b"}; !cmp.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if s := d.Stats(); s.Letters != 1 {
		t.Errorf("stats %+v", s)
	}
	// Numbers are not used again, not even after the last letter is gone and the file reopened.
	if _, err := d.Remove(2); err != nil {
		t.Fatal(err)
	}
	_ = d.Close()
	d = openDeadLetters(t, path, 0)
	add(t, d, letter("d"))
	if got, want := bodies(t, d, 10), []string{"4 d"}; !cmp.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if left, err := filepath.Glob(path + "*.new"); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDeadLetters_closed(t *testing.T) {
	t.Parallel()
	d := openDeadLetters(t, filepath.Join(t.TempDir(), "dead.ndjson"), 0)
	if err := errors.Join(d.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	_, _, listErr := d.List(0, 1)
	_, getErr := d.Get(1)
	_, removeErr := d.Remove(1)
	for _, err := range []error{d.Add(letter("a")), listErr, getErr, removeErr} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("error %v", err)
		}
	}
	if s := d.Stats(); s.Failed != 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestOpenDeadLetters_errors(t *testing.T) {
	t.Parallel()
	if _, err := meter.OpenDeadLetters("x", meter.DeadLetterOptions{}); err == nil {
		t.Error("opened without a logger")
	}
	log := slog.New(slog.DiscardHandler)
	if _, err := meter.OpenDeadLetters(filepath.Join(t.TempDir(), "no", "dead"), meter.DeadLetterOptions{Logger: log}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	path := filepath.Join(t.TempDir(), "dead")
	if err := os.WriteFile(path+".next", []byte("many"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := meter.OpenDeadLetters(path, meter.DeadLetterOptions{Logger: log}); err == nil || !strings.Contains(err.Error(), ".next") {
		t.Errorf("error %v", err)
	}
}

func TestDeadLetters_concurrently(t *testing.T) {
	t.Parallel()
	d := openDeadLetters(t, filepath.Join(t.TempDir(), "dead.ndjson"), 0)
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range 20 {
				if err := d.Add(letter(fmt.Sprintf(`{"w":%d,"i":%d}`, w, i))); err != nil {
					t.Error(err)
				}
				if i%5 == 0 {
					letters, _, err := d.List(0, 1)
					if err != nil || len(letters) != 1 {
						t.Error(err)
						continue
					}
					if _, err := d.Remove(letters[0].ID); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	s := d.Stats()
	if got := len(bodies(t, d, 7)); got != s.Letters || got < 64 || got > 79 || s.Written != 80 {
		t.Errorf("%d letters listed, stats %+v", got, s)
	}
}
