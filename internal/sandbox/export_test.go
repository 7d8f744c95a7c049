package sandbox

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/http"
)

// What the vector tests need to see of the signature code.

// BodyMACHex is the new API's HMAC in hex.
func BodyMACHex(key, ts, nonce, body string) string {
	return hex.EncodeToString(bodyMAC([]byte(key), ts, nonce, []byte(body)))
}

// Canonical is the sorted compact form of a JSON text.
func Canonical(text string) (string, bool, error) {
	tree, err := parseTree([]byte(text))
	if err != nil {
		return "", false, err
	}
	out, ok := tree.canonical()
	return string(out), ok, nil
}

// CanonicalRequest is what AK/SK signing hashes; empty if it cannot be built.
func CanonicalRequest(r *http.Request, signed []string, bodyHash string) string {
	text, _ := canonicalRequest(r, signed, bodyHash)
	return text
}

// AKSKSignature signs a canonical request.
func AKSKSignature(secret, stamp, canonical string) string {
	return akskSignature(secret, stamp, canonical)
}

// ParseUnits reads a usage value in ten-thousandths.
func ParseUnits(text string) (int64, bool) { return parseUnits(text) }

// FormatUnits prints ten-thousandths.
func FormatUnits(units int64) string { return formatUnits(units) }

// ReplayState reads a state log's text as a new sandbox would and counts the good bytes.
func ReplayState(s *Sandbox, text []byte) (good, size int64, err error) {
	return replay(bytes.NewReader(text), s.apply)
}

// StateLine puts a good checksum in front of an event's JSON.
func StateLine(body []byte) string { return fmt.Sprintf("%08x %s", checksum(body), body) }
