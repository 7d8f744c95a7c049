package httpapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Scope is what an API key permits.
type Scope string

// The scopes. None implies another.
const (
	ScopeIngest   Scope = "ingest"   // send events
	ScopeQuery    Scope = "query"    // read usage, the books and the audit log
	ScopeBackfill Scope = "backfill" // send events that the ordinary door refuses as too old
	ScopeVoid     Scope = "void"     // make stored events count no more
	ScopeOperate  Scope = "operate"  // decide about held usage and records, resend, lives of instances, the breaker
	ScopeAdmin    Scope = "admin"    // close windows, list and replay refused events, read the status
)

// Key is one API key.
type Key struct {
	Name   string // names the key in logs and metrics
	Value  string // what the client sends
	Scopes []Scope
}

// keyRing holds the keys as hashes: comparing hashes takes the same time whatever was sent, and a dump of memory has no
// key in it.
type keyRing struct{ entries []keyEntry }

type keyEntry struct {
	name   string
	hash   [sha256.Size]byte
	scopes []Scope
}

func newKeyRing(keys []Key) (*keyRing, error) {
	ring := &keyRing{}
	for _, k := range keys {
		if k.Name == "" || k.Value == "" || len(k.Scopes) == 0 {
			return nil, fmt.Errorf("api key %q: name, value and scopes are required", k.Name)
		}
		ring.entries = append(ring.entries, keyEntry{k.Name, sha256.Sum256([]byte(k.Value)), slices.Clone(k.Scopes)})
	}
	return ring, nil
}

// find compares the key with every entry, in constant time.
func (ring *keyRing) find(value string) *keyEntry {
	hash := sha256.Sum256([]byte(value))
	var found *keyEntry
	for i := range ring.entries {
		if subtle.ConstantTimeCompare(hash[:], ring.entries[i].hash[:]) == 1 {
			found = &ring.entries[i]
		}
	}
	return found
}

// authorize checks that the request may use a route of the scope and notes the key's name.
func (a *API) authorize(w *response, r *http.Request, scope Scope) error {
	if scope == "" {
		return nil
	}
	if len(a.keys.entries) == 0 {
		return a.authorizeLocal(r)
	}
	value, ok := sentKey(r.Header)
	if !ok {
		w.Header().Set("WWW-Authenticate", `Bearer realm="meterd"`)
		return &problem{Status: http.StatusUnauthorized, Code: "unauthorized", Detail: "send the key as \"Authorization: Bearer KEY\" or \"x-api-key: KEY\""}
	}
	entry := a.keys.find(value)
	if entry == nil {
		w.Header().Set("WWW-Authenticate", `Bearer realm="meterd", error="invalid_token"`)
		return &problem{Status: http.StatusUnauthorized, Code: "unauthorized", Detail: "the key is not known here"}
	}
	w.key = entry.name
	if !slices.Contains(entry.scopes, scope) {
		return &problem{
			Status: http.StatusForbidden, Code: "forbidden",
			Detail: fmt.Sprintf("the key %q lacks the scope %q", entry.name, scope),
		}
	}
	return nil
}

// authorizeLocal permits what comes from this machine and not from another site's page in a browser on it.
func (a *API) authorizeLocal(r *http.Request) error {
	if !isLocal(r.RemoteAddr) {
		return &problem{Status: http.StatusForbidden, Code: "forbidden", Detail: "no API key is configured, so only this machine is served; configure [[server.keys]]"}
	}
	if err := a.origins.Check(r); err != nil {
		return &problem{Status: http.StatusForbidden, Code: "forbidden", Detail: "requests from other sites' pages are not taken without an API key"}
	}
	if !isLocalHost(r.Host) {
		return &problem{Status: http.StatusForbidden, Code: "forbidden", Detail: "without an API key the Host must be localhost or a loopback address"}
	}
	return nil
}

// isLocal reports whether the remote address is on this machine. Unix sockets have none.
func isLocal(remote string) bool {
	if remote == "" || remote == "@" {
		return true
	}
	address, err := netip.ParseAddrPort(remote)
	return err == nil && address.Addr().Unmap().IsLoopback()
}

// isLocalHost reports whether a Host header names this machine; a name that a stranger's DNS points here doesn't.
func isLocalHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if host == "" || strings.EqualFold(host, "localhost") {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.Unmap().IsLoopback()
}

// sentKey returns the key of a request.
func sentKey(h http.Header) (string, bool) {
	if values := h["X-Api-Key"]; len(values) == 1 && values[0] != "" {
		return values[0], true
	}
	values := h["Authorization"]
	if len(values) != 1 {
		return "", false
	}
	scheme, value, ok := strings.Cut(values[0], " ")
	value = strings.TrimSpace(value)
	return value, ok && value != "" && strings.EqualFold(scheme, "Bearer")
}
