package sandbox_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/internal/sandbox"
)

// many is n records with windows of their own.
func many(n int) []fields {
	out := make([]fields, n)
	for i := range out {
		out[i] = good("sn-"+strconv.Itoa(i)).with("instance_id", "inst-"+strconv.Itoa(i))
	}
	return out
}

// TestUploadBodies checks what a properly signed body is answered with.
func TestUploadBodies(t *testing.T) {
	t.Parallel()
	one := func(pairs ...any) string { return bodyOf(t, good("sn").with(pairs...)) }
	long := strings.Repeat("x", 65)
	cases := map[string]struct {
		body string
		edit func(*sandbox.Options)
		code string
	}{
		"good":                   {body: one(), code: "MKT.0000"},
		"1000 records":           {body: bodyOf(t, many(1000)...), code: "MKT.0000"},
		"1001 records":           {body: bodyOf(t, many(1001)...), code: "MKT.9003"},
		"value as a number":      {body: one("usage_value", 99.5), code: "MKT.0000"},
		"value of 20 digits":     {body: one("usage_value", strings.Repeat("0", 19)+"1"), code: "MKT.0000"},
		"64 non-ASCII":           {body: one("instance_id", strings.Repeat("云", 64)), code: "MKT.0000"},
		"with a package":         {body: one("relate_pkg_instance", "pkg"), code: "MKT.0000"},
		"empty body":             {body: "", code: "MKT.0199"},
		"not JSON":               {body: "{", code: "MKT.0199"},
		"not UTF-8":              {body: "{\"usage_records\":[\"\xff\"]}", code: "MKT.0199"},
		"two values":             {body: one() + one(), code: "MKT.0199"},
		"too deep":               {body: strings.Repeat("[", 100) + strings.Repeat("]", 100), code: "MKT.0199"},
		"an array":               {body: "[]", code: "MKT.0199"},
		"no usage_records":       {body: "{}", code: "MKT.0199"},
		"usage_records null":     {body: `{"usage_records":null}`, code: "MKT.0199"},
		"usage_records twice":    {body: `{"usage_records":[],"usage_records":[]}`, code: "MKT.0101"},
		"usage_records object":   {body: `{"usage_records":{}}`, code: "MKT.0100"},
		"usage_records empty":    {body: `{"usage_records":[]}`, code: "MKT.9002"},
		"record null":            {body: `{"usage_records":[null]}`, code: "MKT.9002"},
		"record a string":        {body: `{"usage_records":["x"]}`, code: "MKT.9002"},
		"unknown top field":      {body: `{"usage_records":[],"x":1}`, code: "MKT.0101"},
		"unknown field":          {body: one("unit", "GB"), code: "MKT.0101"},
		"product_id":             {body: one("product_id", "p"), code: "MKT.0101"},
		"field twice":            {body: strings.Replace(one(), `"usage_value":"99"`, `"usage_value":"99","usage_value":"99"`, 1), code: "MKT.0101"},
		"no instance":            {body: one("instance_id", nil), code: "MKT.0101"},
		"empty instance":         {body: one("instance_id", ""), code: "MKT.0101"},
		"instance null":          {body: strings.Replace(one(), `"`+testInstance+`"`, "null", 1), code: "MKT.0101"},
		"no sn":                  {body: one("metering_sn", nil), code: "MKT.0101"},
		"no begin":               {body: one("begin_time", nil), code: "MKT.0101"},
		"no end":                 {body: one("end_time", nil), code: "MKT.0101"},
		"no record time":         {body: one("record_time", nil), code: "MKT.0101"},
		"no value":               {body: one("usage_value", nil), code: "MKT.0101"},
		"value a word":           {body: one("usage_value", "many"), code: "MKT.0101"},
		"value with exponent":    {body: one("usage_value", "1e3"), code: "MKT.0101"},
		"number with exponent":   {body: strings.Replace(one(), `"99"`, `1e3`, 1), code: "MKT.0101"},
		"value with comma":       {body: one("usage_value", "1,000"), code: "MKT.0101"},
		"value with plus":        {body: one("usage_value", "+1"), code: "MKT.0101"},
		"value with bare point":  {body: one("usage_value", "1."), code: "MKT.0101"},
		"value empty":            {body: one("usage_value", ""), code: "MKT.0101"},
		"value too long":         {body: one("usage_value", strings.Repeat("1", 21)), code: "MKT.0100"},
		"value true":             {body: one("usage_value", true), code: "MKT.0100"},
		"instance too long":      {body: one("instance_id", long), code: "MKT.0100"},
		"instance a number":      {body: one("instance_id", 7), code: "MKT.0100"},
		"sn too long":            {body: one("metering_sn", long), code: "MKT.0100"},
		"package too long":       {body: one("relate_pkg_instance", long), code: "MKT.0100"},
		"package empty":          {body: one("relate_pkg_instance", ""), code: "MKT.0100"},
		"package null":           {body: strings.Replace(one("relate_pkg_instance", "P"), `"P"`, "null", 1), code: "MKT.0100"},
		"time with fraction":     {body: one("begin_time", "20220809T080000.5Z"), code: "MKT.0100"},
		"time with separators":   {body: one("end_time", "2022-08-09T09:00:00Z"), code: "MKT.0100"},
		"time with zone":         {body: one("record_time", "20220809T090500+0800"), code: "MKT.0100"},
		"time in millis":         {body: one("record_time", "20220809090500000"), code: "MKT.0100"},
		"time in lower case":     {body: one("record_time", "20220809t090500z"), code: "MKT.0100"},
		"time too long":          {body: one("record_time", strings.Repeat("2", 21)), code: "MKT.0100"},
		"second record bad":      {body: bodyOf(t, good("a"), good("b").with("x", 1)), code: "MKT.0101"},
		"21 days and a second":   {body: one("begin_time", "20220719T090959Z"), code: "MKT.9004"},
		"21 days exactly":        {body: one("begin_time", "20220719T091000Z"), code: "MKT.0000"},
		"unknown, background":    {body: one(), edit: func(o *sandbox.Options) { o.Strict = true }, code: "MKT.0000"},
		"unknown, at upload":     {body: one(), edit: func(o *sandbox.Options) { o.Strict, o.InstancesAtUpload = true, true }, code: "MKT.9001"},
		"declared, at upload":    {body: one(), edit: strictWith(sandbox.Instance{ID: testInstance}), code: "MKT.0000"},
		"foreign, at upload":     {body: one(), edit: strictWith(sandbox.Instance{ID: testInstance, Foreign: true}), code: "MKT.0150"},
		"other's, at upload":     {body: one(), edit: strictWith(sandbox.Instance{ID: testInstance, Seller: "other"}), code: "MKT.0150"},
		"own, at upload":         {body: one(), edit: strictWith(sandbox.Instance{ID: testInstance, Seller: sandbox.DefaultSeller}), code: "MKT.0000"},
		"package missing":        {body: one(), edit: strictWith(sandbox.Instance{ID: testInstance, StopBeforeExcess: true}), code: "MKT.9002"},
		"package is none":        {body: one("relate_pkg_instance", "i2"), edit: strictWith(sandbox.Instance{ID: testInstance}, sandbox.Instance{ID: "i2"}), code: "MKT.9002"},
		"package declared":       {body: one("relate_pkg_instance", "i2"), edit: strictWith(sandbox.Instance{ID: testInstance, StopBeforeExcess: true}, sandbox.Instance{ID: "i2", Package: true}), code: "MKT.0000"},
		"too large":              {body: one(), edit: func(o *sandbox.Options) { o.MaxBody = 100 }, code: "APIGW.0201"},
		"sandbox full":           {body: bodyOf(t, many(3)...), edit: func(o *sandbox.Options) { o.MaxRecords = 2 }, code: "MKT.0999"},
		"not a seller":           {body: one(), edit: func(o *sandbox.Options) { o.NotSellers = []string{sandbox.DefaultSeller} }, code: "MKT.0151"},
		"late formats: time":     {body: one("begin_time", "yesterday"), edit: lateFormats, code: "MKT.0000"},
		"late formats: value":    {body: one("usage_value", "many"), edit: lateFormats, code: "MKT.0000"},
		"late formats: no sn":    {body: one("metering_sn", nil), edit: lateFormats, code: "MKT.0000"},
		"late formats: no begin": {body: one("begin_time", nil), edit: lateFormats, code: "MKT.0101"},
	}
	statuses := map[string]int{
		"MKT.0000": 200, "MKT.0999": 500, "MKT.0100": 500, "MKT.0101": 400, "MKT.0102": 400, "MKT.0199": 400, "MKT.0150": 401,
		"MKT.0151": 401, "MKT.9001": 500, "MKT.9002": 500, "MKT.9003": 500, "MKT.9004": 500, "APIGW.0201": 413,
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMarket(t, tc.edit)
			got := do(t, m, newRequest(t, m.clock.Now(), tc.body))
			if got.Code != tc.code || got.Status != statuses[tc.code] {
				t.Errorf("answer = %+v, want %d %s", got, statuses[tc.code], tc.code)
			}
			if got.Msg == "" {
				t.Error("error_msg is empty")
			}
			if tc.code != "MKT.0000" {
				if got.Detail == "" {
					t.Error("a refusal without X-Sandbox-Detail")
				}
				if n := len(m.Records()); n != 0 {
					t.Errorf("a refused call stored %d records", n)
				}
			}
		})
	}
}

func lateFormats(o *sandbox.Options) { o.FormatsInBackground = true }

// strictWith demands declared instances at upload.
func strictWith(list ...sandbox.Instance) func(*sandbox.Options) {
	return func(o *sandbox.Options) { o.Strict, o.InstancesAtUpload, o.Instances = true, true, list }
}

// TestUploadHeaders checks the headers of the new API.
func TestUploadHeaders(t *testing.T) {
	t.Parallel()
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	del := func(name string) func(*http.Request) { return func(r *http.Request) { r.Header.Del(name) } }
	for name, tc := range map[string]struct {
		edit   func(*http.Request)
		code   string
		status int
	}{
		"as signed":           {func(*http.Request) {}, "MKT.0000", 200},
		"charset":             {set("Content-Type", "application/json; charset=UTF-8"), "MKT.0000", 200},
		"extra Authorization": {set("Authorization", "SDK-HMAC-SHA256 Access=x, SignedHeaders=host, Signature=y"), "MKT.0000", 200},
		"no signature":        {del("signature"), "MKT.0199", 400},
		"no ts":               {del("ts"), "MKT.0199", 400},
		"no nonce":            {del("nonce"), "MKT.0199", 400},
		"empty nonce":         {set("nonce", ""), "MKT.0199", 400},
		"two nonces":          {func(r *http.Request) { r.Header.Add("nonce", "second") }, "MKT.0101", 400},
		"long signature":      {set("signature", strings.Repeat("A", 1001)), "MKT.0100", 500},
		"signature of 1000":   {set("signature", strings.Repeat("A", 1000)), "MKT.0102", 400},
		"long ts":             {set("ts", strings.Repeat("1", 21)), "MKT.0100", 500},
		"long nonce":          {set("nonce", strings.Repeat("n", 65)), "MKT.0100", 500},
		"ts a word":           {set("ts", "now"), "MKT.0100", 500},
		"ts negative":         {set("ts", "-1660036200000"), "MKT.0100", 500},
		"ts with plus":        {set("ts", "+1660036200000"), "MKT.0100", 500},
		"ts beyond int64":     {set("ts", strings.Repeat("9", 20)), "MKT.0100", 500},
		"ts in seconds":       {set("ts", "1660036200"), "MKT.0102", 400},
		"another ts":          {set("ts", "1660036200001"), "MKT.0102", 400},
		"another nonce":       {set("nonce", "other"), "MKT.0102", 400},
		"wrong key": {func(r *http.Request) {
			r.Header.Set("signature", sign("wrong", r.Header.Get("ts"), r.Header.Get("nonce"), bodyOf(t, good("sn"))))
		}, "MKT.0102", 400},
		"no content type":      {del("Content-Type"), "MKT.0199", 400},
		"form":                 {set("Content-Type", "application/x-www-form-urlencoded"), "MKT.0199", 400},
		"other charset":        {set("Content-Type", "application/json; charset=gbk"), "MKT.0199", 400},
		"compressed":           {set("Content-Encoding", "gzip"), "MKT.0199", 400},
		"GET":                  {func(r *http.Request) { r.Method = http.MethodGet }, "APIGW.0101", 404},
		"unknown path":         {func(r *http.Request) { r.URL.Path = "/api/other" }, "APIGW.0101", 404},
		"path with a slash":    {func(r *http.Request) { r.URL.Path += "/" }, "APIGW.0101", 404},
		"query is not signed":  {func(r *http.Request) { r.URL.RawQuery = "x=1" }, "MKT.0000", 200},
		"upper-case names":     {func(r *http.Request) { r.Header.Set("SIGNATURE", r.Header.Get("signature")) }, "MKT.0000", 200},
		"identity encoding":    {set("Content-Encoding", "identity"), "MKT.0000", 200},
		"spoofed sandbox host": {func(r *http.Request) { r.Host = "mkt.myhuaweicloud.com" }, "MKT.0000", 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMarket(t, nil)
			r := newRequest(t, m.clock.Now(), bodyOf(t, good("sn")))
			tc.edit(r)
			if got := do(t, m, r); got.Code != tc.code || got.Status != tc.status {
				t.Errorf("answer = %+v, want %d %s", got, tc.status, tc.code)
			}
		})
	}
}

func TestTimestampTolerance(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		off  time.Duration // of the sandbox's clock from ts
		code string
	}{
		"now":             {0, "MKT.0000"},
		"old, at limit":   {time.Minute, "MKT.0000"},
		"old, above":      {time.Minute + 1, "MKT.0102"},
		"ahead, at limit": {-time.Minute, "MKT.0000"},
		"ahead, above":    {-time.Minute - 1, "MKT.0102"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMarket(t, nil)
			r := newRequest(t, start, bodyOf(t, good("sn")))
			m.clock.Add(tc.off)
			if got := do(t, m, r); got.Code != tc.code {
				t.Errorf("answer = %+v, want %s", got, tc.code)
			}
		})
	}
}

func TestNonceReplay(t *testing.T) {
	t.Parallel()
	m := newMarket(t, func(o *sandbox.Options) { o.SellerKeys = map[string]string{"second": "another-demo-key"} })
	body := bodyOf(t, good("sn"))
	again := func(key string, at time.Time, nonce string) *http.Request {
		r := newRequest(t, at, body)
		ts := strconv.FormatInt(at.UnixMilli(), 10)
		r.Header.Set("ts", ts)
		r.Header.Set("nonce", nonce)
		r.Header.Set("signature", sign(key, ts, nonce, body))
		return r
	}
	step := func(name string, r *http.Request, want string) {
		t.Helper()
		if got := do(t, m, r); got.Code != want {
			t.Errorf("%s: %+v, want %s", name, got, want)
		}
	}
	step("first", again(testKey, start, "n"), "MKT.0000")
	step("the same call", again(testKey, start, "n"), "MKT.0102")
	step("same nonce, new ts", again(testKey, start.Add(time.Second), "n"), "MKT.0102")
	step("another seller's nonce", again("another-demo-key", start, "n"), "MKT.0000")
	step("a wrong signature burns no nonce", again("wrong", start, "m"), "MKT.0102")
	step("right now", again(testKey, start, "m"), "MKT.0000")
	m.clock.Add(time.Minute)
	step("last instant of the memory", again(testKey, start, "n"), "MKT.0102")
	m.clock.Add(time.Millisecond)
	step("after it, with a fresh ts", again(testKey, m.clock.Now(), "n"), "MKT.0000")
}

// TestOldAPI checks the AK/SK form.
func TestOldAPI(t *testing.T) {
	t.Parallel()
	record := good("").oldForm()
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	auth := func(old, replacement string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, replacement, 1))
		}
	}
	same := func(*http.Request) {}
	for name, tc := range map[string]struct {
		record fields
		edit   func(*http.Request)
		late   time.Duration
		opts   func(*sandbox.Options)
		code   string
	}{
		"good":                  {record: record, edit: same, code: "MKT.0000"},
		"at the limit":          {record: record, edit: same, late: 15 * time.Minute, code: "MKT.0000"},
		"too late":              {record: record, edit: same, late: 15*time.Minute + 1, code: "MKT.0154"},
		"too early":             {record: record, edit: same, late: -15*time.Minute - 1, code: "MKT.0154"},
		"no product":            {record: record.with("product_id", nil), edit: same, code: "MKT.0101"},
		"empty product":         {record: record.with("product_id", ""), edit: same, code: "MKT.0100"},
		"with sn":               {record: record.with("metering_sn", "sn"), edit: same, code: "MKT.0101"},
		"wrong product":         {record: record, edit: same, opts: strictWith(sandbox.Instance{ID: testInstance, ProductID: "OFFI2"}), code: "MKT.9002"},
		"right product":         {record: record, edit: same, opts: strictWith(sandbox.Instance{ID: testInstance, ProductID: "OFFI1"}), code: "MKT.0000"},
		"no Authorization":      {record: record, edit: set("Authorization", ""), code: "MKT.0154"},
		"another scheme":        {record: record, edit: set("Authorization", "Bearer x"), code: "MKT.0154"},
		"unknown access key":    {record: record, edit: auth(testAK, "AKOTHER"), code: "MKT.0154"},
		"unknown part":          {record: record, edit: auth("Access=", "Acces="), code: "MKT.0154"},
		"part twice":            {record: record, edit: auth("Access=", "Access=a, Access="), code: "MKT.0154"},
		"no signature":          {record: record, edit: auth(", Signature=", ", Signature=, "), code: "MKT.0154"},
		"wrong signature":       {record: record, edit: auth("Signature=", "Signature=0"), code: "MKT.0154"},
		"unsorted names":        {record: record, edit: auth("content-type;host", "host;content-type"), code: "MKT.0154"},
		"upper-case names":      {record: record, edit: auth("content-type", "Content-Type"), code: "MKT.0154"},
		"host not signed":       {record: record, edit: auth("host;", ""), code: "MKT.0154"},
		"date not signed":       {record: record, edit: auth(";x-sdk-date", ""), code: "MKT.0154"},
		"signed header missing": {record: record, edit: auth("x-sdk-date", "x-sdk-date;x-stage"), code: "MKT.0154"},
		"no date":               {record: record, edit: set("X-Sdk-Date", ""), code: "MKT.0154"},
		"date with fraction":    {record: record, edit: set("X-Sdk-Date", "20220809T091000.0Z"), code: "MKT.0154"},
		"other host":            {record: record, edit: func(r *http.Request) { r.Host = "proxy" }, code: "MKT.0154"},
		"other query":           {record: record, edit: func(r *http.Request) { r.URL.RawQuery = "a=b" }, code: "MKT.0154"},
		"foreign hash":          {record: record, edit: set("X-Sdk-Content-Sha256", "UNSIGNED-PAYLOAD"), code: "MKT.0154"},
		"true hash":             {record: record, edit: set("X-Sdk-Content-Sha256", hexSHA(bodyOf(t, record))), code: "MKT.0000"},
		"not a seller": {record: record, edit: same, opts: func(o *sandbox.Options) {
			o.AccessKeySellers = map[string]string{testAK: "guest"}
			o.NotSellers = []string{"guest"}
		}, code: "MKT.0151"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMarket(t, tc.opts)
			r := oldRequest(t, start, bodyOf(t, tc.record))
			tc.edit(r)
			m.clock.Add(tc.late)
			got := do(t, m, r)
			if got.Code != tc.code {
				t.Errorf("answer = %+v, want %s", got, tc.code)
			}
			if strings.Contains(got.Detail+got.Body, testSK) {
				t.Error("the answer holds the secret")
			}
		})
	}
}

func TestSuccessBody(t *testing.T) {
	t.Parallel()
	m := newMarket(t, nil)
	got := m.push(t, good("sn"))
	if want := `{"error_code":"MKT.0000","error_msg":"success"}`; got.Body != want {
		t.Errorf("body = %s, want %s", got.Body, want)
	}
}

func TestOptionsMistakes(t *testing.T) {
	t.Parallel()
	now := (&testClock{at: start}).Now
	for name, tc := range map[string]struct {
		opts sandbox.Options
		want string
	}{
		"no clock":        {sandbox.Options{Key: "k"}, "Now is mandatory"},
		"no key":          {sandbox.Options{Now: now}, "seller key or an access key"},
		"same key":        {sandbox.Options{Now: now, SellerKeys: map[string]string{"a": "k", "b": "k"}}, `"a" and "b" have the same key`},
		"key twice":       {sandbox.Options{Now: now, Key: "k", SellerKeys: map[string]string{"seller": "x"}}, "both Key"},
		"empty secret":    {sandbox.Options{Now: now, AccessKeys: map[string]string{"a": ""}}, "must not be empty"},
		"form":            {sandbox.Options{Now: now, Key: "k", RequireForm: "both"}, "RequireForm"},
		"collection":      {sandbox.Options{Now: now, Key: "k", Collection: "weekly"}, "Collection"},
		"records":         {sandbox.Options{Now: now, Key: "k", MaxRecords: -1}, "MaxRecords"},
		"tolerance":       {sandbox.Options{Now: now, Key: "k", Tolerance: -1}, "tolerance"},
		"fault":           {sandbox.Options{Now: now, Key: "k", Faults: []sandbox.Fault{{Kind: "x"}}}, "kind must be"},
		"instance":        {sandbox.Options{Now: now, Key: "k", Instances: []sandbox.Instance{{ID: "i", State: "x"}}}, "state must be"},
		"instance closed": {sandbox.Options{Now: now, Key: "k", Instances: []sandbox.Instance{{ID: "i", Start: start, ClosedAt: start.Add(-1)}}}, "closed_at"},
		"state path":      {sandbox.Options{Now: now, Key: "k", StateFile: t.TempDir()}, "open state log"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := sandbox.New(tc.opts)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("New() = %v, want an error with %q", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), `"k"`) {
				t.Errorf("the error %v shows a key", err)
			}
		})
	}
}

func TestCallsHoldNoSecrets(t *testing.T) {
	t.Parallel()
	m := newMarket(t, nil)
	r := newRequest(t, start, bodyOf(t, good("sn")))
	signature, nonce := r.Header.Get("signature"), r.Header.Get("nonce")
	do(t, m, r)
	bad := newRequest(t, start, bodyOf(t, good("sn2")))
	bad.Header.Set("signature", "wrong-signature-text")
	do(t, m, bad)
	_, list := m.adminDo(t, http.MethodGet, "/sandbox/v1/requests", "")
	for _, secret := range []string{testKey, testSK, signature, nonce, "wrong-signature-text"} {
		if strings.Contains(list, secret) {
			t.Errorf("the request list holds %q", secret)
		}
	}
	want := []string{"MKT.0102 false 0", "MKT.0000 true 1"}
	var got []string
	for _, c := range m.Calls() {
		got = append(got, fmt.Sprint(c.Code, " ", c.Accepted, " ", c.Records))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestCallListIsBounded(t *testing.T) {
	t.Parallel()
	m := newMarket(t, func(o *sandbox.Options) { o.RequestLog = 3 })
	for i := range 5 {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/p"+strconv.Itoa(i), http.NoBody)
		do(t, m, r)
	}
	var got []string
	for _, c := range m.Calls() {
		got = append(got, c.Path)
	}
	if diff := cmp.Diff([]string{"/p4", "/p3", "/p2"}, got); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}
