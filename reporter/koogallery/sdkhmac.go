package koogallery

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	sdkAlgorithm  = "SDK-HMAC-SHA256"
	sdkDateFormat = "20060102T150405Z"
	sdkDateHeader = "X-Sdk-Date"
	sdkBodyHeader = "X-Sdk-Content-Sha256"
)

// SDKSigner signs requests with an access key and its secret by SDK-HMAC-SHA256 (KooGallery usage push, section 3). The
// zero value signs nothing; build one with [NewSDKSigner]. It is safe for concurrent use.
type SDKSigner struct {
	accessKey string
	mac       func(message []byte) []byte // a closure, so that no printing of the signer shows the secret
}

// NewSDKSigner returns a signer for one access key.
func NewSDKSigner(accessKey string, secretKey Secret) *SDKSigner {
	return &SDKSigner{accessKey: accessKey, mac: func(message []byte) []byte {
		m := hmac.New(sha256.New, []byte(secretKey))
		m.Write(message)
		return m.Sum(nil)
	}}
}

// SignRequest sets X-Sdk-Date to at and Authorization to the signature over method, path, query, body, Host and every
// header that req has now. Headers added later are not signed; Host must not be changed afterwards. Query names are
// signed as they are sent: the marketplace's own Go SDK lower-cases them, which the algorithm does not.
func (s *SDKSigner) SignRequest(req *http.Request, body []byte, at time.Time) error {
	if s.mac == nil {
		return errors.New("sign request: the signer has no key")
	}
	date := at.UTC().Format(sdkDateFormat)
	req.Header.Set(sdkDateHeader, date)
	req.Header.Del("Authorization")
	canonical, signed, err := sdkCanonicalRequest(req, body)
	if err != nil {
		return fmt.Errorf("sign request: %w", err)
	}
	sum := sha256.Sum256([]byte(canonical))
	toSign := sdkAlgorithm + "\n" + date + "\n" + hex.EncodeToString(sum[:])
	signature := hex.EncodeToString(s.mac([]byte(toSign)))
	req.Header.Set("Authorization",
		sdkAlgorithm+" Access="+s.accessKey+", SignedHeaders="+signed+", Signature="+signature)
	return nil
}

// apply makes the signer an authenticator of the client.
func (s *SDKSigner) apply(req *http.Request, body []byte, at time.Time) error {
	return s.SignRequest(req, body, at)
}

// sdkCanonicalRequest returns the canonical request and the list of signed headers.
func sdkCanonicalRequest(req *http.Request, body []byte) (canonical, signed string, err error) {
	query, err := sdkQuery(req.URL.RawQuery)
	if err != nil {
		return "", "", err
	}
	headers, signed := sdkHeaders(req)
	payload := req.Header.Get(sdkBodyHeader)
	if payload == "" {
		sum := sha256.Sum256(body)
		payload = hex.EncodeToString(sum[:])
	}
	return strings.Join([]string{
		strings.ToUpper(req.Method), sdkPath(req.URL.Path), query, headers, signed, payload,
	}, "\n"), signed, nil
}

// sdkPath encodes every segment and ends the path with a slash, for signing only.
func sdkPath(path string) string {
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		segments[i] = sdkEscape(segment)
	}
	path = strings.Join(segments, "/")
	if !strings.HasSuffix(path, "/") {
		path += "/"
	}
	return path
}

// sdkQuery sorts the parameters by name, then by value, and encodes them.
func sdkQuery(raw string) (string, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return "", fmt.Errorf("parse query: %w", err)
	}
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	var pairs []string
	for _, name := range names {
		slices.Sort(values[name])
		for _, value := range values[name] {
			pairs = append(pairs, sdkEscape(name)+"="+sdkEscape(value))
		}
	}
	return strings.Join(pairs, "&"), nil
}

// sdkHeaders returns the canonical headers, each line ending in a newline, and their names joined by semicolons.
func sdkHeaders(req *http.Request) (lines, names string) {
	host := req.Host
	if host == "" {
		host = req.URL.Host
	}
	byName := map[string]string{"host": host}
	for name, values := range req.Header {
		byName[strings.ToLower(name)] = strings.TrimSpace(strings.Join(values, ","))
	}
	sorted := make([]string, 0, len(byName))
	for name := range byName {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	var b strings.Builder
	for _, name := range sorted {
		b.WriteString(name + ":" + byName[name] + "\n")
	}
	return b.String(), strings.Join(sorted, ";")
}

// sdkEscape percent-encodes everything but the unreserved characters of RFC 3986.
func sdkEscape(s string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9',
			c == '-', c == '_', c == '.', c == '~':
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&0xf])
		}
	}
	return b.String()
}
