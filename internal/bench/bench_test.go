package main

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/store/embedded"
)

// TestMain lets the test binary be the net/http limit, which the program starts as a copy of itself.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == limitCommand {
		main()
	}
	os.Exit(m.Run())
}

// TestSmoke runs the whole program with tiny sizes, so that it can't rot. It says nothing about speed.
func TestSmoke(t *testing.T) {
	t.Parallel()
	want := []string{"a8", "a64", "c", "b", "d", "e"}
	args := []string{"--smoke", "--json", "--dir", t.TempDir()}
	if _, err := embedded.FindLibrary(""); err != nil {
		if os.Getenv("METERD_REQUIRE_ENGINES") == "1" {
			t.Fatal(err)
		}
		args = append(args, "--only", "ingest,single,idle")
		want = []string{"a8", "a64", "c", "e"}
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), args, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d\n%s", code, stderr.String())
	}
	var got report
	if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, res := range got.Results {
		ids = append(ids, res.ID)
		for _, f := range slices.Concat(res.Figures, res.Limits) {
			// The processor time of a short run may be less than the kernel's clock tick.
			if f.Median <= 0 && !strings.Contains(f.Name, "CPU") {
				t.Errorf("%s: %s is %v, want a positive number", res.ID, f.Name, f.Median)
			}
		}
		if res.ID != "d" && res.ID != "e" && len(res.Limits) == 0 {
			t.Errorf("%s: no limit of the machine beside it", res.ID)
		}
	}
	if diff := cmp.Diff(want, ids); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
}

// TestGrowthSmoke closes a tiny hour behind a day of history.
func TestGrowthSmoke(t *testing.T) {
	t.Parallel()
	if _, err := embedded.FindLibrary(""); err != nil {
		if os.Getenv("METERD_REQUIRE_ENGINES") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"--smoke", "--only", "growth", "--dir", t.TempDir()}, &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d\n%s", code, stderr.String())
	}
	if !strings.Contains(stdout.String(), "| events | instances |") || !strings.Contains(stdout.String(), "\n| 10,000 | 20.0 | 1 |") {
		t.Errorf("the table lacks its heading or the line of 10,000 events, 20 instances and 1 day:\n%s", stdout.String())
	}
}

// TestTemplate_Fill proves that what the client patches together are valid, distinct events.
func TestTemplate_Fill(t *testing.T) {
	t.Parallel()
	const n, instances = 50, 7
	hour := time.Date(2026, 3, 3, 9, 0, 0, 0, time.UTC)
	tmpl := newTemplate(n, hour, eventsPath)
	ids, subjects := map[string]bool{}, map[string]int{}
	for round := range uint64(3) {
		tokens := tmpl.fill(round*n, instances)
		_, body, ok := bytes.Cut(tmpl.request, headEnd)
		if !ok {
			t.Fatalf("no end of the head in %q", tmpl.request)
		}
		if !bytes.Contains(tmpl.request, []byte("Content-Length: "+strconv.Itoa(len(body))+"\r\n")) {
			t.Errorf("round %d: Content-Length is not %d", round, len(body))
		}
		if size := len(body) / n; size < 205 || size > 225 {
			t.Errorf("an event has %d bytes, want about 215", size)
		}
		batch := meter.NewBatch()
		defer batch.Release()
		batch.DecodeJSON(body, meter.DecodeOptions{})
		if len(batch.Events) != n || len(batch.Problems) != 0 {
			t.Fatalf("round %d: %d events, problems %v", round, len(batch.Events), batch.Problems)
		}
		var sum uint64
		for _, ev := range batch.Events {
			ids[string(ev.ID)] = true
			subjects[string(ev.Subject)]++
			if at := time.Unix(0, ev.Time); at.Before(hour) || !at.Before(hour.Add(time.Hour)) {
				t.Errorf("time %s is outside of the hour", at)
			}
			var data struct{ Tokens uint64 }
			if err := json.Unmarshal(ev.Data, &data); err != nil {
				t.Fatal(err)
			}
			sum += data.Tokens
		}
		if sum != tokens {
			t.Errorf("round %d: events carry %d tokens, fill returned %d", round, sum, tokens)
		}
	}
	if len(ids) != 3*n {
		t.Errorf("%d distinct ids, want %d", len(ids), 3*n)
	}
	for subject, count := range subjects {
		if len(subjects) != instances || count < 3*n/instances || count > 3*n/instances+1 {
			t.Errorf("subject %s has %d of %d events, %d subjects", subject, count, 3*n, len(subjects))
		}
	}
}

// TestSend_Refused proves that a benchmark of refusals is no benchmark.
func TestSend_Refused(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	var stdout lockedBuffer
	ended := make(chan error, 1)
	go func() { ended <- serveLimit(ctx, &stdout) }()
	url := stdout.awaitLine(t)
	l := load{url: url, path: eventsPath, connections: 2, batch: 10, events: 100, instances: 3, hour: lastHour(), first: new(atomic.Uint64)}
	done, err := l.send(ctx)
	if err != nil || done.events != 100 || done.requests != 10 {
		t.Fatalf("send = %d events in %d requests, %v; want 100 in 10", done.events, done.requests, err)
	}
	if next := l.first.Load(); next != 100 {
		t.Errorf("next event is number %d, want 100", next)
	}
	l.path = "//not a path" // net/http answers 400
	if _, err := l.send(ctx); err == nil || !strings.Contains(err.Error(), "answer is not 204: HTTP/1.1 400") {
		t.Errorf("send of bad requests: %v, want the answer in the error", err)
	}
}

func TestParseFlags(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ args, want string }{
		"unknown measurement": {"--only ingest,speed", `--only: must be of ingest, single, close, idle, growth (got "speed")`},
		"argument":            {"all", `unexpected argument "all"`},
		"few events":          {"--close-events 5", "--close-events: must be at least 10000 (got 5)"},
		"many instances":      {"--quick --instances 200000", "--instances: must be from 1 to a tenth of --close-events"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := parseFlags(strings.Fields(tc.args), new(bytes.Buffer))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("parseFlags(%s) = %v, want %s", tc.args, err, tc.want)
			}
		})
	}
	o, err := parseFlags([]string{"--quick", "--instances", "500"}, new(bytes.Buffer))
	if err != nil || o.closeEvents != 1_000_000 || o.instances != 500 {
		t.Errorf("parseFlags = %+v, %v; want the number given to win over --quick", o, err)
	}
}

func TestFigure(t *testing.T) {
	t.Parallel()
	f := new(figure)
	for _, v := range []float64{5, 1, 9, 3, 4} {
		f.add(v)
	}
	if f.Median != 4 || f.Min != 1 || f.Max != 9 {
		t.Errorf("median %v, min %v, max %v; want 4, 1, 9", f.Median, f.Min, f.Max)
	}
	f.least(4)
	if !f.Target.Met {
		t.Error("4 does not reach 4")
	}
	f.most(3.9)
	if f.Target.Met {
		t.Error("4 stays below 3.9")
	}
	for v, want := range map[float64]string{0: "0.00", 1.234: "1.23", 56.78: "56.8", 999: "999", 1234567: "1,230,000", 123_456: "123,000", 99_999: "100,000"} {
		if got := short(v); got != want {
			t.Errorf("short(%v) = %s, want %s", v, got, want)
		}
	}
}

func TestReport_Write(t *testing.T) {
	t.Parallel()
	r := &report{Command: "bench", Started: time.Date(2026, 3, 3, 9, 0, 0, 0, time.UTC), Warnings: []string{"busy"}}
	res := &result{ID: "a", What: "durable ingest", OthersBusy: 0.5}
	r.Results = append(r.Results, res)
	res.got("events/s", "", 900).least(1000)
	res.got("events/s", "", 1100)
	res.limit("net/http", "events/s", 5000)
	r.Results = append(r.Results, &result{ID: "g", What: "growth", Table: [][]string{{"events", "closing s"}, {"10", "0.5"}}})
	var out bytes.Buffer
	if err := r.write(&out, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"2026-03-03 09:00 UTC", "a  durable ingest", "900 - 1,100", "≥ 1,000 MISSED", "limit: net/http", "others took 50 %", "warning: busy", "\ng  growth\n\n| events | closing s |\n| ---: | ---: |\n| 10 | 0.5 |\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("table lacks %q:\n%s", want, out.String())
		}
	}
}

// TestProcess reads this process in /proc.
func TestProcess(t *testing.T) {
	t.Parallel()
	m, err := processMemory(os.Getpid())
	if err != nil || m.resident < 1<<20 || m.peak < m.resident {
		t.Errorf("processMemory = %+v, %v", m, err)
	}
	if _, err := processCPU(os.Getpid()); err != nil {
		t.Error(err)
	}
	if _, err := processCPU(-1); err == nil {
		t.Error("processCPU of no process gave no error")
	}
}
