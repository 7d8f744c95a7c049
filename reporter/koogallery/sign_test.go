package koogallery_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/koogallery"
)

// Vectors of KooGallery usage push, section 9.2.
const (
	bodyA = `{"usage_records":[{"begin_time":"20220809T080000Z","end_time":"20220809T090000Z","instance_id":"7f141bf1-aec8-4859-8323-fb3a8ad50721","metering_sn":"b1a0d5c2-5a57-4a1f-9d3e-000000000001","record_time":"20220809T091000Z","usage_value":"99"}]}`
	signA = "yPaf6ToCy9T5kC6p/IVZid+5+qhtVNrD93sdWJr0CfY="
	bodyB = `{"usage_records":[{"begin_time":"20220809T080000Z","end_time":"20220809T090000Z","instance_id":"7f141bf1-aec8-4859-8323-fb3a8ad50721","metering_sn":"b1a0d5c2-5a57-4a1f-9d3e-000000000001","record_time":"20220809T091000Z","usage_value":"99"},{"begin_time":"20220809T090000Z","end_time":"20220809T100000Z","instance_id":"7f141bf1-aec8-4859-8323-fb3a8ad50721","metering_sn":"b1a0d5c2-5a57-4a1f-9d3e-000000000002","record_time":"20220809T101000Z","relate_pkg_instance":"0d9c7b7e-2f0b-4c0e-9a3e-1c2d3e4f5a6b","usage_value":"0.1250"}]}`
	signB = "LE457M+MFpTRyIfpZHlhI0uhWFTWe8PiezJ2CDEcjB8="

	unsortedA     = `{"usage_records":[{"instance_id":"7f141bf1-aec8-4859-8323-fb3a8ad50721","record_time":"20220809T091000Z","begin_time":"20220809T080000Z","end_time":"20220809T090000Z","usage_value":"99","metering_sn":"b1a0d5c2-5a57-4a1f-9d3e-000000000001"}]}`
	signUnsortedA = "zZV8kU58FubEpY7kw7h1e8WlLD+pLh4Yr30wd07XKw8="
	signSpacedA   = "bPxvXeGjwiz1dmSurYRSoSXXqUVY+fB1ZqltcNFtWc4="
)

func TestSignVectors(t *testing.T) {
	t.Parallel()
	spaced := strings.NewReplacer(`":`, `": `, `",`, `", `).Replace(bodyA)
	for name, tt := range map[string]struct{ body, want string }{
		"A":                               {bodyA, signA},
		"B":                               {bodyB, signB},
		"A in declaration order differs":  {unsortedA, signUnsortedA},
		"A with spaces differs from both": {spaced, signSpacedA},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := koogallery.Sign(demoKey, strconv.Itoa(demoTS), demoNonce, []byte(tt.body))
			if got != tt.want {
				t.Errorf("Sign = %s, want %s", got, tt.want)
			}
		})
	}
}

func TestEncodeVectorA(t *testing.T) {
	t.Parallel()
	got, err := koogallery.EncodeNew([]reporter.UsageRecord{demoRecord(0, "99")})
	if err != nil || string(got) != bodyA {
		t.Errorf("EncodeNew = %s, %v\nwant %s", got, err, bodyA)
	}
	if len(got) != 241 {
		t.Errorf("length = %d, want 241", len(got))
	}
}

// TestEncodeVectorB goes one level below EncodeNew: the vector writes the quantity 0.1250, and we never write the last 0.
func TestEncodeVectorB(t *testing.T) {
	t.Parallel()
	second := demoRecord(1, "0.1250")
	second.Package = "0d9c7b7e-2f0b-4c0e-9a3e-1c2d3e4f5a6b"
	records := []koogallery.NewRecord{
		koogallery.ToNewRecord(demoRecord(0, "99")), koogallery.ToNewRecord(second),
	}
	if records[1].UsageValue != "0.125" {
		t.Errorf("usage value = %q, want 0.125", records[1].UsageValue)
	}
	records[1].UsageValue = "0.1250"
	got, err := koogallery.Marshal(koogallery.NewBody{UsageRecords: records})
	if err != nil || string(got) != bodyB {
		t.Errorf("Marshal = %s, %v\nwant %s", got, err, bodyB)
	}
}

// TestPushVectorA checks the whole way: what arrives at the server is vector A.
func TestPushVectorA(t *testing.T) {
	t.Parallel()
	m := newMarketplace(t, answerWith(http.StatusOK, success))
	o := options(m.URL)
	o.Now, o.Rand = fixedNow, new(repeat)
	res := newClient(t, o).Push(t.Context(), []reporter.UsageRecord{demoRecord(0, "99")})
	wantClass(t, res, reporter.ClassAccepted)
	got := m.call(0)
	for name, want := range map[string]string{
		"Signature": signA, "Ts": "1709690865879", "Nonce": demoNonce, "Content-Type": "application/json", "Authorization": "",
	} {
		if got.header.Get(name) != want {
			t.Errorf("header %s = %q, want %q", name, got.header.Get(name), want)
		}
	}
	if string(got.body) != bodyA {
		t.Errorf("body = %s", got.body)
	}
	if got.path != "/api/mkp-openapi-public/global/v1/isv/usage-data" {
		t.Errorf("path = %s", got.path)
	}
	if sum := sha256.Sum256([]byte(bodyA)); res.RequestHash != hex.EncodeToString(sum[:]) {
		t.Errorf("request hash = %s", res.RequestHash)
	}
}

func TestNonceFailure(t *testing.T) {
	t.Parallel()
	m := newMarketplace(t, answerWith(http.StatusOK, success))
	o := options(m.URL)
	o.Rand = iotest.ErrReader(errors.New("no entropy"))
	res := newClient(t, o).Push(t.Context(), demoBatch(1))
	wantClass(t, res, reporter.ClassUnavailable)
	wantMessage(t, res, "not sent", "no entropy")
	if m.count.Load() != 0 {
		t.Error("a request was sent without a nonce")
	}
}

func TestNonceIsFresh(t *testing.T) {
	t.Parallel()
	m := newMarketplace(t, answerWith(http.StatusInternalServerError, `{"error_code":"MKT.0999"}`))
	c := newClient(t, options(m.URL))
	for range 2 {
		wantClass(t, c.Push(t.Context(), demoBatch(3)), reporter.ClassUnavailable)
	}
	first, second := m.call(0), m.call(1)
	if !bytes.Equal(first.body, second.body) {
		t.Errorf("the retry carries other bytes:\n%s\n%s", first.body, second.body)
	}
	for _, name := range []string{"Nonce", "Signature"} {
		if first.header.Get(name) == second.header.Get(name) {
			t.Errorf("header %s is the same on the retry", name)
		}
	}
}

// Vector 1 of section 9.3: the marketplace's own signing guide; it gives the hash of the canonical request.
func TestSDKCanonicalRequestVector1(t *testing.T) {
	t.Parallel()
	req := newRequest(t, http.MethodGet, "https://service.region.example.com/v1/77b6a44cba5143ab91d13ab9a8ff44fd/vpcs"+
		"?limit=2&marker=13551d6b-755d-4757-b956-536f674975c0")
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Sdk-Date", "20191115T033655Z")
	canonical, _, err := koogallery.Canonical(req, nil)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(canonical))
	if got := hex.EncodeToString(sum[:]); got != "b25362e603ee30f4f25e7858e8a7160fd36e803bb2dfe206278659d71a9bcd7a" {
		t.Errorf("hash of the canonical request = %s\n%s", got, canonical)
	}
}

// Vectors 2 and 3 of section 9.3.
func TestSDKSignVectors(t *testing.T) {
	t.Parallel()
	const bodyOld = `{"usage_records":[{"instance_id":"7f141bf1-aec8-4859-8323-fb3a8ad50721","product_id":"OFFI000000000000000001","record_time":"20220809T091000Z","begin_time":"20220809T080000Z","end_time":"20220809T090000Z","usage_value":"99"}]}`
	for name, tt := range map[string]struct {
		url, ak, body, date, want string
		sk                        koogallery.Secret
		header                    map[string]string
	}{
		"2": {
			url: "https://mkt.myhuaweicloud.com/api/mkp-openapi-public/global/v1/license/activate",
			ak:  "test", sk: "123", date: "20240317T144237Z", header: map[string]string{"x-stage": "RELEASE"},
			want: "SDK-HMAC-SHA256 Access=test, SignedHeaders=content-type;host;x-sdk-date;x-stage, " +
				"Signature=77595ad624b6e4e49990b8c4e84bf1c287457fca61069c4e60b9b6765b52053d",
		},
		"3": {
			url: "https://mkt.myhuaweicloud.com/rest/marketplace/v1/isv/usage-data",
			ak:  demoAK, sk: demoSK, body: bodyOld, date: "20240306T020745Z",
			want: "SDK-HMAC-SHA256 Access=AKDEMO0000000000000A, SignedHeaders=content-type;host;x-sdk-date, " +
				"Signature=4a1394f77f7f4dde114d51dff8cdf31574b9116cfd3af8179f847fe75a19343c",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at, err := time.Parse("20060102T150405Z", tt.date)
			if err != nil {
				t.Fatal(err)
			}
			req := newRequest(t, http.MethodPost, tt.url)
			req.Header.Set("Content-Type", "application/json")
			for k, v := range tt.header {
				req.Header.Set(k, v)
			}
			if err := koogallery.NewSDKSigner(tt.ak, tt.sk).SignRequest(req, []byte(tt.body), at); err != nil {
				t.Fatal(err)
			}
			if got := req.Header.Get("Authorization"); got != tt.want {
				t.Errorf("Authorization = %s\nwant %s", got, tt.want)
			}
			if got := req.Header.Get("X-Sdk-Date"); got != tt.date {
				t.Errorf("X-Sdk-Date = %s, want %s", got, tt.date)
			}
		})
	}
	got, err := koogallery.EncodeOld([]reporter.UsageRecord{demoRecord(0, "99")})
	if err != nil || string(got) != bodyOld {
		t.Errorf("EncodeOld = %s, %v\nwant %s", got, err, bodyOld)
	}
}

func TestSDKQuery(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ raw, want string }{
		"none":               {"", ""},
		"names keep case":    {"orderId=1&Limit=2", "Limit=2&orderId=1"},
		"sorted by value":    {"a=2&a=1&b", "a=1&a=2&b="},
		"encoded by rfc3986": {"q=a+b%2Fc~*", "q=a%20b%2Fc~%2A"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := koogallery.SDKQuery(tt.raw)
			if err != nil || got != tt.want {
				t.Errorf("query(%q) = %q, %v, want %q", tt.raw, got, err, tt.want)
			}
		})
	}
	if _, err := koogallery.SDKQuery("a=%zz"); err == nil {
		t.Error("a broken query was signed")
	}
}

func TestSDKSignerZeroValue(t *testing.T) {
	t.Parallel()
	var s koogallery.SDKSigner
	if err := s.SignRequest(newRequest(t, http.MethodGet, "https://example.com/"), nil, fixedNow()); err == nil {
		t.Error("SignRequest without a key succeeded")
	}
}

// TestSDKSignRepeats signs one request twice: the second signature must not cover the first.
func TestSDKSignRepeats(t *testing.T) {
	t.Parallel()
	s := koogallery.NewSDKSigner(demoAK, demoSK)
	req := newRequest(t, http.MethodGet, "https://example.com/a/b%20c")
	var got [2]string
	for i := range got {
		if err := s.SignRequest(req, nil, fixedNow()); err != nil {
			t.Fatal(err)
		}
		got[i] = req.Header.Get("Authorization")
	}
	if got[0] != got[1] {
		t.Errorf("signatures differ: %s, %s", got[0], got[1])
	}
}

func newRequest(t *testing.T, method, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func ExampleSign() {
	body := []byte(`{"usage_records":[{"begin_time":"20220809T080000Z","end_time":"20220809T090000Z",` +
		`"instance_id":"7f141bf1-aec8-4859-8323-fb3a8ad50721","metering_sn":"b1a0d5c2-5a57-4a1f-9d3e-000000000001",` +
		`"record_time":"20220809T091000Z","usage_value":"99"}]}`)
	key := koogallery.Secret("koo-demo-key-0001")
	fmt.Println(koogallery.Sign(key, "1709690865879", "6c63c221-1f6b-4141-8ff4-22f5dfe82b65", body))
	fmt.Println(key)
	// Output:
	// yPaf6ToCy9T5kC6p/IVZid+5+qhtVNrD93sdWJr0CfY=
	// <secret>
}
