package sandbox_test

import (
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/meterd/meterd/internal/sandbox"
)

// The vectors of KooGallery usage push, section 9.2.
const (
	vectorTS    = "1709690865879"
	vectorNonce = "6c63c221-1f6b-4141-8ff4-22f5dfe82b65"
	vectorABody = `{"usage_records":[{"begin_time":"20220809T080000Z","end_time":"20220809T090000Z","instance_id":"7f141bf1-aec8-4859-8323-fb3a8ad50721","metering_sn":"b1a0d5c2-5a57-4a1f-9d3e-000000000001","record_time":"20220809T091000Z","usage_value":"99"}]}`
	vectorBBody = `{"usage_records":[{"begin_time":"20220809T080000Z","end_time":"20220809T090000Z","instance_id":"7f141bf1-aec8-4859-8323-fb3a8ad50721","metering_sn":"b1a0d5c2-5a57-4a1f-9d3e-000000000001","record_time":"20220809T091000Z","usage_value":"99"},{"begin_time":"20220809T090000Z","end_time":"20220809T100000Z","instance_id":"7f141bf1-aec8-4859-8323-fb3a8ad50721","metering_sn":"b1a0d5c2-5a57-4a1f-9d3e-000000000002","record_time":"20220809T101000Z","relate_pkg_instance":"0d9c7b7e-2f0b-4c0e-9a3e-1c2d3e4f5a6b","usage_value":"0.1250"}]}`
	vectorASig  = "yPaf6ToCy9T5kC6p/IVZid+5+qhtVNrD93sdWJr0CfY="
	vectorBSig  = "LE457M+MFpTRyIfpZHlhI0uhWFTWe8PiezJ2CDEcjB8="

	vectorDeclared = `{"usage_records":[{"instance_id":"7f141bf1-aec8-4859-8323-fb3a8ad50721","record_time":"20220809T091000Z","begin_time":"20220809T080000Z","end_time":"20220809T090000Z","usage_value":"99","metering_sn":"b1a0d5c2-5a57-4a1f-9d3e-000000000001"}]}`
	declaredSig    = "zZV8kU58FubEpY7kw7h1e8WlLD+pLh4Yr30wd07XKw8="
	spacedSig      = "bPxvXeGjwiz1dmSurYRSoSXXqUVY+fB1ZqltcNFtWc4="
)

func TestBodySignatureVectors(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ body, hex, signature string }{
		"A":                 {vectorABody, "c8f69fe93a02cbd4f9902ea9fc855989dfb9faa86d54dac3f77b1d589af409f6", vectorASig},
		"B":                 {vectorBBody, "2c4e39eccf8c1694d1c887e9647961234ba15854d67bc3e27b327608311c8c1f", vectorBSig},
		"declaration order": {vectorDeclared, "", declaredSig},
		"with spaces":       {strings.ReplaceAll(strings.ReplaceAll(vectorABody, `":`, `": `), `",`, `", `), "", spacedSig},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := sandbox.BodyMACHex(testKey, vectorTS, vectorNonce, tc.body)
			if tc.hex != "" && got != tc.hex {
				t.Errorf("HMAC = %s, want %s", got, tc.hex)
			}
			raw, err := hex.DecodeString(got)
			if err != nil {
				t.Fatal(err)
			}
			if sig := base64.StdEncoding.EncodeToString(raw); sig != tc.signature {
				t.Errorf("signature = %s, want %s", sig, tc.signature)
			}
		})
	}
}

// TestSignatureForms sends bodies with the vectors' signatures at the vectors' time. The window is long past then, so
// a call whose signature passes gets MKT.9004.
func TestSignatureForms(t *testing.T) {
	t.Parallel()
	spaced := strings.ReplaceAll(vectorABody, `,"`, `, "`)
	for name, tc := range map[string]struct {
		body, signature string
		demand          sandbox.SignatureForm
		want            string
		form            sandbox.SignatureForm
	}{
		"A":                                {vectorABody, vectorASig, "", sandbox.CodeBeginTooOld, sandbox.FormBoth},
		"B":                                {vectorBBody, vectorBSig, "", sandbox.CodeBeginTooOld, sandbox.FormBoth},
		"B's signature on A":               {vectorABody, vectorBSig, "", sandbox.CodeBadSign, ""},
		"unsorted, signed as sent":         {vectorDeclared, declaredSig, "", sandbox.CodeBeginTooOld, sandbox.FormRaw},
		"unsorted, signed sorted":          {vectorDeclared, vectorASig, "", sandbox.CodeBeginTooOld, sandbox.FormSorted},
		"spaced, signed sorted":            {spaced, vectorASig, "", sandbox.CodeBeginTooOld, sandbox.FormSorted},
		"sorted, signed unsorted":          {vectorABody, declaredSig, "", sandbox.CodeBadSign, ""},
		"sorted, signed spaced":            {vectorABody, spacedSig, "", sandbox.CodeBadSign, ""},
		"sorted demanded, both":            {vectorABody, vectorASig, sandbox.FormSorted, sandbox.CodeBeginTooOld, sandbox.FormBoth},
		"sorted demanded, raw":             {vectorDeclared, declaredSig, sandbox.FormSorted, sandbox.CodeBadSign, ""},
		"raw demanded, sorted":             {vectorDeclared, vectorASig, sandbox.FormRaw, sandbox.CodeBadSign, ""},
		"raw demanded, raw":                {vectorDeclared, declaredSig, sandbox.FormRaw, sandbox.CodeBeginTooOld, sandbox.FormRaw},
		"hex instead of Base64":            {vectorABody, "c8f69fe93a02cbd4f9902ea9fc855989dfb9faa86d54dac3f77b1d589af409f6", "", sandbox.CodeBadSign, ""},
		"Base64 without padding":           {vectorABody, strings.TrimSuffix(vectorASig, "="), "", sandbox.CodeBadSign, ""},
		"URL-safe Base64":                  {vectorABody, strings.NewReplacer("/", "_", "+", "-").Replace(vectorASig), "", sandbox.CodeBadSign, ""},
		"one changed byte":                 {strings.Replace(vectorABody, `"99"`, `"98"`, 1), vectorASig, "", sandbox.CodeBadSign, ""},
		"a newline behind, signed without": {vectorABody + "\n", vectorASig, "", sandbox.CodeBeginTooOld, sandbox.FormSorted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMarket(t, func(o *sandbox.Options) { o.RequireForm = tc.demand })
			m.clock.Set(time.UnixMilli(1709690865879))
			r := newRequest(t, m.clock.Now(), tc.body)
			r.Header.Set("ts", vectorTS)
			r.Header.Set("nonce", vectorNonce)
			r.Header.Set("signature", tc.signature)
			if got := do(t, m, r); got.Code != tc.want {
				t.Errorf("answer = %+v, want %s", got, tc.want)
			}
			if form := m.Calls()[0].Form; form != tc.form {
				t.Errorf("form = %q, want %q", form, tc.form)
			}
		})
	}
}

// The vectors of KooGallery usage push, section 9.3.
func TestAKSKVectors(t *testing.T) {
	t.Parallel()
	const emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	oldBody := `{"usage_records":[{"instance_id":"7f141bf1-aec8-4859-8323-fb3a8ad50721","product_id":"OFFI000000000000000001","record_time":"20220809T091000Z","begin_time":"20220809T080000Z","end_time":"20220809T090000Z","usage_value":"99"}]}`
	for name, tc := range map[string]struct {
		method, target, bodyHash, secret string
		headers                          map[string]string
		signed                           string
		wantHash, wantSignature          string
	}{
		"1 signing guide": {
			method: http.MethodGet, target: "https://service.region.example.com/v1/77b6a44cba5143ab91d13ab9a8ff44fd/vpcs?limit=2&marker=13551d6b-755d-4757-b956-536f674975c0",
			bodyHash: emptyHash,
			headers:  map[string]string{"Content-Type": "application/json", "X-Sdk-Date": "20191115T033655Z"},
			signed:   "content-type;host;x-sdk-date",
			wantHash: "b25362e603ee30f4f25e7858e8a7160fd36e803bb2dfe206278659d71a9bcd7a",
		},
		"2 license call": {
			method: http.MethodPost, target: "https://mkt.myhuaweicloud.com/api/mkp-openapi-public/global/v1/license/activate",
			bodyHash: emptyHash, secret: "123",
			headers:       map[string]string{"Content-Type": "application/json", "X-Sdk-Date": "20240317T144237Z", "X-Stage": "RELEASE"},
			signed:        "content-type;host;x-sdk-date;x-stage",
			wantHash:      "9a33b07351104f6c775075faa7dc0db58ec18bc532feaa8fd0b8fcf7990b1a9e",
			wantSignature: "77595ad624b6e4e49990b8c4e84bf1c287457fca61069c4e60b9b6765b52053d",
		},
		"3 old push": {
			method: http.MethodPost, target: "https://mkt.myhuaweicloud.com" + sandbox.PathOld,
			bodyHash: "85f5ce82bbeacd896e53f1e3d24930901a5bb313048300b93e0a57292c1e7b43", secret: testSK,
			headers:       map[string]string{"Content-Type": "application/json", "X-Sdk-Date": "20240306T020745Z"},
			signed:        "content-type;host;x-sdk-date",
			wantHash:      "6cb445bd64b08090131d4ceb81d5a309af904ad9f60e80502349b167d9d04be2",
			wantSignature: "4a1394f77f7f4dde114d51dff8cdf31574b9116cfd3af8179f847fe75a19343c",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequestWithContext(t.Context(), tc.method, tc.target, http.NoBody)
			for k, v := range tc.headers {
				r.Header.Set(k, v)
			}
			canonical := sandbox.CanonicalRequest(r, strings.Split(tc.signed, ";"), tc.bodyHash)
			if got := hexSHA(canonical); got != tc.wantHash {
				t.Errorf("hash of %q = %s, want %s", canonical, got, tc.wantHash)
			}
			if got := sandbox.AKSKSignature(tc.secret, tc.headers["X-Sdk-Date"], canonical); tc.wantSignature != "" && got != tc.wantSignature {
				t.Errorf("signature = %s, want %s", got, tc.wantSignature)
			}
		})
	}
	if got := hexSHA(oldBody); got != "85f5ce82bbeacd896e53f1e3d24930901a5bb313048300b93e0a57292c1e7b43" {
		t.Errorf("payload hash = %s", got)
	}
	t.Run("3 over the API", func(t *testing.T) {
		t.Parallel()
		m := newMarket(t, nil)
		m.clock.Set(time.Date(2024, 3, 6, 2, 7, 45, 0, time.UTC))
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "https://mkt.myhuaweicloud.com"+sandbox.PathOld, strings.NewReader(oldBody))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-Sdk-Date", "20240306T020745Z")
		r.Header.Set("Authorization", "SDK-HMAC-SHA256 Access="+testAK+", SignedHeaders=content-type;host;x-sdk-date, Signature=4a1394f77f7f4dde114d51dff8cdf31574b9116cfd3af8179f847fe75a19343c")
		if got := do(t, m, r); got.Code != sandbox.CodeBeginTooOld {
			t.Errorf("answer = %+v, want %s behind a good signature", got, sandbox.CodeBeginTooOld)
		}
	})
}

func TestCanonicalForm(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ in, want string }{
		"sorted at every level": {`{"b":{"z":1,"a":[{"y":2,"x":3},"t"]},"a":null}`, `{"a":null,"b":{"a":[{"x":3,"y":2},"t"],"z":1}}`},
		"numbers as written":    {`[1.50,1e3,-0,0.1250]`, `[1.50,1e3,-0,0.1250]`},
		"escapes undone":        {`["\u4e91\/<>&","\"\\\n\u0001"]`, `["云/<>&","\"\\\n\u0001"]`},
		"UTF-16 order":          {`{"\uffff":1,"\ud83d\ude00":2}`, "{\"\U0001F600\":2,\"\uffff\":1}"},
		"white space":           {" [ true , false ] ", `[true,false]`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, ok, err := sandbox.Canonical(tc.in)
			if err != nil || !ok || got != tc.want {
				t.Errorf("Canonical(%s) = %q, %v, %v, want %q", tc.in, got, ok, err, tc.want)
			}
		})
	}
	if got, ok, err := sandbox.Canonical(`{"a":1,"a":2}`); ok || err != nil {
		t.Errorf("a repeated name has the sorted form %q, err %v, want none", got, err)
	}
}
