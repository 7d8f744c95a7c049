package sandbox

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// The scheme and headers of AK/SK signing (KooGallery usage push, section 3).
const (
	akskScheme    = "SDK-HMAC-SHA256"
	headerSDKDate = "X-Sdk-Date"
	headerSDKHash = "X-Sdk-Content-Sha256"
	wireTime      = "20060102T150405Z"
)

// akskAuth is a parsed Authorization header.
type akskAuth struct {
	access    string
	signed    []string // lower-case names, ascending
	signature string
}

// parseAuthorization reads "SDK-HMAC-SHA256 Access=…, SignedHeaders=…, Signature=…".
func parseAuthorization(value string) (akskAuth, *refusal) {
	var a akskAuth
	rest, ok := strings.CutPrefix(value, akskScheme+" ")
	if !ok {
		return a, refuse(CodeIllegalToken, "header Authorization is missing or not of the scheme "+akskScheme)
	}
	seen := map[string]bool{}
	for part := range strings.SplitSeq(rest, ",") {
		name, val, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || seen[name] {
			return a, refuse(CodeIllegalToken, "header Authorization is not Access=…, SignedHeaders=…, Signature=…")
		}
		seen[name] = true
		switch name {
		case "Access":
			a.access = val
		case "SignedHeaders":
			a.signed = strings.Split(val, ";")
		case "Signature":
			a.signature = val
		default:
			return a, refuse(CodeIllegalToken, "header Authorization has an unknown part")
		}
	}
	if a.access == "" || len(a.signed) == 0 || a.signature == "" {
		return a, refuse(CodeIllegalToken, "header Authorization lacks Access, SignedHeaders or Signature")
	}
	return a, checkSignedNames(a.signed)
}

// checkSignedNames demands lower-case ascending names without repetition, host and x-sdk-date among them.
func checkSignedNames(names []string) *refusal {
	for i, name := range names {
		if name == "" || name != strings.ToLower(name) {
			return refuse(CodeIllegalToken, "SignedHeaders must be lower-case names joined by ;")
		}
		if i > 0 && names[i-1] >= name {
			return refuse(CodeIllegalToken, "SignedHeaders must be ascending without repetition")
		}
	}
	for _, need := range []string{"host", strings.ToLower(headerSDKDate)} {
		if !slices.Contains(names, need) {
			return refuse(CodeIllegalToken, "SignedHeaders must name "+need)
		}
	}
	return nil
}

// checkAKSK verifies a call of the old API and gives the access key that signed it.
func checkAKSK(r *http.Request, body []byte, keys map[string]string, now time.Time, tolerance time.Duration) (string, *refusal) {
	auth, bad := parseAuthorization(r.Header.Get("Authorization"))
	if bad != nil {
		return "", bad
	}
	secret, ok := keys[auth.access]
	if !ok {
		return "", refuse(CodeIllegalToken, "the access key is not known")
	}
	stamp := r.Header.Get(headerSDKDate)
	at, ok := parseTime(stamp)
	if !ok {
		return "", refuse(CodeIllegalToken, "header X-Sdk-Date is missing or not of the form yyyyMMdd'T'HHmmss'Z'")
	}
	if off := now.Sub(at); off > tolerance || off < -tolerance {
		return "", refuse(CodeIllegalToken, fmt.Sprintf("header X-Sdk-Date is %s from the sandbox's clock, at most %s is allowed", off.Round(time.Second), tolerance))
	}
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	if given := r.Header.Get(headerSDKHash); given != "" && given != hash {
		return "", refuse(CodeIllegalToken, "header X-Sdk-Content-Sha256 is not the hash of the body")
	}
	canonical, bad := canonicalRequest(r, auth.signed, hash)
	if bad != nil {
		return "", bad
	}
	want := akskSignature(secret, stamp, canonical)
	if !hmac.Equal([]byte(want), []byte(auth.signature)) {
		return "", refuse(CodeIllegalToken, "the signature does not verify; check the secret key, the signed headers and the body")
	}
	return auth.access, nil
}

// akskSignature is the lower-case hex HMAC over the scheme, the date and the hash of the canonical request. The
// secret is the key itself: there is no derivation.
func akskSignature(secret, stamp, canonical string) string {
	sum := sha256.Sum256([]byte(canonical))
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(akskScheme + "\n" + stamp + "\n" + hex.EncodeToString(sum[:])))
	return hex.EncodeToString(mac.Sum(nil))
}

// canonicalRequest joins the six parts that are hashed.
func canonicalRequest(r *http.Request, signed []string, bodyHash string) (string, *refusal) {
	var headers strings.Builder
	for _, name := range signed {
		value, ok := headerToSign(r, name)
		if !ok {
			return "", refuse(CodeIllegalToken, "the signed header "+clip(name, 40)+" is not in the request")
		}
		headers.WriteString(name + ":" + strings.TrimSpace(value) + "\n")
	}
	return strings.Join([]string{
		r.Method, canonicalPath(r.URL), canonicalQuery(r.URL.RawQuery), headers.String(), strings.Join(signed, ";"), bodyHash,
	}, "\n"), nil
}

// headerToSign gives a header's value; Host lives outside Go's header map.
func headerToSign(r *http.Request, name string) (string, bool) {
	if name == "host" {
		return r.Host, r.Host != ""
	}
	values := r.Header.Values(name)
	if len(values) == 0 {
		return "", false
	}
	return strings.Join(values, ","), true
}

// canonicalPath encodes every segment and ends in a slash, for signing only.
func canonicalPath(u *url.URL) string {
	segments := strings.Split(u.EscapedPath(), "/")
	for i, s := range segments {
		if plain, err := url.PathUnescape(s); err == nil {
			s = plain
		}
		segments[i] = percentEncode(s)
	}
	path := strings.Join(segments, "/")
	if !strings.HasSuffix(path, "/") {
		path += "/"
	}
	return path
}

// canonicalQuery sorts the parameters by name, then value. Names are taken as sent, in their own case.
func canonicalQuery(raw string) string {
	if raw == "" {
		return ""
	}
	type pair struct{ name, value string }
	var pairs []pair
	for part := range strings.SplitSeq(raw, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		pairs = append(pairs, pair{queryText(name), queryText(value)})
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		if c := strings.Compare(a.name, b.name); c != 0 {
			return c
		}
		return strings.Compare(a.value, b.value)
	})
	parts := make([]string, len(pairs))
	for i, p := range pairs {
		parts[i] = percentEncode(p.name) + "=" + percentEncode(p.value)
	}
	return strings.Join(parts, "&")
}

// queryText undoes the encoding of one name or value; text that is not encoded properly stays as it is.
func queryText(text string) string {
	if plain, err := url.QueryUnescape(text); err == nil {
		return plain
	}
	return text
}

// percentEncode encodes everything but RFC 3986's unreserved characters.
func percentEncode(text string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(text) {
		c := text[i]
		switch {
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_', c == '.', c == '~':
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&0xf])
		}
	}
	return b.String()
}
