package koogallery

import (
	"errors"
	"fmt"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// Rules are what KooGallery demands of records, as far as it can be told without a key and without sending anything.
// They are all that closing a window needs.
type Rules struct {
	// API decides which fields are mandatory; "" means APINew.
	API API
	// MaxBatch is the configured size of a batch; 0 means the profile's.
	MaxBatch int
	// Profile holds the limits; nil means the built-in one.
	Profile *Profile
}

var _ reporter.Rules = Rules{}

// profile returns the profile to go by.
func (r Rules) profile() *Profile {
	if r.Profile == nil {
		return BuiltinProfile()
	}
	return r.Profile
}

// Limits returns the marketplace's limits, with the configured size of a batch.
func (r Rules) Limits() reporter.Limits {
	limits := r.profile().limits
	if r.MaxBatch > 0 {
		limits.MaxBatch = r.MaxBatch
	}
	return limits
}

// Check reports every reason why u can't be sent, in one error; nil if it can. The age of the record is not looked at:
// it depends on when it is sent.
func (r Rules) Check(u reporter.UsageRecord) error {
	p := r.profile()
	errs := []error{
		checkID("instance id", u.InstanceID, p.fields.instanceID, true),
		checkID("package", u.Package, p.fields.packageID, false),
	}
	if r.API == APIOld {
		errs = append(errs, checkID("product id", u.ProductID, p.fields.productID, true))
	} else {
		errs = append(errs, checkID("metering_sn", string(u.SN), p.fields.meteringSN, true))
	}
	errs = append(errs, checkTimes(u), checkQuantity(u.Quantity, p.limits))
	return errors.Join(errs...)
}

// checkID allows printable ASCII without quotes and backslashes: then no serializer has anything to escape, and the
// signature can't depend on how it would.
func checkID(name, value string, limit int, mandatory bool) error {
	if value == "" {
		if mandatory {
			return fmt.Errorf("%s: missing", name)
		}
		return nil
	}
	if len(value) > limit {
		return fmt.Errorf("%s: longer than %d characters (got %d)", name, limit, len(value))
	}
	for i := range len(value) {
		if c := value[i]; c < ' ' || c > '~' || c == '"' || c == '\'' || c == '\\' {
			return fmt.Errorf("%s: only printable ASCII without quotes and backslashes is allowed (got %q)", name, value)
		}
	}
	return nil
}

// checkTimes demands what the marketplace demands of a record: begin before end, end not after the record's time, and
// times that the wire format, whole seconds in four-digit years, can carry unchanged.
func checkTimes(r reporter.UsageRecord) error {
	begin, end := r.Window.Start, r.Window.End
	for _, t := range []struct {
		name string
		at   time.Time
	}{{"begin", begin}, {"end", end}, {"record time", r.RecordTime}} {
		if year := t.at.UTC().Year(); t.at.IsZero() || year < 1970 || year > 9999 {
			return fmt.Errorf("%s: missing or out of range (got %s)", t.name, t.at.UTC().Format(time.RFC3339))
		}
	}
	switch {
	case begin.Nanosecond() != 0 || end.Nanosecond() != 0:
		return fmt.Errorf("window: begin and end must be whole seconds (got %s to %s)",
			begin.UTC().Format(time.RFC3339Nano), end.UTC().Format(time.RFC3339Nano))
	case !begin.Before(end):
		return fmt.Errorf("window: begin must be before end (got %s)", r.Window)
	case r.RecordTime.Before(end):
		return fmt.Errorf("record time: before the window's end (got %s, window %s)",
			r.RecordTime.UTC().Format(time.RFC3339), r.Window)
	}
	return nil
}

// checkQuantity demands a positive amount within the limits: 12 digits, 4 of them after the point, in the built-in profile.
func checkQuantity(q meter.Quantity, limits reporter.Limits) error {
	switch {
	case q.Sign() <= 0:
		return fmt.Errorf("quantity: must be above zero (got %s); nothing is reported for an idle window", clip(q.String()))
	case q.Cmp(limits.MaxQuantity) > 0:
		return fmt.Errorf("quantity: above %s (got %s); bill a larger unit by setting the meter's scale",
			limits.MaxQuantity, clip(q.String()))
	case !q.Decimal().Equal(q.Decimal().Truncate(limits.Scale)):
		return fmt.Errorf("quantity: more than %d decimals (got %s)", limits.Scale, clip(q.String()))
	}
	return nil
}

// clip keeps an error short whatever the amount.
func clip(s string) string {
	const limit = 60
	if len(s) > limit {
		return s[:limit] + "…"
	}
	return s
}
