package reporter_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meterd/meterd/reporter"
)

func newPreflight(t *testing.T, logs *logBuffer, checks ...reporter.PreflightCheck) *reporter.Preflight {
	t.Helper()
	p, err := reporter.NewPreflight(reporter.PreflightOptions{
		Checks: checks, Timeout: 5 * time.Second, Clock: reporter.SystemClock{}, Logger: logs.logger(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func passing(context.Context) (string, error) { return "fine", nil }

func TestPreflight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		logs := &logBuffer{}
		p := newPreflight(t, logs,
			reporter.PreflightCheck{Name: "store", Run: passing},
			reporter.PreflightCheck{Name: "disk", Run: func(context.Context) (string, error) { return "1 MiB", errors.New("too little") }},
			reporter.PreflightCheck{Name: "bug", Run: func(context.Context) (string, error) { panic("oops") }},
			reporter.PreflightCheck{Name: "slow", Run: func(ctx context.Context) (string, error) {
				<-ctx.Done()
				return "", errors.New("no answer in time")
			}},
			reporter.PreflightCheck{Name: "key", Run: passing},
		)
		got := p.Run(t.Context())
		want := reporter.PreflightReport{Results: []reporter.PreflightResult{
			{Name: "store", OK: true, Found: "fine"},
			{Name: "disk", Found: "1 MiB", Err: "too little"},
			{Name: "bug", Err: "internal error: oops"},
			{Name: "slow", Err: "no answer in time", Took: 5 * time.Second},
			{Name: "key", OK: true, Found: "fine"},
		}}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(reporter.PreflightReport{}, "At")); diff != "" {
			t.Errorf("report differs (-want +got):\n%s", diff)
		}
		for _, name := range []string{"disk", "bug", "slow"} {
			if n := len(logs.lines("level=WARN", "preflight check failed", "check="+name)); n != 1 {
				t.Errorf("%d warnings about %s, want 1", n, name)
			}
		}
	})
}

func TestPreflightPasses(t *testing.T) {
	t.Parallel()
	logs := &logBuffer{}
	report := newPreflight(t, logs, reporter.PreflightCheck{Name: "key", Run: passing}).Run(t.Context())
	if !report.OK || report.At.IsZero() || len(logs.lines("level=INFO", "preflight passed")) != 1 {
		t.Errorf("report = %+v, log %q", report, logs.lines("level="))
	}
}

// A daemon that stops doesn't warn about checks that it broke off.
func TestPreflightDuringShutdown(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	logs := &logBuffer{}
	report := newPreflight(t, logs,
		reporter.PreflightCheck{Name: "store", Run: func(ctx context.Context) (string, error) {
			cancel()
			return "", ctx.Err()
		}},
		reporter.PreflightCheck{Name: "key", Run: passing},
	).Run(ctx)
	if len(report.Results) != 0 || len(logs.lines("level=WARN")) != 0 {
		t.Errorf("report = %+v, warnings %q, want neither", report, logs.lines("level=WARN"))
	}
}

func TestNewPreflightReportsFaults(t *testing.T) {
	t.Parallel()
	if _, err := reporter.NewPreflight(reporter.PreflightOptions{}); err == nil {
		t.Error("NewPreflight of nothing = nil, want an error")
	}
	_, err := reporter.NewPreflight(reporter.PreflightOptions{
		Clock: reporter.SystemClock{}, Logger: (&logBuffer{}).logger(), Timeout: -1,
		Checks: []reporter.PreflightCheck{{Name: "a", Run: passing}, {Name: "a", Run: passing}, {Run: passing}, {Name: "b"}},
	})
	for _, want := range []string{`two checks are named "a"`, "check 2 lacks", "check 3 lacks", "timeout must not be negative"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NewPreflight = %v, want %q", err, want)
		}
	}
}
