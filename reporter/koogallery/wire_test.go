package koogallery_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/koogallery"
)

var update = flag.Bool("update", false, "rewrite golden files")

// TestGoldenBodies pins the wire bodies: a record's bytes must never change, not even by an upgrade, because a record
// sent before it may be sent again after it.
func TestGoldenBodies(t *testing.T) {
	t.Parallel()
	batch := []reporter.UsageRecord{
		demoRecord(0, "99"), demoRecord(1, "0.125"), demoRecord(2, "99999999.9999"), demoRecord(3, "0.0001"),
		demoRecord(4, "1e3"), demoRecord(5, "2.5000"),
	}
	batch[1].Package = "0d9c7b7e-2f0b-4c0e-9a3e-1c2d3e4f5a6b"
	batch[2].InstanceID = "a<b>&c=/d~!@#$%^*(){}[]:;,.?|+-_ e"
	batch[3].Window.Start = batch[3].Window.Start.In(time.FixedZone("UTC+8", 8*3600))
	batch[4].RecordTime = batch[4].RecordTime.Add(123 * time.Millisecond)
	for name, encode := range map[string]func([]reporter.UsageRecord) ([]byte, error){
		"new.json": koogallery.EncodeNew, "old.json": koogallery.EncodeOld,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := encode(batch)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(path, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
		})
	}
}

// TestNewRecordIsSorted checks the order of the fields, on which the signature depends.
func TestNewRecordIsSorted(t *testing.T) {
	t.Parallel()
	typ := reflect.TypeFor[koogallery.NewRecord]()
	var names []string
	for field := range typ.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
		if field.Type.Kind() != reflect.String {
			t.Errorf("%s is not a string", name)
		}
	}
	if !slices.IsSorted(names) {
		t.Errorf("fields are not sorted: %v", names)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	m := newMarketplace(t, answerWith(200, success))
	newAPI := newClient(t, options(m.URL))
	o := options(m.URL)
	o.API, o.AccessKey, o.SecretKey = koogallery.APIOld, demoAK, demoSK
	oldAPI := newClient(t, o)
	for name, tt := range map[string]struct {
		change  func(*reporter.UsageRecord)
		new, of string // expected in the error of the new and of the old API; "" if there is none
	}{
		"good":               {func(*reporter.UsageRecord) {}, "", ""},
		"no instance":        {func(r *reporter.UsageRecord) { r.InstanceID = "" }, "instance id: missing", "instance id: missing"},
		"instance of 64":     {func(r *reporter.UsageRecord) { r.InstanceID = strings.Repeat("x", 64) }, "", ""},
		"instance of 65":     {func(r *reporter.UsageRecord) { r.InstanceID = strings.Repeat("x", 65) }, "longer than 64", "longer than 64"},
		"instance quote":     {func(r *reporter.UsageRecord) { r.InstanceID = `a"b` }, "printable ASCII", "printable ASCII"},
		"instance apostroph": {func(r *reporter.UsageRecord) { r.InstanceID = `a'b` }, "printable ASCII", "printable ASCII"},
		"instance backslash": {func(r *reporter.UsageRecord) { r.InstanceID = `a\b` }, "printable ASCII", "printable ASCII"},
		"instance newline":   {func(r *reporter.UsageRecord) { r.InstanceID = "a\n" }, "printable ASCII", "printable ASCII"},
		"instance umlaut":    {func(r *reporter.UsageRecord) { r.InstanceID = "ä" }, "printable ASCII", "printable ASCII"},
		"no number":          {func(r *reporter.UsageRecord) { r.SN = "" }, "metering_sn: missing", ""},
		"long number":        {func(r *reporter.UsageRecord) { r.SN = reporter.MeteringSN(strings.Repeat("1", 65)) }, "metering_sn: longer", ""},
		"no product":         {func(r *reporter.UsageRecord) { r.ProductID = "" }, "", "product id: missing"},
		"bad package":        {func(r *reporter.UsageRecord) { r.Package = "\x7f" }, "package: only", "package: only"},
		"zero":               {func(r *reporter.UsageRecord) { r.Quantity = meter.Quantity{} }, "above zero", "above zero"},
		"negative":           {func(r *reporter.UsageRecord) { r.Quantity = meter.NewQuantity(-1, 0) }, "above zero (got -1)", "above zero"},
		"smallest":           {func(r *reporter.UsageRecord) { r.Quantity = meter.NewQuantity(1, -4) }, "", ""},
		"too fine": {
			func(r *reporter.UsageRecord) { r.Quantity = meter.NewQuantity(10001, -5) },
			"more than 4 decimals (got 0.10001)", "more than 4",
		},
		"trailing zeros": {func(r *reporter.UsageRecord) { r.Quantity = meter.NewQuantity(100000, -6) }, "", ""},
		"largest":        {func(r *reporter.UsageRecord) { r.Quantity = meter.NewQuantity(999999999999, -4) }, "", ""},
		"too large": {
			func(r *reporter.UsageRecord) { r.Quantity = meter.NewQuantity(1, 8) },
			"above 99999999.9999 (got 100000000)", "above 99999999.9999",
		},
		"no window":     {func(r *reporter.UsageRecord) { r.Window = meter.Window{} }, "begin: missing", "begin: missing"},
		"no record":     {func(r *reporter.UsageRecord) { r.RecordTime = time.Time{} }, "record time: missing", "record time: missing"},
		"empty window":  {func(r *reporter.UsageRecord) { r.Window.End = r.Window.Start }, "begin must be before end", "begin must be"},
		"half a second": {func(r *reporter.UsageRecord) { r.Window.Start = r.Window.Start.Add(time.Millisecond) }, "whole seconds", "whole seconds"},
		"too early":     {func(r *reporter.UsageRecord) { r.RecordTime = r.Window.End.Add(-time.Second) }, "before the window's end", "before the"},
		"year 10000":    {func(r *reporter.UsageRecord) { r.Window.End = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, "end: missing or out of range", "end: missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := demoRecord(0, "1")
			tt.change(&r)
			for api, c := range map[string]struct {
				client *koogallery.Client
				want   string
			}{"new": {newAPI, tt.new}, "old": {oldAPI, tt.of}} {
				err := c.client.Check(r)
				if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
					t.Errorf("%s: Check = %v, want %q", api, err, c.want)
				}
			}
		})
	}
	bad := demoRecord(0, "1")
	bad.InstanceID, bad.SN, bad.Quantity = "", "", meter.Quantity{}
	if err := newAPI.Check(bad); err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("Check = %v, want all three faults", err)
	}
}

var (
	wireTimeForm  = regexp.MustCompile(`^\d{8}T\d{6}Z$`)
	wireValueForm = regexp.MustCompile(`^(0|[1-9]\d{0,7})(\.\d{1,4})?$`)
)

// strictRecord is what a strict server reads of one record.
type strictRecord struct {
	InstanceID string  `json:"instance_id"`
	RecordTime string  `json:"record_time"`
	BeginTime  string  `json:"begin_time"`
	EndTime    string  `json:"end_time"`
	UsageValue string  `json:"usage_value"`
	MeteringSN string  `json:"metering_sn"`
	Package    *string `json:"relate_pkg_instance"`
}

// decodeStrictly reads a body as a server would that refuses everything the page does not define.
func decodeStrictly(body []byte) ([]strictRecord, error) {
	var v struct {
		UsageRecords []strictRecord `json:"usage_records"`
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("trailing bytes")
	}
	for _, r := range v.UsageRecords {
		for _, at := range []string{r.RecordTime, r.BeginTime, r.EndTime} {
			if !wireTimeForm.MatchString(at) {
				return nil, fmt.Errorf("time %q", at)
			}
		}
		if !wireValueForm.MatchString(r.UsageValue) {
			return nil, fmt.Errorf("value %q", r.UsageValue)
		}
		if r.Package != nil && *r.Package == "" {
			return nil, errors.New("empty package")
		}
	}
	return v.UsageRecords, nil
}

// checkRoundTrip encodes r and demands that a strict server reads the same record.
func checkRoundTrip(t rapid.TB, r reporter.UsageRecord) {
	t.Helper()
	body, err := koogallery.EncodeNew([]reporter.UsageRecord{r})
	if err != nil {
		t.Fatalf("EncodeNew: %v", err)
	}
	if bytes.ContainsRune(body, '\\') {
		t.Fatalf("the body holds an escape: %s", body)
	}
	got, err := decodeStrictly(body)
	if err != nil || len(got) != 1 {
		t.Fatalf("decode %s: %v", body, err)
	}
	want := strictRecord{
		InstanceID: r.InstanceID, MeteringSN: string(r.SN), UsageValue: got[0].UsageValue, Package: got[0].Package,
		RecordTime: r.RecordTime.UTC().Format("20060102T150405Z"),
		BeginTime:  r.Window.Start.UTC().Format("20060102T150405Z"),
		EndTime:    r.Window.End.UTC().Format("20060102T150405Z"),
	}
	if got[0] != want {
		t.Fatalf("decoded %+v, want %+v", got[0], want)
	}
	if !meter.MustParseQuantity(got[0].UsageValue).Equal(r.Quantity) {
		t.Fatalf("usage value %s, want %s", got[0].UsageValue, r.Quantity)
	}
	if (got[0].Package == nil) != (r.Package == "") || (got[0].Package != nil && *got[0].Package != r.Package) {
		t.Fatalf("package %v, want %q", got[0].Package, r.Package)
	}
	again, err := koogallery.EncodeNew([]reporter.UsageRecord{r})
	if err != nil || !bytes.Equal(body, again) {
		t.Fatalf("encoded again %s, %v, want %s", again, err, body)
	}
}

func TestEncodeProperty(t *testing.T) {
	t.Parallel()
	c := newClient(t, options("http://127.0.0.1:1"))
	id := rapid.StringMatching(`[ !#-&(-\[\]-~]{1,64}`)
	rapid.Check(t, func(t *rapid.T) {
		r := demoRecord(rapid.IntRange(0, 1_000_000).Draw(t, "hour"), "1")
		r.InstanceID, r.SN = id.Draw(t, "instance"), reporter.MeteringSN(id.Draw(t, "sn"))
		r.Package = rapid.OneOf(rapid.Just(""), id).Draw(t, "package")
		r.Quantity = meter.NewQuantity(rapid.Int64Range(1, 999_999_999_999).Draw(t, "units"), -4)
		if err := c.Check(r); err != nil {
			t.Fatalf("Check: %v", err)
		}
		checkRoundTrip(t, r)
	})
}

// FuzzEncode: whatever passes Check is read by a strict server as the same record.
func FuzzEncode(f *testing.F) {
	f.Add("inst", "sn", "", int64(990000), int32(-4), int64(1660032000), int64(3600))
	f.Add("a<b>&", "s'n", "p\"", int64(1), int32(8), int64(0), int64(-1))
	f.Add("ä", "\x00", "\\", int64(-5), int32(-40), int64(1<<40), int64(1))
	c, err := koogallery.New(options("http://127.0.0.1:1"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, instance, sn, pkg string, units int64, exp int32, begin, length int64) {
		if exp < -100 || exp > 100 {
			t.Skip("no quantity has such an exponent")
		}
		start := time.Unix(begin, 0)
		end := start.Add(time.Duration(length%(366*86400)) * time.Second)
		r := reporter.UsageRecord{
			SN: reporter.MeteringSN(sn), InstanceID: instance, Package: pkg, Quantity: meter.NewQuantity(units, exp),
			Window: meter.Window{Start: start, End: end}, RecordTime: end,
		}
		if c.Check(r) == nil {
			checkRoundTrip(t, r)
		}
	})
}
