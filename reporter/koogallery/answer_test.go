package koogallery_test

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/koogallery"
)

// TestPushAnswers is the whole table of KooGallery usage push, section 1.5, over HTTP, and what may come instead.
func TestPushAnswers(t *testing.T) {
	t.Parallel()
	code := func(c string) string { return `{"error_code":"` + c + `","error_msg":"text"}` }
	for name, tt := range map[string]struct {
		status int
		body   string
		want   reporter.Class
		single bool // with a batch of one record
	}{
		"success":                 {200, code("MKT.0000"), reporter.ClassAccepted, false},
		"success, other prefix":   {200, code("CBC.0000"), reporter.ClassAccepted, false},
		"success, more members":   {200, `{"x":[1,{"error_code":"MKT.0999"}],"error_code":"MKT.0000"}`, reporter.ClassAccepted, false},
		"success, 201":            {201, code("MKT.0000"), reporter.ClassAccepted, false},
		"internal":                {500, code("MKT.0999"), reporter.ClassUnavailable, false},
		"bad input":               {500, code("MKT.0100"), reporter.ClassRecordBad, false},
		"bad parameter":           {400, code("MKT.0101"), reporter.ClassRecordBad, false},
		"signature":               {400, code("MKT.0102"), reporter.ClassMisconfigured, false},
		"request error":           {400, code("MKT.0199"), reporter.ClassRecordBad, false},
		"not ours":                {401, code("MKT.0150"), reporter.ClassRecordBad, false},
		"no authority":            {401, code("MKT.0151"), reporter.ClassMisconfigured, false},
		"illegal token":           {401, code("MKT.0154"), reporter.ClassMisconfigured, false},
		"unknown instance":        {500, code("MKT.9001"), reporter.ClassRecordBad, false},
		"invalid entry":           {500, code("MKT.9002"), reporter.ClassRecordBad, false},
		"too many":                {500, code("MKT.9003"), reporter.ClassBatchTooLarge, false},
		"too many, of one":        {500, code("MKT.9003"), reporter.ClassUnavailable, true},
		"too old":                 {500, code("MKT.9004"), reporter.ClassRecordExpired, false},
		"throttled":               {406, code("MKT.0250"), reporter.ClassUnavailable, false},
		"other prefix, permanent": {500, code("CBC.9001"), reporter.ClassRecordBad, false},
		"permanent with 200":      {200, code("MKT.9001"), reporter.ClassRecordBad, false},
		"code as a number":        {500, `{"error_code":9001}`, reporter.ClassUnavailable, false},

		"gateway throttles":        {429, code("APIGW.0308"), reporter.ClassUnavailable, false},
		"gateway, 404":             {404, code("APIGW.0101"), reporter.ClassMisconfigured, false},
		"gateway, 401":             {401, code("APIGW.0301"), reporter.ClassMisconfigured, false},
		"gateway, 500":             {500, code("APIGW.0106"), reporter.ClassUnavailable, false},
		"gateway, backend timeout": {504, code("APIGW.0203"), reporter.ClassUnknown, false},
		"gateway, 413":             {413, code("APIGW.0201"), reporter.ClassBatchTooLarge, false},
		"gateway, 413 of one":      {413, "too large", reporter.ClassUnavailable, true},
		"gateway success is none":  {200, code("APIGW.0000"), reporter.ClassUnknown, false},

		"unlisted code, 500":            {500, code("MKT.0777"), reporter.ClassUnavailable, false},
		"unlisted code, 400":            {400, code("MKT.0777"), reporter.ClassMisconfigured, false},
		"unlisted code, 200":            {200, code("MKT.0777"), reporter.ClassUnknown, false},
		"no prefix":                     {200, code("0000"), reporter.ClassUnknown, false},
		"longer than success":           {200, code("MKT.00000"), reporter.ClassUnknown, false},
		"lower case":                    {200, code("mkt.0000"), reporter.ClassUnknown, false},
		"success with 500":              {500, code("MKT.0000"), reporter.ClassUnknown, false},
		"success with 302":              {302, code("MKT.0000"), reporter.ClassUnknown, false},
		"200, empty":                    {200, "", reporter.ClassUnknown, false},
		"200, empty object":             {200, "{}", reporter.ClassUnknown, false},
		"200, null code":                {200, `{"error_code":null}`, reporter.ClassUnknown, false},
		"200, page":                     {200, "<html>MKT.0000</html>", reporter.ClassUnknown, false},
		"200, name in capitals":         {200, `{"Error_Code":"MKT.0000"}`, reporter.ClassUnknown, false},
		"200, two codes":                {200, `{"error_code":"MKT.9001","error_code":"MKT.0000"}`, reporter.ClassUnknown, false},
		"200, two values":               {200, code("MKT.0000") + code("MKT.0000"), reporter.ClassUnknown, false},
		"200, cut":                      {200, `{"error_code":"MKT.0000"`, reporter.ClassUnknown, false},
		"200, nested code":              {200, `{"data":{"error_code":"MKT.0000"}}`, reporter.ClassUnknown, false},
		"200, array":                    {200, `["MKT.0000"]`, reporter.ClassUnknown, false},
		"204":                           {204, "", reporter.ClassUnknown, false},
		"400, cut":                      {400, `{"error_code":"MK`, reporter.ClassUnknown, false},
		"500, cut":                      {500, `{"error_code":"MK`, reporter.ClassUnknown, false},
		"500, empty":                    {500, "", reporter.ClassUnavailable, false},
		"500, page":                     {500, "<html>", reporter.ClassUnavailable, false},
		"502, page":                     {502, "<html>", reporter.ClassUnknown, false},
		"503, page":                     {503, "<html>", reporter.ClassUnavailable, false},
		"504, page":                     {504, "<html>", reporter.ClassUnknown, false},
		"403, page":                     {403, "<html>", reporter.ClassMisconfigured, false},
		"406, page":                     {406, "slow down", reporter.ClassUnavailable, false},
		"408":                           {408, "", reporter.ClassUnavailable, false},
		"429, page":                     {429, "slow down", reporter.ClassUnavailable, false},
		"success cut by the page after": {200, success + "<html>", reporter.ClassUnknown, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMarketplace(t, answerWith(tt.status, tt.body))
			n := 2
			if tt.single {
				n = 1
			}
			res := newClient(t, options(m.URL)).Push(t.Context(), demoBatch(n))
			wantClass(t, res, tt.want)
			if res.Status != tt.status {
				t.Errorf("status = %d, want %d", res.Status, tt.status)
			}
			if res.Endpoint != strings.TrimPrefix(m.URL, "http://") {
				t.Errorf("endpoint = %q", res.Endpoint)
			}
			if res.Class != reporter.ClassAccepted && res.Message == "" {
				t.Error("no message")
			}
			var want struct {
				Code string `json:"error_code"`
			}
			if json.Unmarshal([]byte(tt.body), &want) == nil && res.Code != want.Code && !strings.HasPrefix(name, "200, ") {
				t.Errorf("code = %q, want %q", res.Code, want.Code)
			}
			calls := int64(1)
			if strings.HasSuffix(want.Code, ".0102") {
				calls = 2
			}
			if m.count.Load() != calls {
				t.Errorf("calls = %d, want %d", m.count.Load(), calls)
			}
		})
	}
}

// TestOldPushAnswers: a refused signature is not repeated, there is no ts to renew.
func TestOldPushAnswers(t *testing.T) {
	t.Parallel()
	m := newMarketplace(t, answerWith(400, `{"error_code":"MKT.0102","error_msg":"Invalid body sign"}`))
	o := options(m.URL)
	o.API, o.AccessKey, o.SecretKey, o.SellerKey = koogallery.APIOld, demoAK, demoSK, ""
	res := newClient(t, o).Push(t.Context(), demoBatch(2))
	wantClass(t, res, reporter.ClassMisconfigured)
	if got := m.count.Load(); got != 1 {
		t.Errorf("calls = %d, want 1", got)
	}
	c := m.call(0)
	if c.path != "/rest/marketplace/v1/isv/usage-data" || c.header.Get("Signature") != "" ||
		!strings.HasPrefix(c.header.Get("Authorization"), "SDK-HMAC-SHA256 Access="+demoAK+", SignedHeaders=content-type;host;x-sdk-date, ") {
		t.Errorf("path %s, header %v", c.path, c.header)
	}
	if strings.Contains(string(c.body), "metering_sn") {
		t.Errorf("body of the old API holds a number: %s", c.body)
	}
}

// TestResign: a clock that is off is corrected by the marketplace's own, once.
func TestResign(t *testing.T) {
	t.Parallel()
	server := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	strict := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", server.Format(http.TimeFormat))
		ms, err := strconv.ParseInt(r.Header.Get("Ts"), 10, 64)
		if err != nil || time.UnixMilli(ms).Sub(server).Abs() > time.Minute {
			answerWith(400, `{"error_code":"MKT.0102","error_msg":"Invalid body sign"}`)(w, r)
			return
		}
		answerWith(200, success)(w, r)
	}
	for name, tt := range map[string]struct {
		ahead   time.Duration // of our clock
		class   reporter.Class
		calls   int64
		message []string
	}{
		"right":       {0, reporter.ClassAccepted, 1, []string{"success"}},
		"two behind":  {-2 * time.Hour, reporter.ClassAccepted, 2, []string{"our clock is 2h0m0s behind the marketplace's", "success"}},
		"days before": {72 * time.Hour, reporter.ClassAccepted, 2, []string{"our clock is 72h0m0s ahead of the marketplace's"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMarketplace(t, strict)
			o := options(m.URL)
			o.Now = func() time.Time { return server.Add(tt.ahead) }
			res := newClient(t, o).Push(t.Context(), demoBatch(2))
			wantClass(t, res, tt.class)
			wantMessage(t, res, tt.message...)
			if m.count.Load() != tt.calls {
				t.Errorf("calls = %d, want %d", m.count.Load(), tt.calls)
			}
		})
	}
	t.Run("wrong key", func(t *testing.T) {
		t.Parallel()
		m := newMarketplace(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", server.Format(http.TimeFormat))
			answerWith(400, `{"error_code":"MKT.0102","error_msg":"Invalid body sign"}`)(w, r)
		})
		o := options(m.URL)
		o.Now = func() time.Time { return server.Add(time.Minute) }
		res := newClient(t, o).Push(t.Context(), demoBatch(2))
		wantClass(t, res, reporter.ClassMisconfigured)
		wantMessage(t, res, "check that the seller key", "our clock is 1m0s ahead", "Invalid body sign")
		if m.call(0).header.Get("Ts") == m.call(1).header.Get("Ts") {
			t.Error("the second call has the first one's ts")
		}
		if string(m.call(0).body) != string(m.call(1).body) {
			t.Error("the second call has other bytes")
		}
	})
	t.Run("second answer counts", func(t *testing.T) {
		t.Parallel()
		var m *marketplace
		m = newMarketplace(t, func(w http.ResponseWriter, r *http.Request) {
			if m.count.Load() == 1 {
				answerWith(400, `{"error_code":"MKT.0102"}`)(w, r)
				return
			}
			panic(http.ErrAbortHandler)
		})
		wantClass(t, newClient(t, options(m.URL)).Push(t.Context(), demoBatch(2)), reporter.ClassUnknown)
	})
}

func TestAbnormalUsageData(t *testing.T) {
	t.Parallel()
	batch := demoBatch(4)
	sn := func(i int) string { return string(batch[i].SN) }
	for name, tt := range map[string]struct {
		body   string
		want   map[reporter.MeteringSN]reporter.Refusal
		strays int
	}{
		"none":       {`{"error_code":"MKT.0000"}`, nil, 0},
		"empty list": {`{"error_code":"MKT.0000","abnormal_usage_data":[]}`, nil, 0},
		"null":       {`{"error_code":"MKT.0000","abnormal_usage_data":null}`, nil, 0},
		"by number": {
			`{"abnormal_usage_data":[{"metering_sn":"` + sn(1) + `","error_code":"010","error_msg":"SDR duplicated"}]}`,
			map[reporter.MeteringSN]reporter.Refusal{
				batch[1].SN: {
					Code: "010", Message: "SDR duplicated", Duplicate: true,
					Raw: `{"metering_sn":"` + sn(1) + `","error_code":"010","error_msg":"SDR duplicated"}`,
				},
			},
			0,
		},
		"duplicate as a number": {
			`{"abnormal_usage_data":[{"metering_sn":"` + sn(1) + `","code":5}]}`,
			map[reporter.MeteringSN]reporter.Refusal{
				batch[1].SN: {Code: "5", Duplicate: true, Raw: `{"metering_sn":"` + sn(1) + `","code":5}`},
			},
			0,
		},
		"by window, inside an object": {
			`{"abnormal_usage_data_info":{"abnormal_usage_data":[{"instance_id":"` + demoInstance +
				`","begin_time":"20220809T100000Z","end_time":"20220809T110000Z","code":7}]}}`,
			map[reporter.MeteringSN]reporter.Refusal{batch[2].SN: {
				Code: "7", Raw: `{"instance_id":"` + demoInstance + `","begin_time":"20220809T100000Z","end_time":"20220809T110000Z","code":7}`,
			}},
			0,
		},
		"record inside the entry": {
			`{"abnormal_usage_data":[{"usage_data":{"metering_sn":"` + sn(0) + `"},"error_code":"001","reason":"a\nb"}]}`,
			map[reporter.MeteringSN]reporter.Refusal{batch[0].SN: {
				Code: "001", Message: "a b",
				Raw: `{"usage_data":{"metering_sn":"` + sn(0) + `"},"error_code":"001","reason":"a\nb"}`,
			}},
			0,
		},
		"strays": {
			`{"abnormal_usage_data":[{"metering_sn":"other","error_code":"001"},"text",{},{"metering_sn":"` + sn(3) + `"}]}`,
			map[reporter.MeteringSN]reporter.Refusal{batch[3].SN: {Raw: `{"metering_sn":"` + sn(3) + `"}`}},
			3,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refused, strays, err := koogallery.Refusals([]byte(tt.body), batch)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, refused); diff != "" || strays != tt.strays {
				t.Errorf("refused (-want +got):\n%s\nstrays = %d, want %d", diff, strays, tt.strays)
			}
		})
	}
}

// TestAbnormalUsageData_OneRecord: what is said of a single record is said of it, even without a name or with a mangled number.
func TestAbnormalUsageData_OneRecord(t *testing.T) {
	t.Parallel()
	batch := demoBatch(1)
	window := `"instance_id":"` + batch[0].InstanceID + `","begin_time":"` + batch[0].Window.Start.Format("20060102T150405Z") +
		`","end_time":"` + batch[0].Window.End.Format("20060102T150405Z") + `"`
	for name, tt := range map[string]struct {
		entry string
		mine  bool
	}{
		"names nothing":      {`{"error_code":"009"}`, true},
		"only its window":    {`{` + window + `,"error_code":"009"}`, true},
		"a mangled number":   {`{"metering_sn":"` + strings.ToUpper(string(batch[0].SN)) + `x",` + window + `,"error_code":"009"}`, true},
		"another's number":   {`{"metering_sn":"other","error_code":"009"}`, false},
		"another's instance": {`{"instance_id":"other","error_code":"009"}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refused, strays, err := koogallery.Refusals([]byte(`{"error_code":"MKT.0000","abnormal_usage_data":[`+tt.entry+`]}`), batch)
			if err != nil || (refused[batch[0].SN].Code == "009") != tt.mine || (strays == 1) == tt.mine {
				t.Errorf("refused = %v, strays = %d, %v", refused, strays, err)
			}
		})
	}
}

// TestPushRefused: what the marketplace says about single records arrives in the result, as it came.
func TestPushRefused(t *testing.T) {
	t.Parallel()
	batch := demoBatch(3)
	list := `,"abnormal_usage_data":[{"metering_sn":"` + string(batch[1].SN) + `","error_code":"009"},{"metering_sn":"x"}]}`
	m := newMarketplace(t, answerWith(200, `{"error_code":"MKT.0000","error_msg":"success"`+list))
	res := newClient(t, options(m.URL)).Push(t.Context(), batch)
	wantClass(t, res, reporter.ClassAccepted)
	wantMessage(t, res, "success (1 abnormal entries name no record of this batch, the first: {\"metering_sn\":\"x\"})")
	want := map[reporter.MeteringSN]reporter.Refusal{
		batch[1].SN: {Code: "009", Raw: `{"metering_sn":"` + string(batch[1].SN) + `","error_code":"009"}`},
	}
	if diff := cmp.Diff(want, res.Refused); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
	m = newMarketplace(t, answerWith(500, `{"error_code":"MKT.9002","error_msg":"bad"`+list))
	res = newClient(t, options(m.URL)).Push(t.Context(), batch)
	wantClass(t, res, reporter.ClassRecordBad)
	wantMessage(t, res, "bad (lists 2 abnormal records)")
	if diff := cmp.Diff(want, res.Refused); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
}

// TestRawEntryIsBoundedAndSafe: an entry is kept as it came, but no longer than a screen, as valid text and without our key.
func TestRawEntryIsBoundedAndSafe(t *testing.T) {
	t.Parallel()
	batch := demoBatch(1)
	entry := `{"metering_sn":"` + string(batch[0].SN) + `","echo":"` + demoKey + `","note":"` + strings.Repeat("店", 2000) + `"}`
	m := newMarketplace(t, answerWith(200, `{"error_code":"MKT.0000","abnormal_usage_data":[`+entry+`]}`))
	raw := newClient(t, options(m.URL)).Push(t.Context(), batch).Refused[batch[0].SN].Raw
	if len(raw) > 2048+len("<secret>") || !utf8.ValidString(raw) || !strings.HasSuffix(raw, "…") {
		t.Errorf("raw has %d bytes and ends in %q, want at most 2 KiB of text that end in …", len(raw), raw[max(0, len(raw)-10):])
	}
	if strings.Contains(raw, demoKey) {
		t.Errorf("raw shows the key: %s", raw)
	}
}

func TestMessageIsClean(t *testing.T) {
	t.Parallel()
	long, err := json.Marshal(map[string]string{
		"error_code": "MKT.9001", "error_msg": "a\x00\x1b[31m\r\nb" + strings.Repeat("店", 1000),
	})
	if err != nil {
		t.Fatal(err)
	}
	m := newMarketplace(t, answerWith(500, string(long)))
	res := newClient(t, options(m.URL)).Push(t.Context(), demoBatch(2))
	wantMessage(t, res, "a  [31m  b店店")
	if n := len([]rune(res.Message)); n > koogallery.MaxMessage {
		t.Errorf("message of %d characters", n)
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	behind := koogallery.OffsetFrom(now.Add(time.Hour).Format(http.TimeFormat), now, now)
	for name, tt := range map[string]struct {
		value string
		want  time.Duration
	}{
		"none": {"", 0}, "seconds": {"17", 17 * time.Second}, "zero": {"0", 0}, "negative": {"-5", 0},
		"fraction": {"1.5", 0}, "days": {"999999", time.Hour}, "overflow": {"99999999999999999999", 0},
		"date":     {now.Add(time.Hour + 90*time.Second).Format(http.TimeFormat), 90 * time.Second},
		"past":     {now.Format(http.TimeFormat), 0},
		"far date": {now.AddDate(1, 0, 0).Format(http.TimeFormat), time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := koogallery.RetryAfter(tt.value, behind, now); got != tt.want {
				t.Errorf("retryAfter(%q) = %s, want %s", tt.value, got, tt.want)
			}
		})
	}
	m := newMarketplace(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "42")
		answerWith(429, "")(w, r)
	})
	if res := newClient(t, options(m.URL)).Push(t.Context(), demoBatch(1)); res.RetryAfter != 42*time.Second {
		t.Errorf("RetryAfter = %s, want 42s", res.RetryAfter)
	}
}

// FuzzParseAnswer: no answer panics, and none is a success that doesn't say so in its own code.
func FuzzParseAnswer(f *testing.F) {
	for _, seed := range []string{
		success, `{"error_code":"CBC.9001"}`, `{"error_code":1,"error_code":2}`, "", "null", "[]", `{"a":{"b":[[[]]]}}`,
		`{"abnormal_usage_data":[{"metering_sn":"b1a0d5c2-5a57-4a1f-9d3e-000000000001","x":{"error_code":"1"}}]}`,
		`{"error_code":"MKT.0000"`, "\xff\xfe", `{"Error_code":"MKT.0000"}`, "{\"error_code\":\"MKT.0000\\u0000\"}",
	} {
		f.Add(seed)
	}
	batch := demoBatch(2)
	f.Fuzz(func(t *testing.T, body string) {
		code, _, abnormal, err := koogallery.ParseAnswer([]byte(body))
		if err == nil && !json.Valid([]byte(body)) {
			t.Errorf("%q is not JSON and was taken", body)
		}
		if err == nil && koogallery.Classify(200, code, 2) == reporter.ClassAccepted &&
			code != "MKT.0000" && code != "CBC.0000" {
			t.Errorf("%q is a success by code %q", body, code)
		}
		refused, strays, err2 := koogallery.Refusals([]byte(body), batch)
		if (err == nil) != (err2 == nil) || len(refused)+strays > abnormal {
			t.Errorf("%q: refused %v, strays %d of %d, %v, %v", body, refused, strays, abnormal, err, err2)
		}
	})
}
