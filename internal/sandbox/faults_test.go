package sandbox_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/internal/sandbox"
)

// served is a market behind a real listener.
type served struct {
	market
	url    string
	client *http.Client
}

func serve(t *testing.T, edit func(*sandbox.Options)) served {
	t.Helper()
	m := newMarket(t, edit)
	server := httptest.NewServer(m)
	t.Cleanup(server.Close)
	// A fresh connection for each call: the client must not repeat one on its own.
	return served{m, server.URL, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}}
}

// outcome is what a client sees of one call.
type outcome struct {
	Status int
	Code   string
	Body   string
	Failed bool // no answer, or one cut short
}

// call sends records over the wire.
func (s served) call(t *testing.T, records ...fields) outcome {
	t.Helper()
	r := newRequest(t, s.clock.Now(), bodyOf(t, records...))
	target, err := url.Parse(s.url + r.URL.Path)
	if err != nil {
		t.Fatal(err)
	}
	r.URL, r.RequestURI, r.Host = target, "", target.Host
	resp, err := s.client.Do(r)
	if err != nil {
		return outcome{Failed: true}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	out := outcome{Status: resp.StatusCode, Body: string(body), Failed: err != nil}
	var answer struct {
		Code string `json:"error_code"`
	}
	if json.Unmarshal(body, &answer) == nil {
		out.Code = answer.Code
	}
	return out
}

func (s served) inject(t *testing.T, f sandbox.Fault) sandbox.Fault {
	t.Helper()
	f, err := s.Inject(f)
	if err != nil {
		t.Fatalf("Inject() = %v", err)
	}
	return f
}

// TestFaultKinds injects each kind once, over real HTTP, and sends a good record twice.
func TestFaultKinds(t *testing.T) {
	t.Parallel()
	const success = `{"error_code":"MKT.0000","error_msg":"success"}`
	for name, tc := range map[string]struct {
		fault  sandbox.Fault
		want   outcome
		stored int
	}{
		"http_status":           {sandbox.Fault{Kind: "http_status", Status: 503}, outcome{Status: 503}, 0},
		"http_status body":      {sandbox.Fault{Kind: "http_status", Status: 502, Body: "<h1>Bad Gateway</h1>"}, outcome{Status: 502, Body: "<h1>Bad Gateway</h1>"}, 0},
		"http_status after":     {sandbox.Fault{Kind: "http_status", Status: 504, After: true}, outcome{Status: 504}, 1},
		"error_code":            {sandbox.Fault{Kind: "error_code", Code: "MKT.0999"}, outcome{Status: 500, Code: "MKT.0999", Body: `{"error_code":"MKT.0999","error_msg":"System internal error."}`}, 0},
		"error_code status":     {sandbox.Fault{Kind: "error_code", Code: "APIGW.0308", Status: 429}, outcome{Status: 429, Code: "APIGW.0308", Body: `{"error_code":"APIGW.0308","error_msg":"APIGW.0308"}`}, 0},
		"error_code after":      {sandbox.Fault{Kind: "error_code", Code: "MKT.0999", After: true}, outcome{Status: 500, Code: "MKT.0999", Body: `{"error_code":"MKT.0999","error_msg":"System internal error."}`}, 1},
		"throttle":              {sandbox.Fault{Kind: "throttle"}, outcome{Status: 406, Code: "MKT.0250", Body: `{"error_code":"MKT.0250","error_msg":"Access frequency overlimit"}`}, 0},
		"drop_request":          {sandbox.Fault{Kind: "drop_request"}, outcome{Failed: true}, 0},
		"drop_answer":           {sandbox.Fault{Kind: "drop_answer"}, outcome{Failed: true}, 1},
		"slow_body":             {sandbox.Fault{Kind: "slow_body", Delay: sandbox.Duration(time.Microsecond)}, outcome{Status: 200, Code: "MKT.0000", Body: success}, 1},
		"garbage":               {sandbox.Fault{Kind: "garbage"}, outcome{Status: 200, Body: "<html><head><title>502 Bad Gateway</title></head><body>\x00\x01 not json {"}, 1},
		"garbage of one's own":  {sandbox.Fault{Kind: "garbage", Status: 202, Body: "[]"}, outcome{Status: 202, Body: "[]"}, 1},
		"truncate":              {sandbox.Fault{Kind: "truncate"}, outcome{Status: 200, Body: success[:len(success)/2], Failed: true}, 1},
		"latency":               {sandbox.Fault{Kind: "latency", Delay: sandbox.Duration(time.Millisecond)}, outcome{Status: 200, Code: "MKT.0000", Body: success}, 1},
		"another path":          {sandbox.Fault{Kind: "throttle", Path: "/rest/"}, outcome{Status: 200, Code: "MKT.0000", Body: success}, 1},
		"this path":             {sandbox.Fault{Kind: "throttle", Path: "/api/"}, outcome{Status: 406, Code: "MKT.0250", Body: `{"error_code":"MKT.0250","error_msg":"Access frequency overlimit"}`}, 0},
		"success without store": {sandbox.Fault{Kind: "error_code", Code: "MKT.0000"}, outcome{Status: 200, Code: "MKT.0000", Body: success}, 0},
		"abnormal_list": {
			sandbox.Fault{Kind: "abnormal_list", Code: "013", Instance: "7f14*"},
			outcome{Status: 200, Code: "MKT.0000", Body: `{"error_code":"MKT.0000","error_msg":"success","abnormal_usage_data":[{"metering_sn":"a","instance_id":"` + testInstance + `","begin_time":"20220809T080000Z","end_time":"20220809T090000Z","error_code":"013","error_msg":"resource state abnormal"}]}`},
			1,
		},
		"abnormal_list nested": {
			sandbox.Fault{Kind: "abnormal_list", Code: "999", Nested: true},
			outcome{Status: 200, Code: "MKT.0000", Body: `{"error_code":"MKT.0000","error_msg":"success","data":{"abnormal_usage_data":[{"metering_sn":"a","instance_id":"` + testInstance + `","begin_time":"20220809T080000Z","end_time":"20220809T090000Z","error_code":"999","error_msg":""}]}}`},
			1,
		},
		"abnormal_list of others": {sandbox.Fault{Kind: "abnormal_list", Code: "013", Instance: "other"}, outcome{Status: 200, Code: "MKT.0000", Body: success}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, nil)
			tc.fault.Count = 1
			s.inject(t, tc.fault)
			if diff := cmp.Diff(tc.want, s.call(t, good("a"))); diff != "" {
				t.Errorf("first call (-want +got):\n%s", diff)
			}
			if n := len(s.Records()); n != tc.stored {
				t.Errorf("stored %d records, want %d", n, tc.stored)
			}
			if got := s.call(t, good("b").window(-1)); got.Code != "MKT.0000" && tc.fault.Path == "" {
				t.Errorf("second call = %+v, want success: the fault was to strike once", got)
			}
		})
	}
}

// TestLatencyDelays: the answer comes no sooner than the fault says, and a caller who leaves stores nothing.
func TestLatencyDelays(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.inject(t, sandbox.Fault{Kind: sandbox.FaultLatency, Delay: sandbox.Duration(50 * time.Millisecond), Count: 1})
	began := time.Now()
	if got := s.call(t, good("a")); got.Code != "MKT.0000" {
		t.Errorf("answer = %+v", got)
	}
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Errorf("the answer took %s, want at least 50ms", took)
	}
	s.inject(t, sandbox.Fault{Kind: sandbox.FaultSlowBody, Delay: sandbox.Duration(time.Minute), Count: 1})
	s.client.Timeout = 100 * time.Millisecond
	if got := s.call(t, good("b").window(-1)); !got.Failed {
		t.Errorf("slow answer = %+v, want a failure", got)
	}
	if n := len(s.Records()); n != 2 {
		t.Errorf("records = %d, want 2: a slow answer follows the acceptance", n)
	}
}

// TestRetryAfterDroppedAnswer is the classic: the client does not know, sends the same again, and it counts once.
func TestRetryAfterDroppedAnswer(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.inject(t, sandbox.Fault{Kind: sandbox.FaultDropAnswer, Count: 1})
	if got := s.call(t, good("a")); !got.Failed {
		t.Fatalf("first = %+v, want a failure", got)
	}
	if got := s.call(t, good("a")); got.Code != "MKT.0000" {
		t.Fatalf("retry = %+v", got)
	}
	if diff := cmp.Diff([]string{"valid", "abnormal 005"}, s.codes(t)); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	if got := s.Summary().Total.UsageValue; got != "99" {
		t.Errorf("usage = %s, want 99", got)
	}
}

func TestRejectFault(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.inject(t, sandbox.Fault{Kind: sandbox.FaultReject, Code: "013", Instance: "bad-*", Count: 2, Skip: 1})
	for i := range 4 {
		s.mustPush(t, good(fmt.Sprint("b", i)).window(-i).with("instance_id", "bad-1"), good(fmt.Sprint("g", i)).window(-i))
	}
	want := []string{"valid", "valid", "abnormal 013", "valid", "abnormal 013", "valid", "valid", "valid"}
	if diff := cmp.Diff(want, s.codes(t)); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	// The window of a rejected record is free for a new one.
	s.RemoveFaults("")
	s.mustPush(t, good("again").window(-1).with("instance_id", "bad-1"))
	if got := s.codes(t); got[8] != "valid" {
		t.Errorf("resend = %s, want valid", got[8])
	}
}

// TestFaultsAreDeterministic: the same seed strikes the same calls, another one others.
func TestFaultsAreDeterministic(t *testing.T) {
	t.Parallel()
	run := func(seed uint64) string {
		m := newMarket(t, func(o *sandbox.Options) {
			o.Faults = []sandbox.Fault{{Kind: "throttle", Probability: 0.4, Seed: seed}, {Kind: "error_code", Code: "MKT.0999", Probability: 0.4, Seed: seed}}
		})
		var out strings.Builder
		for i := range 40 {
			out.WriteString(m.push(t, good(strconv.Itoa(i)).window(-i)).Code[4:] + " ")
		}
		return out.String()
	}
	first := run(7)
	if again := run(7); again != first {
		t.Errorf("seed 7 gave\n%s and\n%s", first, again)
	}
	if other := run(8); other == first {
		t.Errorf("seeds 7 and 8 both gave %s", first)
	}
	for _, code := range []string{"0000", "0250", "0999"} {
		if !strings.Contains(first, code) {
			t.Errorf("40 calls gave %s, without %s", first, code)
		}
	}
}

func TestFaultBookkeeping(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	a := s.inject(t, sandbox.Fault{Kind: sandbox.FaultThrottle, Skip: 1, Count: 1})
	b := s.inject(t, sandbox.Fault{Kind: sandbox.FaultLatency, Delay: 1, ID: "mine"})
	if _, err := s.Inject(sandbox.Fault{Kind: sandbox.FaultThrottle, ID: "mine"}); err == nil {
		t.Error("two faults have the same id")
	}
	var got []string
	for i := range 3 {
		got = append(got, s.call(t, good(strconv.Itoa(i)).window(-i)).Code)
	}
	if diff := cmp.Diff([]string{"MKT.0000", "MKT.0250", "MKT.0000"}, got); diff != "" {
		t.Errorf("codes (-want +got):\n%s", diff)
	}
	fired := map[string]int{}
	for _, f := range s.Faults() {
		fired[f.ID] = f.Fired
	}
	if diff := cmp.Diff(map[string]int{a.ID: 1, b.ID: 3}, fired); diff != "" {
		t.Errorf("fired (-want +got):\n%s", diff)
	}
	if n := s.RemoveFaults("mine"); n != 1 || len(s.Faults()) != 1 {
		t.Errorf("removed %d, %d are left", n, len(s.Faults()))
	}
	if n := s.RemoveFaults(""); n != 1 || len(s.Faults()) != 0 {
		t.Errorf("removed %d, %d are left", n, len(s.Faults()))
	}
}

func TestParseFault(t *testing.T) {
	t.Parallel()
	got, err := sandbox.ParseFault("kind=latency,delay=2s,count=3,probability=0.5,seed=9,path=/api,skip=1,after=true")
	want := sandbox.Fault{Kind: "latency", Delay: sandbox.Duration(2 * time.Second), Count: 3, Probability: 0.5, Seed: 9, Path: "/api", Skip: 1, After: true}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("ParseFault() = %v (-want +got):\n%s", err, diff)
	}
	for text, want := range map[string]string{
		"":                               "expected name=value",
		"latency":                        "expected name=value",
		"kind=slow":                      "kind must be",
		"kind=latency":                   "delay must be",
		"kind=latency,delay=2":           "missing unit",
		"kind=latency,delay=11m":         "at most 10m",
		"kind=http_status":               "status is missing",
		"kind=http_status,status=99":     "200 to 599",
		"kind=error_code":                "code is missing",
		"kind=reject":                    "code is missing",
		"kind=throttle,count=-1":         "must not be negative",
		"kind=throttle,probability=2":    "at most 1",
		"kind=throttle,probability=NaN":  "at most 1",
		"kind=throttle,color=red":        "unknown name",
		"kind=garbage,count=x":           "count",
		"kind=throttle,seed=-1":          "seed",
		"kind=http_status,status=503,=x": "unknown name",
	} {
		if _, err := sandbox.ParseFault(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseFault(%q) = %v, want an error with %q", text, err, want)
		}
	}
}

// TestDropInProcess: without a connection to close, a drop is the panic that net/http defines for it.
func TestDropInProcess(t *testing.T) {
	t.Parallel()
	m := newMarket(t, func(o *sandbox.Options) { o.Faults = []sandbox.Fault{{Kind: "drop_answer", Count: 1}} })
	defer func() {
		if err, ok := recover().(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
			t.Errorf("recovered %v, want http.ErrAbortHandler", err)
		}
		if n := len(m.Records()); n != 1 {
			t.Errorf("records = %d, want 1", n)
		}
		if c := m.Calls()[0]; c.Status != 0 || !c.Accepted {
			t.Errorf("call = %+v, want accepted without an answer", c)
		}
	}()
	m.push(t, good("a"))
}
