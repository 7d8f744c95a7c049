package reporter

import "fmt"

// Mode says what happens to the records of a product. The numbers are stored: never renumber, only add.
type Mode uint8

// The modes.
const (
	// ModeLive: records go to the marketplace. The zero value.
	ModeLive Mode = 0
	// ModeShadow: records go to the shadow destination, if there is one, and never to the marketplace; they end as
	// StateShadowed.
	ModeShadow Mode = 1
	// ModeDryRun: records go nowhere; they begin and end as StateDryRun.
	ModeDryRun Mode = 2
)

var modeNames = map[Mode]string{ModeLive: "live", ModeShadow: "shadow", ModeDryRun: "dry_run"}

// String is the name used in the configuration and APIs; "" for a value that is no mode.
func (m Mode) String() string { return modeNames[m] }

// MarshalText writes [Mode.String].
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// ParseMode reads a name.
func ParseMode(name string) (Mode, error) {
	for m, n := range modeNames {
		if n == name {
			return m, nil
		}
	}
	return 0, fmt.Errorf("unknown mode %q; use live, shadow or dry_run", name)
}

// Cycle is how much time one record of a product covers (KooGallery usage push, section 4.1).
type Cycle uint8

// The billing cycles.
const (
	// CycleHourly: one record an hour. The zero value.
	CycleHourly Cycle = 0
	// CycleDaily: one record a day, in the zone of the site's billing days.
	CycleDaily Cycle = 1
)

var cycleNames = map[Cycle]string{CycleHourly: "hourly", CycleDaily: "daily"}

// String is the name used in the configuration; "" for a value that is no cycle.
func (c Cycle) String() string { return cycleNames[c] }

// ParseCycle reads a name.
func ParseCycle(name string) (Cycle, error) {
	for c, n := range cycleNames {
		if n == name {
			return c, nil
		}
	}
	return 0, fmt.Errorf("unknown cycle %q; use hourly or daily", name)
}

// LatePolicy says what becomes of usage that arrives after its window was billed. Under Tier pricing a merged record changes
// the price (KooGallery usage push, section 4.3), so it is a choice.
type LatePolicy uint8

// The policies.
const (
	// LateCarry: billed with the next window, or as its own window if that was idle. The zero value.
	LateCarry LatePolicy = 0
	// LateHold: waits for a person's approval.
	LateHold LatePolicy = 1
	// LateWriteOff: booked as written off.
	LateWriteOff LatePolicy = 2
)

var latePolicyNames = map[LatePolicy]string{LateCarry: "carry", LateHold: "hold", LateWriteOff: "write_off"}

// String is the name used in the configuration; "" for a value that is no policy.
func (p LatePolicy) String() string { return latePolicyNames[p] }

// ParseLatePolicy reads a name.
func ParseLatePolicy(name string) (LatePolicy, error) {
	for p, n := range latePolicyNames {
		if n == name {
			return p, nil
		}
	}
	return 0, fmt.Errorf("unknown policy %q; use carry, hold or write_off", name)
}

// Terms are how a meter's usage is billed.
type Terms struct {
	Product string // name of the product in the configuration; "" for none
	Mode    Mode
	Cycle   Cycle
	Late    LatePolicy
}
