package koogallery

import (
	"bytes"
	_ "embed" // for the built-in profile
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

//go:embed profile.toml
var builtinProfile []byte

// maxProfile bounds a profile's text: the built-in one has 2 KiB.
const maxProfile = 64 << 10

// Profile is what the marketplace demands, as data: limits, deadlines, addresses. [BuiltinProfile] is the one that comes with
// meterd, [ParseProfile] reads another one. Profiles are read-only.
type Profile struct {
	limits reporter.Limits
	fields fieldLimits
	hourly Deadlines
	daily  Deadlines
	sites  map[Site]siteProfile
}

// fieldLimits are the longest values of a record's fields, in characters.
type fieldLimits struct{ instanceID, meteringSN, packageID, productID int }

// Deadlines say until when a record is to be reported, counted from the end of its window (KooGallery usage push, section 4.1).
type Deadlines struct {
	OnTime time.Duration // it is collected then
	Late   time.Duration // the latest that the marketplace asks for
}

// siteProfile is one site.
type siteProfile struct {
	baseURL, fallbackURL string
	fallbackSite         Site
	dayZone              *time.Location
}

// The document of a profile. Pointers tell what is missing from what is zero.
type (
	profileDocument struct {
		Limits *limitsDocument          `toml:"limits"`
		Fields *fieldsDocument          `toml:"fields"`
		Hourly *deadlinesDocument       `toml:"hourly"`
		Daily  *deadlinesDocument       `toml:"daily"`
		Sites  map[string]*siteDocument `toml:"sites"`
	}
	limitsDocument struct {
		MaxBatch    *int    `toml:"max_batch"`
		Scale       *int    `toml:"scale"`
		MaxQuantity *string `toml:"max_quantity"`
		MaxAge      *string `toml:"max_age"`
	}
	fieldsDocument struct {
		InstanceID *int `toml:"instance_id"`
		MeteringSN *int `toml:"metering_sn"`
		Package    *int `toml:"package"`
		ProductID  *int `toml:"product_id"`
	}
	deadlinesDocument struct {
		OnTime *string `toml:"on_time"`
		Late   *string `toml:"late"`
	}
	siteDocument struct {
		BaseURL      *string `toml:"base_url"`
		FallbackURL  *string `toml:"fallback_url"`
		FallbackSite *string `toml:"fallback_site"`
		DayZone      *string `toml:"day_zone"`
	}
)

// BuiltinProfile returns the profile that comes with meterd.
func BuiltinProfile() *Profile { return parseBuiltin() }

// parseBuiltin parses it once. That it can be parsed is a matter of the build, which a test proves.
var parseBuiltin = sync.OnceValue(func() *Profile {
	p, err := ParseProfile(builtinProfile)
	if err != nil {
		panic("koogallery: the built-in profile: " + err.Error())
	}
	return p
})

// ParseProfile reads a profile strictly: every key must be there, no other may, and the error lists everything that is wrong.
func ParseProfile(text []byte) (*Profile, error) {
	if len(text) > maxProfile {
		return nil, fmt.Errorf("profile: larger than %d bytes (got %d)", maxProfile, len(text))
	}
	var doc profileDocument
	dec := toml.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&doc); err != nil {
		return nil, decodeFault(err)
	}
	if errs := missing(reflect.ValueOf(doc), ""); len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	var c profileChecker
	p := &Profile{
		limits: c.limits(*doc.Limits),
		fields: fieldLimits{
			instanceID: c.within("fields.instance_id", *doc.Fields.InstanceID, 1, 1024),
			meteringSN: c.within("fields.metering_sn", *doc.Fields.MeteringSN, 32, 1024), // ours have 32 characters
			packageID:  c.within("fields.package", *doc.Fields.Package, 1, 1024),
			productID:  c.within("fields.product_id", *doc.Fields.ProductID, 1, 1024),
		},
		hourly: c.deadlines("hourly", *doc.Hourly), daily: c.deadlines("daily", *doc.Daily),
		sites: make(map[Site]siteProfile, len(doc.Sites)),
	}
	for _, name := range sortedNames(doc.Sites) {
		p.sites[Site(name)] = c.site("sites."+name, *doc.Sites[name], doc.Sites)
	}
	if len(p.sites) == 0 {
		c.fault("sites", "at least one [sites.NAME] is needed")
	}
	if err := errors.Join(c.errs...); err != nil {
		return nil, err
	}
	return p, nil
}

// decodeFault says where a profile is no TOML or has a key that it must not have.
func decodeFault(err error) error {
	if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		errs := make([]error, 0, len(strict.Errors))
		for _, e := range strict.Errors {
			row, _ := e.Position()
			errs = append(errs, fmt.Errorf("profile: line %d: %s: no such key", row, strings.Join(e.Key(), ".")))
		}
		return errors.Join(errs...)
	}
	if fault, ok := errors.AsType[*toml.DecodeError](err); ok {
		row, _ := fault.Position()
		return fmt.Errorf("profile: line %d: %s", row, strings.TrimPrefix(fault.Error(), "toml: "))
	}
	return fmt.Errorf("profile: %w", err)
}

// missing lists the keys that were left out.
func missing(v reflect.Value, prefix string) (errs []error) {
	for i := range v.NumField() {
		key := strings.TrimPrefix(prefix+"."+v.Type().Field(i).Tag.Get("toml"), ".")
		field := v.Field(i)
		switch {
		case field.Kind() == reflect.Map:
			for _, name := range field.MapKeys() {
				errs = append(errs, missing(field.MapIndex(name).Elem(), key+"."+name.String())...)
			}
		case field.IsNil():
			errs = append(errs, fmt.Errorf("profile: %s: is missing", key))
		case field.Elem().Kind() == reflect.Struct:
			errs = append(errs, missing(field.Elem(), key)...)
		}
	}
	return errs
}

// profileChecker collects faults.
type profileChecker struct{ errs []error }

func (c *profileChecker) fault(key, format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("profile: "+key+": "+format, args...))
}

func (c *profileChecker) within(key string, n, low, high int) int {
	if n < low || n > high {
		c.fault(key, "must be from %d to %d (got %d)", low, high, n)
	}
	return n
}

func (c *profileChecker) duration(key, text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d > 366*24*time.Hour {
		c.fault(key, "must be a duration such as 15m, at most a year (got %q)", clip(text))
	}
	return d
}

func (c *profileChecker) limits(doc limitsDocument) reporter.Limits {
	l := reporter.Limits{
		MaxBatch: c.within("limits.max_batch", *doc.MaxBatch, 1, 100_000),
		// A remainder must fit the decimals that the store keeps, beside those of a meter's scale.
		Scale:  int32(c.within("limits.scale", *doc.Scale, 0, 9)), //nolint:gosec // bounded
		MaxAge: c.duration("limits.max_age", *doc.MaxAge),
	}
	q, err := meter.ParseQuantity([]byte(*doc.MaxQuantity))
	if err != nil || q.Sign() <= 0 {
		c.fault("limits.max_quantity", "must be a positive number in quotes (got %q)", clip(*doc.MaxQuantity))
	} else if !q.Decimal().Equal(q.Decimal().Truncate(l.Scale)) {
		c.fault("limits.max_quantity", "has more than %d decimals (got %q)", l.Scale, clip(*doc.MaxQuantity))
	}
	l.MaxQuantity = q
	return l
}

func (c *profileChecker) deadlines(key string, doc deadlinesDocument) Deadlines {
	d := Deadlines{OnTime: c.duration(key+".on_time", *doc.OnTime), Late: c.duration(key+".late", *doc.Late)}
	if d.Late < d.OnTime {
		c.fault(key+".late", "must not be before on_time, %s (got %s)", d.OnTime, d.Late)
	}
	return d
}

func (c *profileChecker) site(key string, doc siteDocument, sites map[string]*siteDocument) siteProfile {
	zone, err := ParseZone(*doc.DayZone)
	if err != nil {
		c.fault(key+".day_zone", "%w", err)
	}
	c.address(key+".base_url", *doc.BaseURL)
	if *doc.FallbackURL == "" {
		if *doc.FallbackSite != "" {
			c.fault(key+".fallback_site", "must be empty where there is no fallback_url (got %q)", clip(*doc.FallbackSite))
		}
	} else {
		c.address(key+".fallback_url", *doc.FallbackURL)
		if sites[*doc.FallbackSite] == nil {
			c.fault(key+".fallback_site", "must name the site that fallback_url belongs to (got %q)", clip(*doc.FallbackSite))
		}
	}
	return siteProfile{
		baseURL: *doc.BaseURL, fallbackURL: *doc.FallbackURL, fallbackSite: Site(*doc.FallbackSite), dayZone: zone,
	}
}

// address demands a bare https address; it isn't repeated, because it may hold a password.
func (c *profileChecker) address(key, text string) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery ||
		u.Fragment != "" || u.Path != "" {
		c.fault(key, "must be like https://host, without path, user or query")
	}
}

// ParseZone reads the zone of billing days: an offset from UTC in whole hours such as "+08:00", "UTC", or a name of the time zone
// database such as "Asia/Shanghai".
func ParseZone(text string) (*time.Location, error) {
	if at, err := time.Parse("-07:00", text); err == nil {
		_, offset := at.Zone()
		if offset%3600 != 0 || offset < -12*3600 || offset > 14*3600 {
			return nil, fmt.Errorf("must be in whole hours, from -12:00 to +14:00 (got %q)", text)
		}
		if offset == 0 {
			return time.UTC, nil
		}
		return time.FixedZone("UTC"+text, offset), nil
	}
	if text == "" || text == "Local" {
		return nil, fmt.Errorf("must be an offset such as +08:00, UTC, or a zone such as Asia/Shanghai (got %q)", text)
	}
	zone, err := time.LoadLocation(text)
	if err != nil {
		return nil, fmt.Errorf("must be an offset such as +08:00, UTC, or a zone that this machine knows, such as Asia/Shanghai (got %q)", clip(text))
	}
	return zone, nil
}

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Limits returns the limits of records and batches.
func (p *Profile) Limits() reporter.Limits { return p.limits }

// Hourly returns the deadlines of products billed by the hour.
func (p *Profile) Hourly() Deadlines { return p.hourly }

// Daily returns the deadlines of products billed by the day.
func (p *Profile) Daily() Deadlines { return p.daily }

// Sites returns the names of the sites, in order.
func (p *Profile) Sites() []Site {
	names := make([]Site, 0, len(p.sites))
	for name := range p.sites {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// siteList is the names for people.
func (p *Profile) siteList() string {
	names := make([]string, 0, len(p.sites))
	for _, s := range p.Sites() {
		names = append(names, string(s))
	}
	return strings.Join(names, ", ")
}

// DayZone returns the zone of the site's billing days; ok is false for an unknown site.
func (p *Profile) DayZone(site Site) (zone *time.Location, ok bool) {
	s, ok := p.sites[site]
	return s.dayZone, ok
}

// OwnsHost reports whether the host is one of the marketplace's, of whatever site: what is sent there may be billed.
func (p *Profile) OwnsHost(host string) bool {
	host = strings.TrimSuffix(host, ".") // the root of all names, which may be written or not
	for _, s := range p.sites {
		for _, address := range []string{s.baseURL, s.fallbackURL} {
			if u, err := url.Parse(address); err == nil && address != "" && strings.EqualFold(u.Hostname(), host) {
				return true
			}
		}
	}
	return false
}
