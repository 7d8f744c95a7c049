package koogallery_test

import (
	"net/http/httptest"
	"testing"
	"time"

	"github.com/meterd/meterd/internal/sandbox"
	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/koogallery"
)

// sandboxNow is the clock of the simulated marketplace.
func sandboxNow() time.Time { return time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC) }

// newSandbox starts the simulated marketplace, which shares no code with the client, and returns a client of it.
func newSandbox(t *testing.T, o sandbox.Options, change func(*koogallery.Options)) (*sandbox.Sandbox, *koogallery.Client) {
	t.Helper()
	o.Now, o.Key, o.AccessKeys = sandboxNow, demoKey, map[string]string{demoAK: demoSK}
	s, err := sandbox.New(o)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	co := options(server.URL)
	co.Now = sandboxNow
	if change != nil {
		change(&co)
	}
	return s, newClient(t, co)
}

func oldAPI(o *koogallery.Options) {
	o.API, o.AccessKey, o.SecretKey, o.SellerKey = koogallery.APIOld, demoAK, demoSK, ""
}

// recentBatch has n records of instances of their own, of the last whole hour.
func recentBatch(n int) []reporter.UsageRecord {
	batch := demoBatch(n)
	for i := range batch {
		batch[i].InstanceID = string(batch[i].SN)
		batch[i].Window = meter.HourOf(sandboxNow().Add(-time.Hour))
		batch[i].RecordTime = batch[i].Window.End.Add(time.Minute)
	}
	return batch
}

// TestSandboxAccepts: a full batch, in each API and under each reading of the signature's rule.
func TestSandboxAccepts(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		form   sandbox.SignatureForm
		change func(*koogallery.Options)
	}{
		"new, raw":    {sandbox.FormRaw, nil},
		"new, sorted": {sandbox.FormSorted, nil},
		"old":         {sandbox.FormAny, oldAPI},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, c := newSandbox(t, sandbox.Options{RequireForm: tt.form}, tt.change)
			batch := recentBatch(1000)
			batch[1].Package = "0d9c7b7e-2f0b-4c0e-9a3e-1c2d3e4f5a6b"
			wantClass(t, c.Push(t.Context(), batch), reporter.ClassAccepted)
			if err := s.Validate(); err != nil {
				t.Fatal(err)
			}
			records := s.Records()
			if len(records) != len(batch) {
				t.Fatalf("the sandbox has %d records, want %d", len(records), len(batch))
			}
			for i, r := range records {
				if r.State != sandbox.StateValid || r.InstanceID != batch[i].InstanceID || r.UsageValue != "1.5" ||
					r.RelatePkgInstance != batch[i].Package {
					t.Errorf("record %d = %+v", i, r)
				}
			}
		})
	}
}

// TestSandboxResend: an answer is lost, the same records are sent again, and each is billed once.
func TestSandboxResend(t *testing.T) {
	t.Parallel()
	for name, kind := range map[string]sandbox.FaultKind{
		"dropped": sandbox.FaultDropAnswer, "cut": sandbox.FaultTruncate, "garbage": sandbox.FaultGarbage,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, c := newSandbox(t, sandbox.Options{Faults: []sandbox.Fault{{Kind: kind, Count: 1}}}, nil)
			batch := recentBatch(10)
			first := c.Push(t.Context(), batch)
			wantClass(t, first, reporter.ClassUnknown)
			second := c.Push(t.Context(), batch)
			wantClass(t, second, reporter.ClassAccepted)
			if first.RequestHash != second.RequestHash {
				t.Error("the resend had other bytes")
			}
			if err := s.Validate(); err != nil {
				t.Fatal(err)
			}
			valid := 0
			for _, r := range s.Records() {
				if r.State == sandbox.StateValid {
					valid++
				}
			}
			if valid != 10 {
				t.Errorf("%d valid records, want 10", valid)
			}
		})
	}
}

// TestSandboxCodes: every code as the sandbox answers it, with its own statuses.
func TestSandboxCodes(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]reporter.Class{
		sandbox.CodeInternal: reporter.ClassUnavailable, sandbox.CodeBadParameter: reporter.ClassRecordBad,
		sandbox.CodeInvalidParameter: reporter.ClassRecordBad, sandbox.CodeBadSign: reporter.ClassMisconfigured,
		sandbox.CodeIllegalOperation: reporter.ClassRecordBad, sandbox.CodeNoAuthority: reporter.ClassMisconfigured,
		sandbox.CodeIllegalToken: reporter.ClassMisconfigured, sandbox.CodeRequestError: reporter.ClassRecordBad,
		sandbox.CodeThrottled: reporter.ClassUnavailable, sandbox.CodeUnknownInstance: reporter.ClassRecordBad,
		sandbox.CodeInvalidEntity: reporter.ClassRecordBad, sandbox.CodeTooManyRecords: reporter.ClassBatchTooLarge,
		sandbox.CodeBeginTooOld: reporter.ClassRecordExpired, sandbox.CodeGatewayNoAPI: reporter.ClassMisconfigured,
		sandbox.CodeGatewayTooLarge: reporter.ClassBatchTooLarge,
	} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			s, c := newSandbox(t, sandbox.Options{Faults: []sandbox.Fault{{Kind: sandbox.FaultErrorCode, Code: code}}}, nil)
			res := c.Push(t.Context(), recentBatch(2))
			wantClass(t, res, want)
			if res.Code != code || len(s.Records()) != 0 {
				t.Errorf("result = %+v, %d records", res, len(s.Records()))
			}
		})
	}
}

func TestSandboxClockAndKey(t *testing.T) {
	t.Parallel()
	s, c := newSandbox(t, sandbox.Options{}, func(o *koogallery.Options) {
		o.Now = func() time.Time { return sandboxNow().Add(-3 * time.Hour) }
	})
	res := c.Push(t.Context(), recentBatch(1))
	wantClass(t, res, reporter.ClassAccepted)
	wantMessage(t, res, "our clock is 3h0m0s behind the marketplace's")
	if len(s.Records()) != 1 {
		t.Errorf("records = %d, want 1", len(s.Records()))
	}
	s, c = newSandbox(t, sandbox.Options{}, func(o *koogallery.Options) { o.SellerKey = "wrong-fake-key" })
	res = c.Push(t.Context(), recentBatch(1))
	wantClass(t, res, reporter.ClassMisconfigured)
	wantMessage(t, res, "check that the seller key", "our clock agrees")
	if len(s.Records()) != 0 {
		t.Error("a record was taken with a wrong key")
	}
}

func TestSandboxAbnormalList(t *testing.T) {
	t.Parallel()
	for _, nested := range []bool{false, true} {
		batch := recentBatch(3)
		_, c := newSandbox(t, sandbox.Options{Faults: []sandbox.Fault{{
			Kind: sandbox.FaultAbnormalList, Instance: batch[1].InstanceID, Code: sandbox.RecordDuplicateWindow, Nested: nested,
		}}}, nil)
		res := c.Push(t.Context(), batch)
		wantClass(t, res, reporter.ClassAccepted)
		if r, ok := res.Refused[batch[1].SN]; !ok || r.Code != "010" || !r.Duplicate || len(res.Refused) != 1 {
			t.Errorf("nested %t: refused = %v", nested, res.Refused)
		}
	}
}
