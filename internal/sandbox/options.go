package sandbox

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sort"
	"time"
)

// Limits of the published API (KooGallery usage push, sections 1.2 to 1.7).
const (
	// MaxRecordsPerCall is the largest number of records in one call.
	MaxRecordsPerCall = 1000
	// MaxRecordAge is how far in the past begin_time may lie.
	MaxRecordAge = 21 * 24 * time.Hour
)

// Defaults of [Options].
const (
	// DefaultSeller is the seller's name where only Options.Key is given, and the owner of access keys.
	DefaultSeller = "seller"
	// DefaultTolerance is how far ts may be from the clock. The pages give no figure for this direction; 60 s is what
	// the marketplace asks of sellers in the other direction.
	DefaultTolerance = 60 * time.Second
	// DefaultDateTolerance is how far X-Sdk-Date may be from the clock.
	DefaultDateTolerance = 15 * time.Minute
	// DefaultValidationDelay is the age at which the background validation looks at a record.
	DefaultValidationDelay = 5 * time.Second
	// DefaultMaxRecords bounds the memory: about 0.6 GB when full.
	DefaultMaxRecords = 1_000_000
	// DefaultMaxBody is the largest body accepted, in bytes: four times a full call with fields of greatest length.
	DefaultMaxBody = 2 << 20
	// DefaultRequestLog is the number of calls remembered for the request list.
	DefaultRequestLog = 200
	// hardMaxRecords keeps every sum of usage values inside an int64 of ten-thousandths.
	hardMaxRecords = 9_000_000
)

// SignatureForm says over which text of the body the new API's signature was, or must be, made.
type SignatureForm string

// Forms of a signature.
const (
	// FormAny, the zero value, demands nothing.
	FormAny SignatureForm = ""
	// FormRaw is a signature over the bytes received.
	FormRaw SignatureForm = "raw"
	// FormSorted is a signature over the body parsed, its keys sorted, and written compactly again.
	FormSorted SignatureForm = "sorted"
	// FormBoth is reported where the bytes received are the sorted compact form.
	FormBoth SignatureForm = "both"
	// FormAKSK is reported for the old API.
	FormAKSK SignatureForm = "aksk"
)

// Collection says how often valid records are collected into a bill.
type Collection string

// Collection cycles (KooGallery usage push, section 1.6).
const (
	// CollectHourly collects at minute 15 of every hour; it is the zero value's meaning.
	CollectHourly Collection = "hourly"
	// CollectDaily collects at 01:00 in Options.Zone.
	CollectDaily Collection = "daily"
)

// Options configure a sandbox. The zero value of every field but Now and the keys has a working meaning.
type Options struct {
	// Now is the clock; mandatory.
	Now func() time.Time
	// Logger receives state changes and refused calls; nil discards them.
	Logger *slog.Logger

	// Key is the seller key of the single seller [DefaultSeller].
	Key string
	// SellerKeys are further sellers by name; the key with which a signature verifies identifies the seller.
	SellerKeys map[string]string
	// AccessKeys are the access keys of the old API with their secrets. They belong to DefaultSeller unless
	// AccessKeySellers names another.
	AccessKeys map[string]string
	// AccessKeySellers gives the seller of an access key.
	AccessKeySellers map[string]string
	// NotSellers lists names from SellerKeys or AccessKeySellers whose calls verify but get MKT.0151.
	NotSellers []string

	// Tolerance is how far ts may be from the clock, inclusive; 0 means DefaultTolerance.
	Tolerance time.Duration
	// DateTolerance is the same for X-Sdk-Date; 0 means DefaultDateTolerance.
	DateTolerance time.Duration
	// RequireForm demands one form of signature: FormRaw or FormSorted; FormAny takes either.
	RequireForm SignatureForm

	// Strict makes instances that were not declared unknown. Without it any instance id is a known, open pay-per-use
	// instance of whoever reports it.
	Strict bool
	// InstancesAtUpload refuses unknown and foreign instances at upload (MKT.9001, MKT.0150) instead of accepting the
	// call and failing the record in the background (001, 009).
	InstancesAtUpload bool
	// FormatsInBackground lets times and values of wrong form and a missing metering_sn pass the upload, to fail in
	// the background as 002, 003 and 004. By default the upload refuses what does not even look like a time, a number
	// or a record, and the background finds impossible dates, values out of range and empty ids.
	FormatsInBackground bool
	// Instances are declared from the start.
	Instances []Instance

	// ValidationDelay is the age at which a record is validated; 0 means DefaultValidationDelay, negative means at
	// once. A collection validates everything received before it.
	ValidationDelay time.Duration
	// Collection is the billing cycle; empty means CollectHourly.
	Collection Collection
	// Zone is the time zone of the daily collection; nil means UTC+8.
	Zone *time.Location

	// Faults are injected from the start.
	Faults []Fault
	// MaxRecords bounds the records kept; 0 means DefaultMaxRecords. A call that would exceed it gets MKT.0999.
	MaxRecords int
	// MaxBody bounds a body in bytes; 0 means DefaultMaxBody.
	MaxBody int64
	// RequestLog is the number of calls remembered; 0 means DefaultRequestLog.
	RequestLog int
	// StateFile is the path of the state log; empty keeps everything in memory only.
	StateFile string
	// SyncState forces the log to disk before each answer, so that a power cut loses nothing either.
	SyncState bool
	// AdminAnywhere opens the page and /sandbox/ to callers that are not on the loopback interface.
	AdminAnywhere bool
}

// seller is one caller identity of the new API.
type seller struct {
	name string
	key  []byte
}

// withDefaults returns the options completed, or every mistake in them.
func (o Options) withDefaults() (Options, error) {
	var errs []error
	if o.Now == nil {
		errs = append(errs, errors.New("options: Now is mandatory"))
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&o.Tolerance, DefaultTolerance)
	setDefault(&o.DateTolerance, DefaultDateTolerance)
	setDefault(&o.ValidationDelay, DefaultValidationDelay)
	setDefault(&o.Collection, CollectHourly)
	setDefault(&o.MaxRecords, DefaultMaxRecords)
	setDefault(&o.MaxBody, DefaultMaxBody)
	setDefault(&o.RequestLog, DefaultRequestLog)
	if o.Zone == nil {
		o.Zone = time.FixedZone("UTC+8", 8*60*60)
	}
	if o.Tolerance < 0 || o.DateTolerance < 0 {
		errs = append(errs, errors.New("options: a tolerance must not be negative"))
	}
	o.ValidationDelay = max(o.ValidationDelay, 0)
	if o.Collection != CollectHourly && o.Collection != CollectDaily {
		errs = append(errs, fmt.Errorf("options: Collection must be hourly or daily (got %q)", o.Collection))
	}
	if o.RequireForm != FormAny && o.RequireForm != FormRaw && o.RequireForm != FormSorted {
		errs = append(errs, fmt.Errorf("options: RequireForm must be empty, raw or sorted (got %q)", o.RequireForm))
	}
	if o.MaxRecords < 0 || o.MaxRecords > hardMaxRecords {
		errs = append(errs, fmt.Errorf("options: MaxRecords must be 1 to %d (got %d)", hardMaxRecords, o.MaxRecords))
	}
	if o.MaxBody < 0 || o.RequestLog < 0 {
		errs = append(errs, errors.New("options: MaxBody and RequestLog must not be negative"))
	}
	return o, errors.Join(errs...)
}

// setDefault replaces a zero value.
func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// sellers lists the caller identities of the new API in a stable order.
func (o Options) sellers() ([]seller, error) {
	byName := map[string]string{}
	maps.Copy(byName, o.SellerKeys)
	if o.Key != "" {
		if _, ok := byName[DefaultSeller]; ok {
			return nil, fmt.Errorf("options: both Key and SellerKeys[%q] are given", DefaultSeller)
		}
		byName[DefaultSeller] = o.Key
	}
	if len(byName) == 0 && len(o.AccessKeys) == 0 {
		return nil, errors.New("options: give a seller key or an access key, else no call can verify")
	}
	owner := map[string]string{}
	list := make([]seller, 0, len(byName))
	for name, key := range byName {
		if name == "" || key == "" {
			return nil, errors.New("options: a seller's name and key must not be empty")
		}
		if other, ok := owner[key]; ok {
			return nil, fmt.Errorf("options: sellers %q and %q have the same key", min(name, other), max(name, other))
		}
		owner[key] = name
		list = append(list, seller{name: name, key: []byte(key)})
	}
	for ak, sk := range o.AccessKeys {
		if ak == "" || sk == "" {
			return nil, errors.New("options: an access key and its secret must not be empty")
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].name < list[j].name })
	return list, nil
}
