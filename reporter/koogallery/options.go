package koogallery

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Site is one of the marketplace's sites. It decides the domains.
type Site string

// The sites (KooGallery usage push, section 1.1).
const (
	SiteChina         Site = "china"
	SiteInternational Site = "international"
	SiteEurope        Site = "europe" // whether it offers usage push at all could not be verified
)

// API is one of the marketplace's two usage pushes.
type API string

// The two usage pushes.
const (
	APINew API = "new" // signed by the seller key; also the meaning of ""
	APIOld API = "old" // signed by AK/SK, without record numbers; for products integrated before the new one existed
)

// Defaults of [Options].
const (
	DefaultTimeout = 30 * time.Second
	maxDialTimeout = 10 * time.Second
)

// Options configure a [Client]. Now is mandatory, so is Site or BaseURL, so is the key of the chosen API.
type Options struct {
	// Site decides the address. It may be empty if BaseURL is given.
	Site Site
	// BaseURL replaces the site's address, for example by a sandbox's; scheme, host and an optional path prefix.
	BaseURL string
	// AllowHTTP permits http:// in BaseURL and FallbackURL, for loopback addresses only; this is checked again each time
	// a connection is made.
	AllowHTTP bool

	// Fallback permits the site's documented second domain where the first can't be connected.
	Fallback bool
	// FallbackAcrossSites permits it where the profile says that it belongs to another site: that is so for SiteInternational,
	// whose documented fallback is the China site's.
	FallbackAcrossSites bool
	// FallbackURL replaces the documented second domain. With BaseURL there is no other fallback. Fallback must be set.
	FallbackURL string

	// API is the usage push to use; "" means APINew.
	API API
	// SellerKey signs calls of APINew: the seller's integration key, the one bound to the basic interfaces.
	SellerKey Secret
	// AccessKey and SecretKey sign calls of APIOld.
	AccessKey string
	SecretKey Secret

	// Profile holds the marketplace's limits and addresses; nil means the built-in one.
	Profile *Profile

	// Timeout bounds one attempt; 0 means DefaultTimeout.
	Timeout time.Duration
	// Spacing is the least time between the beginnings of two attempts; 0 means none.
	Spacing time.Duration
	// MaxBatch is the largest number of records in a call; 0 means the profile's, which it must not exceed.
	MaxBatch int

	// CAFile is a PEM file of authorities trusted in addition to the system's. The certificate is always verified.
	CAFile string
	// RootCAs replaces the system's authorities; not together with CAFile.
	RootCAs *x509.CertPool
	// Proxy chooses the proxy of a request, as in http.Transport; nil means none. It isn't asked for http:// addresses.
	Proxy func(*http.Request) (*url.URL, error)
	// Transport takes the place of the network, for simulations; nil means the network. It must call GotConn of the request's
	// httptrace.ClientTrace before anything of the request can have arrived: an error without that counts as "not sent".
	Transport http.RoundTripper

	// Now is the clock; mandatory. Timestamps, spacing and latencies come from it.
	Now func() time.Time
	// Sleep waits for d or until ctx ends; nil means a timer. It serves clocks other than the wall's.
	Sleep func(ctx context.Context, d time.Duration) error
	// Rand is the source of nonces; nil means crypto/rand. Anything else is for tests.
	Rand io.Reader
	// Logger gets what an operator should know; nil means nothing is logged.
	Logger *slog.Logger
}

// endpoint is one address that can be called.
type endpoint struct {
	url  string // of the usage push
	host string // names the endpoint in results
}

// settings are validated options.
type settings struct {
	Options
	endpoints []endpoint
	roots     *x509.CertPool
}

// validate completes the options or reports every fault in them.
func (o Options) validate() (settings, error) {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf("koogallery."+format, args...)) }

	if o.API == "" {
		o.API = APINew
	}
	switch o.API {
	case APINew:
		errs = append(errs, checkKey("seller_key", string(o.SellerKey)))
	case APIOld:
		errs = append(errs, checkKey("secret_key", string(o.SecretKey)), checkAccessKey(o.AccessKey))
	default:
		fault("api: must be new or old (got %q)", o.API)
	}
	if o.Timeout < 0 || o.Spacing < 0 {
		fault("timeout, spacing: must not be negative (got %s, %s)", o.Timeout, o.Spacing)
	}
	if o.Profile == nil {
		o.Profile = BuiltinProfile()
	}
	if highest := o.Profile.limits.MaxBatch; o.MaxBatch < 0 || o.MaxBatch > highest {
		fault("max_batch: must be 1 to %d (got %d)", highest, o.MaxBatch)
	}
	if o.Now == nil {
		fault("now: a clock is mandatory")
	}
	endpoints, err := o.endpoints()
	errs = append(errs, err)
	roots, err := o.roots()
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return settings{}, err
	}
	o.setDefaults()
	return settings{Options: o, endpoints: endpoints, roots: roots}, nil
}

func (o *Options) setDefaults() {
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.MaxBatch == 0 {
		o.MaxBatch = o.Profile.limits.MaxBatch
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// endpoints returns the address to call and, where permitted, the one to fall back to.
func (o Options) endpoints() ([]endpoint, error) {
	profile := o.Profile
	if profile == nil {
		profile = BuiltinProfile()
	}
	site, known := profile.sites[o.Site]
	if !known && (o.BaseURL == "" || o.Site != "") {
		return nil, fmt.Errorf("koogallery.site: must be one of %s (got %q)", profile.siteList(), o.Site)
	}
	primary, fallback := o.BaseURL, o.FallbackURL
	if primary == "" {
		primary = site.baseURL
		if fallback == "" && (site.fallbackSite == o.Site || o.FallbackAcrossSites) {
			fallback = site.fallbackURL
		}
	}
	first, err := o.endpoint("base_url", primary)
	if !o.Fallback || fallback == "" {
		return []endpoint{first}, err
	}
	second, err2 := o.endpoint("fallback_url", fallback)
	if err2 == nil && first.url == second.url {
		err2 = errors.New("koogallery.fallback_url: is the same as base_url")
	}
	return []endpoint{first, second}, errors.Join(err, err2)
}

// endpoint checks one base address and appends the path of the API. Faults don't repeat the address: it may hold a
// password.
func (o Options) endpoint(key, base string) (endpoint, error) {
	u, err := url.Parse(base)
	switch {
	case err != nil:
		return endpoint{}, fmt.Errorf("koogallery.%s: not a URL", key)
	case u.Hostname() == "" || u.Opaque != "":
		return endpoint{}, fmt.Errorf("koogallery.%s: must be like https://host or https://host:port", key)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return endpoint{}, fmt.Errorf("koogallery.%s: must not hold a user, a query or a fragment", key)
	case u.Scheme == "http" && !o.AllowHTTP:
		return endpoint{}, fmt.Errorf("koogallery.%s: must be https; allow_http permits http to a loopback address", key)
	case u.Scheme == "http" && !loopbackName(u.Hostname()):
		return endpoint{}, fmt.Errorf("koogallery.%s: http is permitted to loopback addresses only (got host %q)",
			key, u.Hostname())
	case u.Scheme != "http" && u.Scheme != "https":
		return endpoint{}, fmt.Errorf("koogallery.%s: must be https (got scheme %q)", key, u.Scheme)
	}
	path := pathNew
	if o.API == APIOld {
		path = pathOld
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + path
	u.RawPath = ""
	return endpoint{url: u.String(), host: u.Host}, nil
}

// loopbackName tells whether host may be a loopback address: such an address, or a name that is reserved for them.
// What a name resolves to is checked when connecting.
func loopbackName(host string) bool {
	if ip := net.ParseIP(host); ip != nil {
		return ip.IsLoopback()
	}
	host = strings.ToLower(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// roots returns the authorities to trust; nil means the system's.
func (o Options) roots() (*x509.CertPool, error) {
	if o.CAFile == "" {
		return o.RootCAs, nil
	}
	if o.RootCAs != nil {
		return nil, errors.New("koogallery.ca_file: not together with RootCAs")
	}
	pem, err := os.ReadFile(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("koogallery.ca_file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // no system store, as in a minimal container: the file alone
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("koogallery.ca_file: no PEM certificate in %s", o.CAFile)
	}
	return pool, nil
}

// tlsConfig verifies strictly; there is no option to do otherwise (KooGallery usage push, section 1.1).
func (s settings) tlsConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: s.roots}
}

// checkKey finds faults of a secret without repeating any of it.
func checkKey(name, key string) error {
	switch {
	case key == "":
		return fmt.Errorf("koogallery.%s: missing", name)
	case strings.TrimSpace(key) != key:
		return fmt.Errorf("koogallery.%s: begins or ends with white space, such as the newline of its file", name)
	case strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("koogallery.%s: holds control characters", name)
	}
	return nil
}

// checkAccessKey keeps what would break the Authorization header out of it.
func checkAccessKey(key string) error {
	if key == "" {
		return errors.New("koogallery.access_key: missing; api = \"old\" needs it")
	}
	if strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' || r == ',' || r == '=' }) {
		return errors.New("koogallery.access_key: holds a character other than printable ASCII, or a blank, comma or =")
	}
	return nil
}
