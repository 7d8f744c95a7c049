package sandbox

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"
)

// Greatest lengths of the new API's headers (KooGallery usage push, section 1.2).
const (
	maxSignatureHeader = 1000
	maxTSHeader        = 20
	maxNonceHeader     = 64
)

// maxNonces bounds the memory of nonces; at the default tolerance that is 4000 calls a second.
const maxNonces = 500_000

// signedHeaders are the three headers that carry the new API's signature.
type signedHeaders struct {
	signature string
	ts        string
	nonce     string
	at        time.Time // ts as a time
}

// readSignedHeaders takes the three headers and checks their form: presence, number, length, and that ts is a number.
func readSignedHeaders(h http.Header) (signedHeaders, *refusal) {
	var out signedHeaders
	fields := []struct {
		name  string
		limit int
		into  *string
	}{
		{"signature", maxSignatureHeader, &out.signature},
		{"ts", maxTSHeader, &out.ts},
		{"nonce", maxNonceHeader, &out.nonce},
	}
	for _, f := range fields {
		values := h.Values(f.name)
		if len(values) == 0 || values[0] == "" {
			return out, refuse(CodeRequestError, "header "+f.name+" is missing")
		}
		if len(values) > 1 {
			return out, refuse(CodeInvalidParameter, "header "+f.name+" is given more than once")
		}
		if n := utf8.RuneCountInString(values[0]); n > f.limit {
			return out, refuse(CodeBadParameter, fmt.Sprintf("header %s has %d characters, at most %d are allowed", f.name, n, f.limit))
		}
		*f.into = values[0]
	}
	millis, err := strconv.ParseInt(out.ts, 10, 64)
	if err != nil || !allDigits(out.ts) {
		return out, refuse(CodeBadParameter, "header ts is not a Unix time in milliseconds")
	}
	out.at = time.UnixMilli(millis)
	return out, nil
}

// checkFresh compares ts with the clock; the limit itself still passes. A stale ts answers like a wrong signature: it
// is the one code after which signing again helps.
func checkFresh(ts, now time.Time, tolerance time.Duration) *refusal {
	off := now.Sub(ts)
	if off <= tolerance && off >= -tolerance {
		return nil
	}
	return refuse(CodeBadSign, fmt.Sprintf("header ts is %s from the sandbox's clock, at most %s is allowed; ts counts milliseconds", off.Round(time.Millisecond), tolerance))
}

// bodyMAC computes the HMAC of the text to sign: ts=…&nonce=…&body=… without any encoding (KooGallery usage push,
// section 1.4).
func bodyMAC(key []byte, ts, nonce string, body []byte) []byte {
	mac := hmac.New(sha256.New, key)
	for _, part := range []string{"ts=", ts, "&nonce=", nonce, "&body="} {
		mac.Write([]byte(part))
	}
	mac.Write(body)
	return mac.Sum(nil)
}

// signatureCheck is a verified signature: whose it is and over which text of the body it was made.
type signatureCheck struct {
	seller string
	form   SignatureForm
}

// checkSignature finds the seller whose key signed the body, over the received bytes or over the sorted compact form.
// sorted is nil where that form does not exist.
func checkSignature(sellers []seller, h signedHeaders, raw, sorted []byte, demand SignatureForm) (signatureCheck, *refusal) {
	given, err := base64.StdEncoding.Strict().DecodeString(h.signature)
	if err != nil || len(given) != sha256.Size {
		return signatureCheck{}, refuse(CodeBadSign, "header signature is not the Base64 form of 32 bytes")
	}
	same := sorted != nil && string(raw) == string(sorted)
	for _, s := range sellers {
		check := signatureCheck{seller: s.name}
		switch {
		case hmac.Equal(given, bodyMAC(s.key, h.ts, h.nonce, raw)):
			check.form = FormRaw
			if same {
				check.form = FormBoth
			}
		case sorted != nil && !same && hmac.Equal(given, bodyMAC(s.key, h.ts, h.nonce, sorted)):
			check.form = FormSorted
		default:
			continue
		}
		if demand != FormAny && check.form != FormBoth && check.form != demand {
			return signatureCheck{}, refuse(CodeBadSign, fmt.Sprintf("the signature matches the %s form of the body, but the %s form is demanded", check.form, demand))
		}
		return check, nil
	}
	return signatureCheck{}, refuse(CodeBadSign, "the signature matches neither the received bytes nor the sorted compact form of the body with any seller key")
}

// nonceKey identifies a nonce of one seller.
type nonceKey struct{ seller, nonce string }

// nonceMemory remembers nonces for as long as their ts would still pass.
type nonceMemory struct {
	mu    sync.Mutex
	until map[nonceKey]time.Time
	swept time.Time
}

// take remembers a nonce and refuses one that is already known.
func (m *nonceMemory) take(sellerName, nonce string, ts, now time.Time, tolerance time.Duration) *refusal {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.until == nil {
		m.until = map[nonceKey]time.Time{}
	}
	key := nonceKey{sellerName, nonce}
	// "Before" keeps the nonce through the last instant at which its ts is still fresh.
	if until, ok := m.until[key]; ok && !until.Before(now) {
		return refuse(CodeBadSign, "header nonce was used before; take a new one, and a new signature, for every attempt")
	}
	if len(m.until) >= maxNonces || now.Sub(m.swept) > tolerance {
		for k, until := range m.until {
			if until.Before(now) {
				delete(m.until, k)
			}
		}
		m.swept = now
	}
	if len(m.until) >= maxNonces {
		return refuse(CodeThrottled, "too many calls: the memory of nonces is full")
	}
	m.until[key] = ts.Add(tolerance)
	return nil
}

// forget empties the memory.
func (m *nonceMemory) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.until)
}
