package e2e_test

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shopspring/decimal"

	"github.com/meterd/meterd/internal/clock"
	"github.com/meterd/meterd/store/embedded"
)

// crashProgram is the path of a meterd with kill points and a clock that can run faster, built when it is first needed.
var crashProgram = sync.OnceValues(func() (string, error) {
	return built("METERD_CRASH_BINARY", "meterd-crash", "-tags", "killpoints")
})

// fastConfig is the configuration of a daemon whose clock runs faster. There is a meter for each policy for late usage; all
// count the same events.
const fastConfig = `
data_dir = "data"

[server]
listen = "127.0.0.1:0"
shutdown_timeout = "20s"

[telemetry]
listen = "127.0.0.1:0"

[spool]
segment_bytes = "8MiB"

[loader]
batch_events = 5000
batch_delay = "20ms"

[verify]
every = "0s"

[closing]
schedule = "5 * * * *"
grace = "5m"
stamped_lookback = "24h"

[reporting]
retry_min = "10s"
retry_max = "2m"
breaker_timeout = "1m"

[koogallery]
base_url = %q
allow_http = true
fallback = false
timeout = "5s"
spacing = "0s"

[[meters]]
slug = "requests"
event_type = "request"
aggregation = "count"
instance = "{subject}.requests"

[[meters]]
slug = "tokens"
event_type = "request"
aggregation = "sum"
value = "$.tokens"
scale = "1000"
instance = "{subject}.tokens"

[[meters]]
slug = "held"
event_type = "request"
aggregation = "sum"
value = "$.tokens"
scale = "1000"
instance = "{subject}.held"
late = "hold"

[[meters]]
slug = "strict"
event_type = "request"
aggregation = "count"
instance = "{subject}.strict"
late = "write_off"
`

// scales are the units in one billed unit, by meter.
var scales = map[string]decimal.Decimal{
	"requests": decimal.NewFromInt(1), "tokens": decimal.NewFromInt(1000), "held": decimal.NewFromInt(1000), "strict": decimal.NewFromInt(1),
}

// fastClock is a clock that processes share.
type fastClock struct {
	*clock.Scaled

	env          string // for processes
	right        string // the same without the steps of set: for a marketplace, whose clock is right
	file         string
	passed, step time.Duration
}

// fastSpeed is how fast clocks run by themselves.
const fastSpeed = 120

// newFastClock starts a clock at the beginning of this hour.
func newFastClock(t *testing.T) *fastClock {
	t.Helper()
	now := time.Now()
	file := filepath.Join(t.TempDir(), "step")
	text := fmt.Sprintf("%d,%s,%d,%s", now.UnixNano(), now.UTC().Truncate(time.Hour).Format(time.RFC3339), fastSpeed, file)
	scaled, err := clock.ParseScaled(text)
	if err != nil {
		t.Fatal(err)
	}
	c := &fastClock{Scaled: scaled, env: "METERD_CLOCK=" + text + ".set", right: "METERD_CLOCK=" + text, file: file}
	c.write(t)
	return c
}

// set sets the wall clock of daemons. That of the test, and of the marketplace, goes on as it was.
func (c *fastClock) set(t *testing.T, step time.Duration) {
	t.Helper()
	c.step = step
	c.write(t)
}

// leap lets time pass at once, for everybody.
func (c *fastClock) leap(t *testing.T, d time.Duration) {
	t.Helper()
	c.passed += d
	c.write(t)
}

// write tells the processes. A file is replaced as a whole.
func (c *fastClock) write(t *testing.T) {
	t.Helper()
	for name, step := range map[string]time.Duration{c.file: 0, c.file + ".set": c.step} {
		err := os.WriteFile(name+".new", fmt.Appendf(nil, "%s %s", c.passed, step), 0o600)
		if err == nil {
			err = os.Rename(name+".new", name)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// pass lets time pass in leaps of ten minutes, with some time between them in which things happen.
func (c *fastClock) pass(t *testing.T, d time.Duration) {
	t.Helper()
	const leap, between = 9 * time.Minute, time.Minute
	for end := c.Now().Add(d); ; {
		left := end.Sub(c.Now())
		if left <= 0 {
			return
		}
		c.leap(t, max(0, min(leap, left-between)))
		c.await(t, c.Now().Add(min(between, left)))
	}
}

// await waits for a time of the clock.
func (c *fastClock) await(t *testing.T, until time.Time) {
	t.Helper()
	poll(t, "the clock at "+until.Format(time.RFC3339), func() error {
		if now := c.Now(); now.Before(until) {
			return fmt.Errorf("it shows %s", now.Format(time.RFC3339))
		}
		return nil
	})
}

// endHour lets the running hour and its grace pass, and returns its end.
func (c *fastClock) endHour(t *testing.T) time.Time {
	t.Helper()
	end := c.Now().Truncate(time.Hour).Add(time.Hour)
	c.leap(t, end.Add(6*time.Minute).Sub(c.Now()))
	return end
}

// startFastSandbox starts a sandbox on the clock. A call takes a moment, which is long by such a clock.
func startFastSandbox(t *testing.T, c *fastClock, args ...string) *market {
	t.Helper()
	return startSandboxOf(t, mustCrashProgram(t), []string{c.right}, append([]string{"--tolerance", "12h"}, args...)...)
}

// newFastDaemon writes the configuration of a daemon on the clock.
func newFastDaemon(t *testing.T, c *fastClock, sandboxURL string, env ...string) *daemon {
	t.Helper()
	if !strings.Contains(strings.Join(env, " "), "METERD_STORE_EMBEDDED=false") {
		_, err := embedded.FindLibrary("")
		require(t, err == nil, fmt.Sprint("embedded engine: ", err))
	}
	d := &daemon{
		dir: t.TempDir(), program: mustCrashProgram(t),
		env: append([]string{"METERD_KOOGALLERY_SELLER_KEY=" + sellerKey, c.env}, env...),
	}
	d.write(t, fmt.Sprintf(fastConfig, sandboxURL))
	return d
}

// lateTimes makes events of the running hour, some of them up to five hours late and some without a time.
func lateTimes(c *fastClock) func(*rand.Rand) time.Time {
	return func(random *rand.Rand) time.Time {
		now := c.Now()
		switch random.IntN(20) {
		case 0, 1, 2:
			return time.Time{}
		case 3, 4, 5:
			return now.Add(-between(random, time.Hour, 5*time.Hour))
		}
		return now.Add(-between(random, 0, 10*time.Minute))
	}
}

// holder is an account of the books.
type holder struct{ subject, meter string }

// sums are an account's figures by column of a verification.
type sums map[string]decimal.Decimal

// accounts reads the declared amounts of all accounts.
func (d *daemon) accounts(t *testing.T) map[holder]sums {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.url()+"/api/v1/verify", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", "text/csv")
	response, err := (&http.Client{Timeout: patience}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	rows, err := csv.NewReader(response.Body).ReadAll()
	if err != nil || response.StatusCode != http.StatusOK || len(rows) == 0 {
		t.Fatalf("verify: %s, %d lines, %v", response.Status, len(rows), err)
	}
	found := map[holder]sums{}
	for _, row := range rows[1:] {
		figures, text := sums{}, map[string]string{}
		for i, name := range rows[0] {
			text[name] = row[i]
			if value, err := decimal.NewFromString(row[i]); err == nil {
				figures[name] = value
			}
		}
		if text["check"] != "books" {
			t.Errorf("verify: %v", text)
			continue
		}
		found[holder{text["subject"], text["meter"]}] = figures
	}
	return found
}

// elsewhere is what an account declares not to have reported with success.
func (s sums) elsewhere() decimal.Decimal {
	total := decimal.Zero
	for name, value := range s {
		switch name {
		case "stored", "booked", "difference", "records_accepted", "records_confirmed", "records_replaced", "records_carried":
		default:
			total = total.Add(value)
		}
	}
	return total
}

// checkConserved wants the books to be in order by their own account, and, independently of that, what was acknowledged to be
// what the marketplace has plus what the books declare to be elsewhere, for every account.
func (d *daemon) checkConserved(t *testing.T, m *market, want *ledger) {
	t.Helper()
	if out, code := meterd(t, "verify", "--server", d.url(), "--recount"); code != 0 {
		t.Errorf("meterd verify: exit code %d\n%s", code, out)
	}
	acknowledged := map[holder]decimal.Decimal{}
	for c, u := range want.usage(false) {
		for slug := range scales {
			acknowledged[holder{c.subject, slug}] = decimal.NewFromInt(u.Events)
			if slug == "tokens" || slug == "held" {
				acknowledged[holder{c.subject, slug}] = decimal.RequireFromString(u.Tokens)
			}
		}
	}
	billed := m.billed(t)
	declared := d.accounts(t)
	for h := range declared {
		if _, ok := acknowledged[h]; !ok {
			t.Errorf("%v has an account, but nothing of it was acknowledged", h)
		}
	}
	for h, sent := range acknowledged {
		has, s := billed[h.subject+"."+h.meter].Mul(scales[h.meter]), declared[h]
		if !sent.Equal(has.Add(s.elsewhere())) {
			t.Errorf("%v: %s acknowledged, the marketplace has %s and %s is declared to be elsewhere: %s missing; %v",
				h, sent, has, s.elsewhere(), sent.Sub(has).Sub(s.elsewhere()), s)
		}
		if reported := s["records_accepted"].Add(s["records_confirmed"]); !reported.Equal(has) {
			t.Errorf("%v: the marketplace has %s, the books say %s", h, has, reported)
		}
		delete(billed, h.subject+"."+h.meter)
	}
	for instance := range billed {
		t.Errorf("the marketplace bills %s, of which nothing was acknowledged", instance)
	}
}

// billed is what the marketplace bills, by instance. Nothing may have come to it in two versions.
func (m *market) billed(t *testing.T) map[string]decimal.Decimal {
	t.Helper()
	type window struct{ instance, begin, end string }
	total := map[string]decimal.Decimal{}
	values, counted := map[window]string{}, map[window]string{}
	for _, r := range m.records(t) {
		w := window{r.InstanceID, r.BeginTime, r.EndTime}
		text := r.MeteringSN + " with " + r.UsageValue
		if before, ok := values[w]; ok && before != text {
			t.Errorf("the marketplace got two records for %v: %s, and %s", w, before, text)
		}
		values[w] = text
		if !r.counts() {
			if r.Code != codeRepeatedNumber && r.Code != codeRepeatedWindow {
				t.Errorf("the marketplace refused record %s of %v: %s", text, w, r.Code)
			}
			continue
		}
		if before, ok := counted[w]; ok {
			t.Errorf("the marketplace bills %v twice: %s, and %s", w, before, text)
		}
		counted[w] = text
		total[r.InstanceID] = total[r.InstanceID].Add(decimal.RequireFromString(r.UsageValue))
	}
	return total
}

// awaitReported waits until every hour up to the given end is closed, nothing late waits to be booked, and nothing is due.
func (d *daemon) awaitReported(t *testing.T, end time.Time) {
	t.Helper()
	poll(t, "everything until "+end.Format(time.RFC3339)+" reported", func() error {
		bookings, err := d.bookings(t)
		if err != nil {
			return err
		}
		var closed time.Time
		for _, b := range bookings {
			if b.SettledAt == nil && b.Records > 0 {
				return fmt.Errorf("booking %d is not settled", b.Number)
			}
			if b.Kind == "close" && b.WindowEnd.After(closed) {
				closed = b.WindowEnd
			}
		}
		if closed.Before(end) {
			return fmt.Errorf("closed until %s", closed.Format(time.RFC3339))
		}
		m, err := d.metrics(t.Context())
		if err == nil && m["meterd_spool_unconfirmed_events"] != 0 {
			err = errors.New("events are in the spool")
		}
		return err
	})
}

// booking is a booking of the API.
type booking struct {
	Number      uint64     `json:"number"`
	Kind        string     `json:"kind"`
	WindowStart time.Time  `json:"window_start"`
	WindowEnd   time.Time  `json:"window_end"`
	Records     uint64     `json:"records"`
	SettledAt   *time.Time `json:"settled_at"`
}

func (d *daemon) bookings(t *testing.T) ([]booking, error) {
	t.Helper()
	body, err := getWithKey(t.Context(), d.url()+"/api/v1/bookings", d.key)
	if err != nil {
		return nil, err
	}
	var answer struct{ Bookings []booking }
	err = json.Unmarshal(body, &answer)
	return answer.Bookings, err
}
