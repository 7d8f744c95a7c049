package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/shopspring/decimal"
)

// usage is what a subject used: how many events, and the sum of their tokens.
type usage struct {
	Events int64
	Tokens string // a decimal without trailing zeros
}

// account adds usage up with integers: ten-thousandths of a token.
type account struct{ events, units int64 }

func (a account) usage() usage { return usage{a.events, decimal.New(a.units, -4).String()} }

// cell is a subject's hour. The hour is zero for the subject as a whole.
type cell struct {
	subject string
	hour    time.Time
}

// readUsage asks both meters.
func (d *daemon) readUsage(ctx context.Context, params url.Values) (map[cell]usage, error) {
	hourly := params.Get("windowSize") != ""
	found := map[cell]usage{}
	for _, slug := range []string{"requests", "tokens"} {
		rows, err := d.queryMeter(ctx, slug, params)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			key := cell{subject: row.Subject}
			if hourly {
				key.hour = row.WindowStart
			}
			value, err := decimal.NewFromString(row.Value)
			if err != nil {
				return nil, err
			}
			u := found[key]
			if slug == "tokens" {
				u.Tokens = value.String()
			} else {
				u.Events = value.IntPart()
			}
			found[key] = u
		}
	}
	return found, nil
}

// checkUsage waits until everything is stored and wants both meters to agree with what was acknowledged, per subject, and
// per hour where the sender chose the hour.
func (d *daemon) checkUsage(t *testing.T, want *ledger) {
	t.Helper()
	d.awaitStored(t)
	for _, params := range []url.Values{{}, {"windowSize": {"HOUR"}}} {
		var got map[cell]usage
		poll(t, "query", func() (err error) { // the engine may just be starting
			got, err = d.readUsage(t.Context(), params)
			return err
		})
		if params.Get("windowSize") != "" {
			maps.DeleteFunc(got, func(c cell, _ usage) bool { return isStamped(c.subject) })
		}
		if diff := cmp.Diff(want.usage(params.Get("windowSize") != ""), got); diff != "" {
			t.Errorf("usage by the API (%v) differs from what was acknowledged (-acknowledged +counted):\n%s", params, diff)
		}
	}
}

// billRecord is a bill record of the API.
type billRecord struct {
	SN          string          `json:"sn"`
	State       string          `json:"state"`
	InstanceID  string          `json:"instance_id"`
	Subject     string          `json:"subject"`
	Meter       string          `json:"meter"`
	WindowStart time.Time       `json:"window_start"`
	Usage       decimal.Decimal `json:"usage"`
	Billed      decimal.Decimal `json:"billed"`
	Code        string          `json:"code"`
	Transitions []struct {
		State string `json:"state"`
	} `json:"transitions"`
}

// billRecords lists all records.
func (d *daemon) billRecords(t *testing.T) []billRecord {
	t.Helper()
	var all []billRecord
	for cursor := ""; ; {
		page := getJSON[struct {
			Records    []billRecord
			NextCursor string `json:"next_cursor"`
		}](t, d.url()+"/api/v1/bill-records?limit=1000&cursor="+url.QueryEscape(cursor))
		all = append(all, page.Records...)
		if cursor = page.NextCursor; cursor == "" {
			return all
		}
	}
}

// history lists the states of a record, oldest first.
func (d *daemon) history(t *testing.T, sn string) []string {
	t.Helper()
	var states []string
	for _, transition := range getJSON[billRecord](t, d.url()+"/api/v1/bill-records/"+sn).Transitions {
		states = append(states, transition.State)
	}
	return states
}

// awaitDelivered waits until the daemon has closed every hour that is over and has nothing left to deliver, and returns
// the beginning of the first hour that is not closed.
func (d *daemon) awaitDelivered(t *testing.T) (open time.Time) {
	t.Helper()
	d.awaitStored(t)
	poll(t, "every hour closed and delivered", func() error {
		args := []string{"close", "--server", d.url(), "--until", "last-hour", "-o", "json"}
		if out, code := meterd(t, args...); code != 0 {
			return errors.New(out)
		}
		windows, err := d.windows(t.Context())
		for _, w := range windows {
			if w.SettledAt == nil {
				return fmt.Errorf("the hour until %s is not settled", w.End)
			}
			open = w.End
		}
		return err
	})
	return open
}

// closedWindow is a closed hour of the API.
type closedWindow struct {
	End       time.Time
	SettledAt *time.Time `json:"settled_at"`
}

// windows lists the closed hours, oldest first.
func (d *daemon) windows(ctx context.Context) ([]closedWindow, error) {
	body, err := get(ctx, d.url()+"/api/v1/windows")
	if err != nil {
		return nil, err
	}
	var answer struct{ Windows []closedWindow }
	err = json.Unmarshal(body, &answer)
	return answer.Windows, err
}

// settledWindows is how many closed hours have nothing left to deliver.
func (d *daemon) settledWindows(ctx context.Context) (settled int, err error) {
	windows, err := d.windows(ctx)
	for _, w := range windows {
		if w.SettledAt != nil {
			settled++
		}
	}
	return settled, err
}

// checkBooks closes what is over and wants the bill records, and what the marketplace bills, to agree with what was
// acknowledged. It returns how many records there are.
func (d *daemon) checkBooks(t *testing.T, m *market, want *ledger) int {
	t.Helper()
	open := d.awaitDelivered(t)
	booked := map[cell]usage{}
	billed := map[string]decimal.Decimal{}
	records := d.billRecords(t)
	for _, r := range records {
		if r.State != "accepted" {
			t.Errorf("record %s of %s is %s (%s), want accepted", r.SN, r.InstanceID, r.State, r.Code)
		}
		key := cell{r.Subject, r.WindowStart}
		u := booked[key]
		if r.Meter == "tokens" {
			u.Tokens = r.Usage.String()
		} else {
			u.Events = r.Usage.IntPart()
		}
		booked[key] = u
		billed[r.InstanceID] = billed[r.InstanceID].Add(r.Billed)
	}
	d.checkBooked(t, want, booked, open)
	m.checkBilled(t, records, billed)
	return len(records)
}

// checkBooked compares bill records with the acknowledged events of the closed hours.
func (d *daemon) checkBooked(t *testing.T, want *ledger, booked map[cell]usage, open time.Time) {
	t.Helper()
	// For stamped events the hour is the daemon's choice; which one it chose, the query tells.
	counted, err := d.readUsage(t.Context(), url.Values{"windowSize": {"HOUR"}})
	if err != nil {
		t.Fatal(err)
	}
	expected := want.usage(true)
	for key, u := range counted {
		if isStamped(key.subject) {
			expected[key] = u
		}
	}
	maps.DeleteFunc(expected, func(c cell, _ usage) bool { return !c.hour.Before(open) })
	if diff := cmp.Diff(expected, booked); diff != "" {
		t.Errorf("bill records differ from what was acknowledged (-acknowledged +booked):\n%s", diff)
	}
}

// checkBilled compares the marketplace's own books with the bill records.
func (m *market) checkBilled(t *testing.T, records []billRecord, billed map[string]decimal.Decimal) {
	t.Helper()
	known := map[string]string{}
	for _, r := range records {
		known[r.SN] = r.Billed.String()
	}
	collected := map[string]decimal.Decimal{}
	once := map[string]bool{}
	for _, r := range m.records(t) {
		value, err := decimal.NewFromString(r.UsageValue)
		if err != nil {
			t.Fatal(err)
		}
		if known[r.MeteringSN] != value.String() {
			t.Errorf("the marketplace got record %s with %s, the books say %q", r.MeteringSN, r.UsageValue, known[r.MeteringSN])
		}
		switch {
		case r.counts() && once[r.MeteringSN]:
			t.Errorf("the marketplace bills record %s twice", r.MeteringSN)
		case r.counts():
			once[r.MeteringSN] = true
			collected[r.InstanceID] = collected[r.InstanceID].Add(value)
		case r.Code != codeRepeatedNumber && r.Code != codeRepeatedWindow:
			t.Errorf("the marketplace refused record %s of %s: %s", r.MeteringSN, r.InstanceID, r.Code)
		}
	}
	if diff := cmp.Diff(billed, collected, cmp.Comparer(decimal.Decimal.Equal)); diff != "" {
		t.Errorf("what the marketplace bills differs from the bill records (-booked +billed):\n%s", diff)
	}
}

// The marketplace's codes for a record that it has already, which is what a resent record gets.
const (
	codeRepeatedNumber = "005"
	codeRepeatedWindow = "010"
)
