package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// closeAtOnce lets an hour be closed as soon as it is over.
const closeAtOnce = "METERD_CLOSING_GRACE=0s"

// awaitIdle waits until the daemon has looked for hours to close, which it does once when it starts: what is sent after
// that waits for meterd close.
func (d *daemon) awaitIdle(t *testing.T) {
	t.Helper()
	poll(t, "first look for hours to close", func() error {
		body, err := get(t.Context(), d.url()+"/api/v1/admin/status")
		if err != nil {
			return err
		}
		var answer struct {
			Status struct {
				Reporting struct {
					NextScheduled time.Time `json:"next_scheduled"`
				}
			}
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return err
		}
		if answer.Status.Reporting.NextScheduled.IsZero() {
			return errors.New("not yet")
		}
		return nil
	})
}

// billable starts sandbox and daemon with events of past hours that nobody has closed yet.
func billable(t *testing.T, hours int, env ...string) (*daemon, *market, *sender) {
	t.Helper()
	m := startSandbox(t)
	d := newDaemon(t, m.url, append(env, closeAtOnce)...)
	d.start(t)
	d.awaitIdle(t)
	s := newSender(t, seeded(t), closedHours(hours)...)
	for range 5 {
		s.send(d, 400)
	}
	d.awaitStored(t)
	return d, m, s
}

// askToClose asks the daemon to close and deliver, and does not wait for the answer, which may never come.
func (d *daemon) askToClose(t *testing.T) {
	t.Helper()
	startProcess(t, "meterd close", nil, program, "close", "--server", d.url(), "--until", "last-hour")
}

// TestAnswersDropped has the marketplace accept calls without ever answering them: the records are sent again with the
// same numbers, and each is billed once.
func TestAnswersDropped(t *testing.T) {
	d, m, s := billable(t, 2, "METERD_KOOGALLERY_MAX_BATCH=20")
	m.inject(t, `{"kind":"drop_answer","count":3}`)
	d.checkBooks(t, m, &s.ledger)
	if n := m.struck(t); n != 3 {
		t.Errorf("%d answers were dropped, want 3", n)
	}
	resent := 0
	for _, r := range m.records(t) {
		if r.Code == codeRepeatedNumber {
			resent++
			want := []string{"pending", "sending", "unknown", "sending", "accepted"}
			if diff := cmp.Diff(want, dropRepeats(d.history(t, r.MeteringSN))); diff != "" {
				t.Errorf("states of resent record %s (-want +got):\n%s", r.MeteringSN, diff)
			}
		}
	}
	if resent == 0 {
		t.Error("the marketplace never saw a record again")
	}
}

// dropRepeats takes out the loops through sending and unknown, of which there may be several.
func dropRepeats(states []string) []string {
	for i := len(states) - 1; i >= 4; i-- {
		if states[i-1] == "sending" && states[i-2] == "unknown" && states[i-3] == "sending" && states[i-4] == "unknown" {
			states = slices.Delete(states, i-3, i-1)
		}
	}
	return states
}

// TestKilledWhileSending kills the daemon during a call to the marketplace: before the marketplace has processed it, and
// after, with the answer on its way. Only the marketplace knows which it was.
func TestKilledWhileSending(t *testing.T) {
	for name, processed := range map[string]bool{"before it is processed": false, "after it is processed": true} {
		t.Run(name, func(t *testing.T) {
			d, m, s := billable(t, 1)
			m.inject(t, fmt.Sprintf(`{"kind":"latency","delay":"8s","count":1,"after":%t}`, processed))
			d.askToClose(t)
			poll(t, "a call under way", func() error {
				body, err := get(t.Context(), d.url()+"/api/v1/bill-records?state=sending")
				if err != nil {
					return err
				}
				var page struct{ Records []billRecord }
				if err := json.Unmarshal(body, &page); err != nil {
					return err
				}
				if len(page.Records) == 0 || m.struck(t) == 0 || processed && len(m.records(t)) == 0 {
					return errors.New("not yet")
				}
				return nil
			})
			d.kill(t)
			d.start(t)
			count := d.checkBooks(t, m, &s.ledger)
			for _, r := range d.billRecords(t) {
				want := []string{"pending", "sending", "unknown", "sending", "accepted"}
				if diff := cmp.Diff(want, d.history(t, r.SN)); diff != "" {
					t.Fatalf("states of record %s (-want +got):\n%s", r.SN, diff)
				}
			}
			arrived := len(m.records(t))
			if processed && arrived != 2*count {
				t.Errorf("%d records arrived, want each of %d twice: with the same number, so that the second is refused", arrived, count)
			}
		})
	}
}

// TestKilledWhileClosing kills daemon and engine again and again while hours are closed and a sick marketplace takes the
// records. In the end every event is billed once.
func TestKilledWhileClosing(t *testing.T) {
	const hours = 5
	d, m, s := billable(t, hours, "METERD_KOOGALLERY_MAX_BATCH=10", "METERD_REPORTING_BREAKER_FAILURES=20")
	for i, fault := range []string{
		`"kind":"latency","delay":"50ms","probability":0.5`, `"kind":"latency","delay":"200ms","after":true,"probability":0.3`,
		`"kind":"drop_answer","probability":0.15`, `"kind":"http_status","status":503,"after":true,"probability":0.1`,
		`"kind":"garbage","probability":0.05`, `"kind":"error_code","code":"MKT.0999","probability":0.05`,
	} {
		m.inject(t, fmt.Sprintf(`{%s,"seed":%d}`, fault, s.random.Uint32()+uint32(i)))
	}
	d.askToClose(t)
	kills, calls := 0, 0
	for ; kills < 10 && d.reachesMarket(t, m, calls, hours); kills++ {
		pauseFor(t, s.random, 0, 700*time.Millisecond)
		if engine := d.engine(); engine != 0 && s.random.IntN(3) == 0 {
			if err := syscall.Kill(engine, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Fatal(err)
			}
			pauseFor(t, s.random, 0, 300*time.Millisecond)
		}
		d.kill(t)
		calls = m.calls(t)
		d.start(t) // it closes and delivers what is due by itself
	}
	t.Logf("%d kills, faults struck %d times, %d records arrived", kills, m.struck(t), len(m.records(t)))
	m.heal(t)
	records := d.checkBooks(t, m, &s.ledger)
	t.Logf("%d bill records agree", records)
}

// reachesMarket waits for more calls to the marketplace than there were, or until nothing is left to deliver; then it
// returns false.
func (d *daemon) reachesMarket(t *testing.T, m *market, before, hours int) (calls bool) {
	t.Helper()
	poll(t, "a call, or the end of all calls", func() error {
		if calls = m.calls(t) > before; calls {
			return nil
		}
		settled, err := d.settledWindows(t.Context())
		if err == nil && settled < hours {
			err = fmt.Errorf("%d of %d hours are settled", settled, hours)
		}
		return err
	})
	return calls
}

// TestSandboxKilled kills the marketplace while it is being reported to; it remembers what it accepted.
func TestSandboxKilled(t *testing.T) {
	state := t.TempDir() + "/sandbox.log"
	m := startSandbox(t, "--state", state)
	d := startDaemon(t, m.url, closeAtOnce, "METERD_KOOGALLERY_MAX_BATCH=5", "METERD_KOOGALLERY_SPACING=20ms")
	d.awaitIdle(t)
	s := newSender(t, seeded(t), closedHours(2)...)
	s.send(d, 1000)
	d.askToClose(t)
	poll(t, "first records at the marketplace", func() error {
		if len(m.records(t)) == 0 {
			return errors.New("none yet")
		}
		return nil
	})
	m.kill(t)
	address := m.url[len("http://"):]
	m.process = startProcess(t, "meterd sandbox again", []string{"METERD_SANDBOX_KEY=" + sellerKey}, program,
		"sandbox", "--listen", address, "--validation-delay", "-1s", "--state", state)
	poll(t, "sandbox again", func() error {
		response, err := http.Get(m.url + "/sandbox/v1/summary")
		if err == nil {
			response.Body.Close()
		}
		return err
	})
	d.checkBooks(t, m, &s.ledger)
}
