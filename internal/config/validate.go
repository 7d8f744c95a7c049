package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/meterd/meterd/reporter/koogallery"
)

// marketplaceMaxAge is the oldest usage KooGallery takes (usage push, section 1.6).
const marketplaceMaxAge = 21 * 24 * time.Hour

// validate checks limits first, then the rules of each section.
func (c Config) validate() Faults {
	var faults Faults
	c.checkLimits(&faults)
	c.checkServer(&faults)
	c.checkSizes(&faults)
	c.checkStore(&faults)
	c.checkClosing(&faults)
	c.checkReporting(&faults)
	c.checkShadow(&faults)
	c.checkTelemetry(&faults)
	c.checkProducts(&faults)
	c.checkMeters(&faults)
	c.checkMappings(&faults)
	return faults
}

// checkLimits enforces the limits declared in the field tags.
func (c Config) checkLimits(faults *Faults) {
	forEachLeaf(reflect.ValueOf(&c).Elem(), "", func(f field) {
		value := f.value.Interface()
		if f.tag.Get("required") == "yes" && f.value.IsZero() {
			faults.add(f.key, "is required")
			return
		}
		if f.tag.Get("optional") == "yes" && f.value.IsZero() {
			return
		}
		if list := f.tag.Get("oneof"); list != "" && !oneOf(f.value.String(), list) {
			faults.add(f.key, fmt.Sprintf("must be one of %s (got %q)", strings.ReplaceAll(list, " ", ", "), shorten(f.value.String())))
		}
		if p := f.tag.Get("pattern"); p != "" && !regexp.MustCompile(p).MatchString(f.value.String()) {
			faults.add(f.key, fmt.Sprintf("must match %s (got %q)", p, shorten(f.value.String())))
		}
		if low, high := f.tag.Get("min"), f.tag.Get("max"); low != "" && !within(f.value, low, high) {
			faults.add(f.key, fmt.Sprintf("must be from %s to %s (got %v)", low, high, value))
		}
	})
}

// within reports whether low ≤ v ≤ high, with limits written as in the file. NaN is within nothing.
func within(v reflect.Value, low, high string) bool {
	limit := func(text string) reflect.Value {
		l := reflect.New(v.Type()).Elem()
		if err := setText(l, text); err != nil {
			panic("config: limit " + text + " in a field tag: " + err.Error())
		}
		return l
	}
	lo, hi := limit(low), limit(high)
	if v.Kind() == reflect.Float64 {
		return lo.Float() <= v.Float() && v.Float() <= hi.Float()
	}
	return lo.Int() <= v.Int() && v.Int() <= hi.Int()
}

func (c Config) checkServer(faults *Faults) {
	s := c.Server
	addressOK := checkAddress(faults, "server.listen", s.Listen)
	if (s.TLSCertFile == "") != (s.TLSKeyFile == "") {
		faults.add("server.tls_cert_file", "tls_cert_file and tls_key_file must be given together")
	}
	if s.ClientCAFile != "" && s.TLSCertFile == "" {
		faults.add("server.client_ca_file", "client certificates need tls_cert_file and tls_key_file")
	}
	if len(s.Keys) == 0 && addressOK && !isLoopback(s.Listen) {
		faults.add("server.listen", fmt.Sprintf(
			"without any [[server.keys]] the API listens on a loopback address only (got %q); add a key or use 127.0.0.1", shorten(s.Listen)))
	}
	c.checkKeys(faults)
}

var keyNamePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

func (c Config) checkKeys(faults *Faults) {
	names, values := map[string]int{}, map[Secret]int{}
	for i, k := range c.Server.Keys {
		at := entryKey("server.keys", i)
		if !keyNamePattern.MatchString(k.Name) {
			faults.add(at+".name", fmt.Sprintf("must match %s (got %q)", keyNamePattern, shorten(k.Name)))
		} else if first, ok := names[k.Name]; ok {
			faults.add(at+".name", fmt.Sprintf("%q is already the name of %s", k.Name, entryKey("server.keys", first)))
		} else {
			names[k.Name] = i
		}
		if len(k.Scopes) == 0 {
			faults.add(at+".scopes", "needs at least one of "+strings.ReplaceAll(scopes, " ", ", "))
		}
		for j, scope := range k.Scopes {
			if !oneOf(scope, scopes) {
				faults.add(at+".scopes", fmt.Sprintf("must be of %s (got %q)", strings.ReplaceAll(scopes, " ", ", "), shorten(scope)))
			} else if slices.Contains(k.Scopes[:j], scope) {
				faults.add(at+".scopes", fmt.Sprintf("names %s twice", scope))
			}
		}
		if k.Value.IsZero() {
			continue
		}
		if reason := checkKeyValue(k.Value); reason != "" {
			faults.add(at, reason)
		}
		if first, ok := values[k.Value]; ok {
			faults.add(at, "has the same key as "+entryKey("server.keys", first))
		} else {
			values[k.Value] = i
		}
	}
}

func (c Config) checkSizes(faults *Faults) {
	if c.Ingest.MaxEvent > c.Ingest.MaxBody {
		faults.add("ingest.max_event", fmt.Sprintf("must not be above max_body, %s (got %s)", c.Ingest.MaxBody, c.Ingest.MaxEvent))
	}
	if c.Spool.SegmentBytes > c.Spool.MaxBytes/2 {
		faults.add("spool.segment_bytes", fmt.Sprintf(
			"must be at most half of max_bytes, %s (got %s)", c.Spool.MaxBytes, c.Spool.SegmentBytes))
	}
	if c.Ingest.MaxBody > c.Spool.MaxBytes/2 {
		faults.add("ingest.max_body", fmt.Sprintf(
			"must be at most half of spool.max_bytes, %s (got %s)", c.Spool.MaxBytes, c.Ingest.MaxBody))
	}
}

func (c Config) checkStore(faults *Faults) {
	s := c.Store
	if !s.Embedded {
		if len(s.Addrs) == 0 {
			faults.add("store.addrs", "embedded = false needs at least one address such as \"clickhouse-1:9000\"")
		}
		for _, addr := range s.Addrs {
			checkAddress(faults, "store.addrs", addr)
		}
		if s.TLSCAFile != "" && !s.TLS {
			faults.add("store.tls_ca_file", "needs tls = true")
		}
		return
	}
	if len(s.Addrs) > 0 {
		faults.add("store.addrs", "embedded = true and addrs exclude each other; set embedded = false to use servers")
	}
	if s.Cluster != "" {
		faults.add("store.cluster", "a cluster needs embedded = false")
	}
	if s.TLS {
		faults.add("store.tls", "the embedded engine is reached through a unix socket; tls needs embedded = false")
	}
}

func (c Config) checkClosing(faults *Faults) {
	if c.Closing.DayZone != "" {
		if _, err := koogallery.ParseZone(c.Closing.DayZone); err != nil {
			faults.add("closing.day_zone", err.Error())
		}
	}
	if c.Ingest.BackfillMaxAge < c.Ingest.MaxAge {
		faults.add("ingest.backfill_max_age", fmt.Sprintf("must not be below max_age, %s (got %s)", c.Ingest.MaxAge, c.Ingest.BackfillMaxAge))
	}
	if c.Closing.Schedule == "" {
		return
	}
	if strings.Contains(c.Closing.Schedule, "TZ=") {
		faults.add("closing.schedule", "is in UTC; remove the time zone")
	} else if _, err := cron.ParseStandard(c.Closing.Schedule); err != nil {
		faults.add("closing.schedule", fmt.Sprintf(
			"must be a cron expression of five fields such as \"5 * * * *\": %v (got %q)", err, shorten(c.Closing.Schedule)))
	}
}

func (c Config) checkReporting(faults *Faults) {
	if c.Reporting.RetryMin > c.Reporting.RetryMax {
		faults.add("reporting.retry_min", fmt.Sprintf("must not be above retry_max, %s (got %s)", c.Reporting.RetryMax, c.Reporting.RetryMin))
	}
	k := c.KooGallery
	if k.BaseURL != "" {
		c.checkBaseURL(faults)
	}
	if !c.Reporting.Enabled {
		return
	}
	const disable = "; or set reporting.enabled = false"
	if k.API == "new" && k.SellerKey.IsZero() {
		faults.add("koogallery.seller_key_file",
			"reporting needs the seller key: name its file here or set METERD_KOOGALLERY_SELLER_KEY"+disable)
	}
	if k.API == "old" && k.AccessKey == "" {
		faults.add("koogallery.access_key", "reporting with api = \"old\" needs the access key"+disable)
	}
	if k.API == "old" && k.SecretKey.IsZero() {
		faults.add("koogallery.secret_key_file",
			"reporting with api = \"old\" needs the secret key: name its file here or set METERD_KOOGALLERY_SECRET_KEY"+disable)
	}
}

func (c Config) checkBaseURL(faults *Faults) {
	const key = "koogallery.base_url"
	u := checkURL(faults, key, c.KooGallery.BaseURL)
	if u == nil || u.Scheme == "https" {
		return
	}
	if !c.KooGallery.AllowHTTP {
		faults.add(key, "must be https://; http:// is possible for loopback addresses with allow_http = true")
	} else if !isLoopback(net.JoinHostPort(u.Hostname(), "80")) {
		faults.add(key, fmt.Sprintf("http:// is permitted for loopback addresses only (got host %q)", u.Hostname()))
	}
}

// checkShadow makes sure that shadow records can't be billed: they must not go to any of the marketplace's own addresses.
func (c Config) checkShadow(faults *Faults) {
	const key = "reporting.shadow_base_url"
	r := c.Reporting
	if r.ShadowBaseURL == "" {
		if r.ShadowKeyFile != "" {
			faults.add("reporting.shadow_key_file", "needs shadow_base_url")
		}
		return
	}
	if c.KooGallery.API == "old" {
		faults.add(key, "a shadow destination speaks koogallery.api = \"new\" only")
	}
	if r.ShadowKey.IsZero() {
		faults.add("reporting.shadow_key_file", "shadow_base_url needs a key: name its file here or set METERD_REPORTING_SHADOW_KEY")
	}
	u := checkURL(faults, key, r.ShadowBaseURL)
	if u == nil {
		return
	}
	loopback := isLoopback(net.JoinHostPort(u.Hostname(), "80"))
	live, err := url.Parse(c.KooGallery.BaseURL)
	switch {
	case c.marketplaceOwns(u.Hostname()):
		faults.add(key, fmt.Sprintf("is the marketplace's own address, where shadow records would be billed (got host %q); use a sandbox", u.Hostname()))
	case err == nil && c.KooGallery.BaseURL != "" && destination(live) == destination(u):
		faults.add(key, "is koogallery.base_url, where shadow records would be billed; use another destination")
	case u.Scheme == "http" && !c.KooGallery.AllowHTTP:
		faults.add(key, "must be https://; http:// is possible for loopback addresses with koogallery.allow_http = true")
	case u.Scheme == "http" && !loopback:
		faults.add(key, fmt.Sprintf("http:// is permitted for loopback addresses only (got host %q)", u.Hostname()))
	}
}

// marketplaceOwns reports whether a host is the marketplace's, by the built-in profile or the configured one.
func (c Config) marketplaceOwns(host string) bool {
	if koogallery.BuiltinProfile().OwnsHost(host) {
		return true
	}
	p, err := c.Profile() // a faulty one is told of where it is used
	return err == nil && p.OwnsHost(host)
}

// destination is where a URL leads, whichever way it is written: host and port.
func destination(u *url.URL) string {
	host, port := strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")), u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	if isLoopback(net.JoinHostPort(host, port)) {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

func (c Config) checkTelemetry(faults *Faults) {
	t := c.Telemetry
	if t.Listen != "" {
		checkAddress(faults, "telemetry.listen", t.Listen)
		if _, port, err := net.SplitHostPort(t.Listen); err == nil && port != "0" && t.Listen == c.Server.Listen {
			faults.add("telemetry.listen", fmt.Sprintf("must differ from server.listen (got %q)", t.Listen))
		}
	}
	if t.OTLPEndpoint != "" {
		checkURL(faults, "telemetry.otlp_endpoint", t.OTLPEndpoint)
	}
}

// checkURL parses an http or https URL without credentials, query or fragment; nil means that it added a fault. The URL
// is not repeated in the fault when it holds credentials.
func checkURL(faults *Faults, key, text string) *url.URL {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		faults.add(key, "is not a URL")
	case u.User != nil:
		faults.add(key, "must not hold a user name or password")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		faults.add(key, fmt.Sprintf("must begin with https:// or http:// and a host (got %q)", shorten(text)))
	case u.RawQuery != "" || u.Fragment != "":
		faults.add(key, fmt.Sprintf("must not have a query or fragment (got %q)", shorten(text)))
	default:
		return u
	}
	return nil
}

// checkAddress checks host:port and reports whether it is one. An empty host means all interfaces.
func checkAddress(faults *Faults, key, addr string) bool {
	if addr == "" {
		return false
	}
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		faults.add(key, fmt.Sprintf("must be host:port (got %q)", shorten(addr)))
	}
	return err == nil
}

// isLoopback reports whether host:port can be reached from this machine only.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
