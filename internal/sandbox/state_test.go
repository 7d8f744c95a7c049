package sandbox_test

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/internal/sandbox"
)

// stateful is a sandbox with a state file that can be opened again.
type stateful struct {
	path  string
	clock *testClock
	sync  bool
}

func (s stateful) open(tb testing.TB) (market, error) {
	tb.Helper()
	sb, err := sandbox.New(sandbox.Options{Now: s.clock.Now, Key: testKey, AccessKeys: map[string]string{testAK: testSK}, StateFile: s.path, SyncState: s.sync})
	return market{sb, s.clock}, err
}

func (s stateful) mustOpen(tb testing.TB) market {
	tb.Helper()
	m, err := s.open(tb)
	if err != nil {
		tb.Fatalf("New() = %v", err)
	}
	return m
}

func (m market) mustClose(tb testing.TB) {
	tb.Helper()
	if err := m.Close(); err != nil {
		tb.Fatalf("Close() = %v", err)
	}
}

func newStateful(tb testing.TB) stateful {
	tb.Helper()
	return stateful{path: filepath.Join(tb.TempDir(), "sandbox.log"), clock: &testClock{at: start}}
}

// snapshot is everything a restart must keep.
type snapshot struct {
	Records   []sandbox.Record
	Summary   sandbox.Summary
	Instances []sandbox.Instance
	Now       time.Time
}

func (m market) snapshot() snapshot {
	return snapshot{m.Records(), m.Summary(), m.Instances(), m.Now()}
}

// fill makes a history with every kind of event.
func (m market) fill(tb testing.TB) {
	tb.Helper()
	if err := m.Declare(sandbox.Instance{ID: "closed", State: sandbox.InstanceClosed, ClosedAt: start.Add(-time.Hour)}); err != nil {
		tb.Fatal(err)
	}
	m.mustPush(tb, good("a"), good("b"), good("c").with("usage_value", "0"), good("d").with("instance_id", "closed"))
	if _, err := m.Inject(sandbox.Fault{Kind: "abnormal_list", Instance: "listed", Code: "013"}); err != nil {
		tb.Fatal(err)
	}
	m.mustPush(tb, good("e").with("instance_id", "listed"), good("f").window(-1))
	m.clock.Add(10 * time.Minute)
	if got := do(tb, m, oldRequest(tb, m.clock.Now(), bodyOf(tb, good("").oldForm().window(-2)))); got.Code != "MKT.0000" {
		tb.Fatalf("old push = %+v", got)
	}
	if err := m.Validate(); err != nil {
		tb.Fatal(err)
	}
	m.mustPush(tb, good("a").window(-3))
	if err := m.AdvanceBy(time.Minute); err != nil {
		tb.Fatal(err)
	}
	m.mustPush(tb, good("g").window(-4))
}

func TestStateSurvivesRestart(t *testing.T) {
	t.Parallel()
	s := newStateful(t)
	s.sync = true
	m := s.mustOpen(t)
	m.fill(t)
	before := m.snapshot()
	m.mustClose(t)

	again := s.mustOpen(t)
	if diff := cmp.Diff(before, again.snapshot(), cmp.AllowUnexported(sandbox.Totals{}, sandbox.BillSummary{})); diff != "" {
		t.Errorf("restart changed the state (-before +after):\n%s", diff)
	}
	// The rules still know what came before the restart.
	again.mustPush(t, good("f").window(-5), good("new").window(-1), good("h").window(-6))
	got := again.codes(t)
	if diff := cmp.Diff([]string{"abnormal 005", "abnormal 010", "valid"}, got[len(got)-3:]); diff != "" {
		t.Errorf("after the restart (-want +got):\n%s", diff)
	}
	// What waited is collected at its time, even if nobody was there.
	again.mustClose(t)
	s.clock.Add(5 * time.Hour)
	third := s.mustOpen(t)
	defer third.mustClose(t)
	if err := third.Advance(); err != nil {
		t.Fatal(err)
	}
	records := third.Records()
	last := records[len(records)-1]
	if want := time.Date(2022, 8, 9, 10, 15, 0, 0, time.UTC); last.State != sandbox.StateCollected || !last.CollectedAt.Equal(want) {
		t.Errorf("last record = %s at %s, want collected at %s", last.State, last.CollectedAt, want)
	}
}

func TestStateRemembersNonces(t *testing.T) {
	t.Parallel()
	s := newStateful(t)
	m := s.mustOpen(t)
	body := bodyOf(t, good("a"))
	r := newRequest(t, start, body)
	replayed := newRequest(t, start, body)
	replayed.Header = r.Header.Clone()
	if got := do(t, m, r); got.Code != "MKT.0000" {
		t.Fatalf("first = %+v", got)
	}
	m.mustClose(t)
	m = s.mustOpen(t)
	defer m.mustClose(t)
	if got := do(t, m, replayed); got.Code != "MKT.0102" {
		t.Errorf("replay after a restart = %+v, want MKT.0102", got)
	}
}

// TestStateCutAnywhere cuts the file at many lengths, as a crash in mid-write would: what remains is a prefix of the
// history, and the sandbox goes on from there.
func TestStateCutAnywhere(t *testing.T) {
	t.Parallel()
	s := newStateful(t)
	m := s.mustOpen(t)
	m.fill(t)
	all := m.Records()
	m.mustClose(t)
	text, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	header := bytes.IndexByte(text, '\n') + 1
	for cut := header; cut < len(text); cut += 31 {
		part := stateful{path: filepath.Join(t.TempDir(), strconv.Itoa(cut)), clock: s.clock}
		if err := os.WriteFile(part.path, text[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		m := part.mustOpen(t)
		records := m.Records()
		for i := range records {
			if records[i].MeteringSN != all[i].MeteringSN || records[i].Seq != all[i].Seq {
				t.Fatalf("cut at %d: record %d is %q, want %q", cut, i, records[i].MeteringSN, all[i].MeteringSN)
			}
		}
		m.mustPush(t, good("after the cut").window(-9))
		n := len(m.Records())
		m.mustClose(t)
		m = part.mustOpen(t)
		if got := len(m.Records()); got != n {
			t.Fatalf("cut at %d: %d records after another restart, want %d", cut, got, n)
		}
		m.mustClose(t)
	}
}

// TestStateDamage flips single bytes: the sandbox refuses the file and says where, or the damage was to the torn end.
func TestStateDamage(t *testing.T) {
	t.Parallel()
	s := newStateful(t)
	m := s.mustOpen(t)
	m.fill(t)
	m.mustClose(t)
	text, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	lastLine := bytes.LastIndexByte(text[:len(text)-1], '\n') + 1
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		at := random.IntN(lastLine)
		bad := bytes.Clone(text)
		bad[at] ^= 1 << random.IntN(8)
		part := stateful{path: filepath.Join(t.TempDir(), "bad"), clock: s.clock}
		if err := os.WriteFile(part.path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := part.open(t)
		if err == nil {
			m.mustClose(t)
			t.Fatalf("a changed byte at %d of %d was not noticed", at, len(text))
		}
		if !strings.Contains(err.Error(), part.path) || !strings.Contains(err.Error(), "offset") && !strings.Contains(err.Error(), "not a state log") {
			t.Fatalf("error %q does not say where", err)
		}
	}
}

func TestStateRefusesOtherFiles(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"text":         "some other file\n",
		"text, no end": "some other file",
		"zeros":        strings.Repeat("\x00", 100),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStateful(t)
			if err := os.WriteFile(s.path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := s.open(t); err == nil || !strings.Contains(err.Error(), "offset 0") {
				t.Errorf("New() = %v, want a refusal", err)
			}
			if got, _ := os.ReadFile(s.path); string(got) != text {
				t.Error("the file was changed")
			}
		})
	}
}

func TestStateIsLocked(t *testing.T) {
	t.Parallel()
	s := newStateful(t)
	m := s.mustOpen(t)
	if _, err := s.open(t); err == nil || !strings.Contains(err.Error(), "another sandbox") {
		t.Errorf("second New() = %v, want a refusal", err)
	}
	m.mustClose(t)
	again := s.mustOpen(t)
	again.mustClose(t)
}

func TestResetEmptiesState(t *testing.T) {
	t.Parallel()
	s := newStateful(t)
	m := s.mustOpen(t)
	m.fill(t)
	if status, body := m.adminDo(t, http.MethodPost, "/sandbox/v1/reset", ""); status != http.StatusOK {
		t.Fatalf("reset = %d %s", status, body)
	}
	if n := len(m.Records()) + len(m.Instances()) + len(m.Faults()) + len(m.Calls()); n != 0 {
		t.Errorf("%d things are left after the reset", n)
	}
	m.mustPush(t, good("a"))
	m.mustClose(t)
	m = s.mustOpen(t)
	defer m.mustClose(t)
	if got := m.Records(); len(got) != 1 || got[0].MeteringSN != "a" {
		t.Errorf("after reset and restart: %+v", got)
	}
}

// TestBrokenStateLog: what cannot be written is not accepted, and nothing more is until a restart.
func TestBrokenStateLog(t *testing.T) {
	t.Parallel()
	device := stateful{path: os.DevNull, clock: &testClock{at: start}}
	if _, err := device.open(t); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("New() on a device = %v, want a refusal", err)
	}
	s := newStateful(t)
	m := s.mustOpen(t)
	m.mustClose(t)
	if got := m.push(t, good("a")); got.Code != "MKT.0999" || got.Status != http.StatusInternalServerError {
		t.Errorf("push with the log gone = %+v, want MKT.0999", got)
	}
	if n := len(m.Records()); n != 0 {
		t.Errorf("%d records were kept", n)
	}
	if status, _ := m.adminDo(t, http.MethodGet, "/sandbox/v1/records", ""); status != http.StatusInternalServerError {
		t.Errorf("GET records = %d, want 500", status)
	}
}
