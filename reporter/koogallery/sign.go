package koogallery

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// Sign returns the value of the header signature of the new usage push: standard Base64 of HMAC-SHA256 with the seller
// key over ts, nonce and body (KooGallery usage push, section 1.4). The body must be exactly the bytes transmitted.
func Sign(key Secret, ts, nonce string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte("ts=" + ts + "&nonce=" + nonce + "&body="))
	mac.Write(body)
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// hmacAuth authenticates calls of the new usage push.
type hmacAuth struct {
	sign func(ts, nonce string, body []byte) string // a closure, so that no printing of the client shows the key
	rand io.Reader
}

func newHMACAuth(key Secret, rand io.Reader) *hmacAuth {
	return &hmacAuth{
		sign: func(ts, nonce string, body []byte) string { return Sign(key, ts, nonce, body) },
		rand: rand,
	}
}

// apply sets ts, nonce and signature, all three fresh. The names are written in lower case, as in the published example;
// http.Header.Set would capitalise them.
func (a *hmacAuth) apply(req *http.Request, body []byte, at time.Time) error {
	nonce, err := newNonce(a.rand)
	if err != nil {
		return err
	}
	ts := strconv.FormatInt(at.UnixMilli(), 10)
	req.Header["ts"] = []string{ts}
	req.Header["nonce"] = []string{nonce}
	req.Header["signature"] = []string{a.sign(ts, nonce, body)}
	return nil
}

// newNonce returns a random UUID (version 4), the form of the published example.
func newNonce(rand io.Reader) (string, error) {
	var b [16]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return "", fmt.Errorf("read random bytes for the nonce: %w", err)
	}
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:], nil
}
