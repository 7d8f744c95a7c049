package meter

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Aggregation says how the values of a window become one quantity.
type Aggregation uint8

// The aggregations, named as in OpenMeter's configuration (lower case in ours).
const (
	Sum         Aggregation = iota + 1 // Σ value
	Count                              // number of events
	Max                                // largest value
	Min                                // smallest value
	Latest                             // value of the event with the latest time
	UniqueCount                        // number of distinct values
)

var aggregationNames = map[Aggregation]string{
	Sum: "sum", Count: "count", Max: "max", Min: "min", Latest: "latest", UniqueCount: "unique_count",
}

// String is the name used in the configuration.
func (a Aggregation) String() string { return aggregationNames[a] }

// MarshalText writes the name used in the configuration.
func (a Aggregation) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// ParseAggregation reads a name in any case.
func ParseAggregation(name string) (Aggregation, error) {
	for a, n := range aggregationNames {
		if strings.EqualFold(n, name) {
			return a, nil
		}
	}
	return 0, fmt.Errorf("unknown aggregation %q; use sum, count, max, min, latest or unique_count", name)
}

// Dimension is a named value of the event's data, kept for reports and queries (groupBy).
type Dimension struct {
	Name string
	Path Path
}

// Meter declares what is counted. Meters are read-only once validated.
type Meter struct {
	// Slug names the meter: lower case letters, digits and single underscores between them.
	Slug        string
	Description string
	// EventType selects events by their CloudEvents type, exactly.
	EventType   string
	Aggregation Aggregation
	// Value is the place of the value in the event's data; empty for Count only.
	Value   Path
	GroupBy []Dimension
	// Unit is shown to people, for example "token".
	Unit string
	// Scale is the number of units in one billed unit, for example 1000 when the price is per 1000 tokens. It must be
	// positive; 1 means that units are billed as they are.
	Scale Quantity
	// Billed says whether closing a window makes bill records of this meter. A meter that isn't billed is only queried.
	Billed bool
	// Instance is the template of the marketplace's instance id for usage that no explicit mapping covers: "{subject}"
	// (the subject is the marketplace's instance id), "{subject}-tokens", or "" (explicit mapping only).
	Instance string
	// ProductID is the marketplace's product id of the billing item; only the old KooGallery usage push needs it.
	ProductID string
	// Product is the name of the product in the configuration that the meter belongs to; "" means the default terms.
	Product string
	// Late says what becomes of usage that arrives after its window was billed: "carry", "hold" or "write_off"; "" means carry.
	Late string
	// Price is the price of one billed unit, only for estimates of the money at risk; zero if not known.
	Price Quantity
}

var slugPattern = regexp.MustCompile(`^[a-z0-9]+(?:_[a-z0-9]+)*$`)

// Validate reports every fault of the meter at once.
func (m Meter) Validate() error {
	var errs []error
	if !slugPattern.MatchString(m.Slug) || len(m.Slug) > 64 {
		errs = append(errs, fmt.Errorf("slug: must match %s and have at most 64 characters (got %q)", slugPattern, m.Slug))
	}
	if m.EventType == "" {
		errs = append(errs, errors.New("event_type: is required"))
	}
	if m.Aggregation.String() == "" {
		errs = append(errs, errors.New("aggregation: is required"))
	}
	if m.Aggregation == Count && !m.Value.IsZero() {
		errs = append(errs, errors.New("value: count takes no value; remove it or use another aggregation"))
	}
	if m.Aggregation != Count && m.Value.IsZero() {
		errs = append(errs, fmt.Errorf("value: %s needs a JSON path such as $.tokens", m.Aggregation))
	}
	if m.Scale.Sign() <= 0 {
		errs = append(errs, fmt.Errorf("scale: must be positive (got %s)", m.Scale))
	}
	if strings.Count(m.Instance, "{") != strings.Count(m.Instance, "{subject}") {
		errs = append(errs, fmt.Errorf("instance: the only placeholder is {subject} (got %q)", m.Instance))
	}
	seen := map[string]bool{}
	for _, d := range m.GroupBy {
		if d.Name == "" || seen[d.Name] {
			errs = append(errs, fmt.Errorf("group_by: names must be unique and not empty (got %q)", d.Name))
		}
		seen[d.Name] = true
	}
	return errors.Join(errs...)
}

// Fingerprint identifies what decides the values the store keeps for this meter: event type, value path, kind of value,
// and dimensions. A meter that gets another path gets another fingerprint, so values extracted under the old definition are never
// mixed with the new ones; the past is recomputed from raw events. Slug, unit, scale and billing don't matter to it.
func (m Meter) Fingerprint() uint64 {
	kind := "number"
	switch m.Aggregation {
	case Count:
		kind = "count"
	case UniqueCount:
		kind = "text"
	case Sum, Max, Min, Latest:
	}
	h := sha256.New()
	for _, part := range []string{"meter/1", m.EventType, m.Value.String(), kind} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	for _, d := range m.GroupBy {
		fmt.Fprintf(h, "%d:%s%d:%s", len(d.Name), d.Name, len(d.Path.String()), d.Path.String())
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}
