package sandbox

import (
	"maps"
	"slices"
	"time"
)

// Totals counts records and sums the usage of those that are, or will be, billed.
type Totals struct {
	Received  int `json:"received"`
	Valid     int `json:"valid"`
	Abnormal  int `json:"abnormal"`
	Collected int `json:"collected"`
	// Records is Valid + Collected: the records that UsageValue sums.
	Records int `json:"records"`
	// UsageValue is the exact sum of usage_value over valid and collected records, a plain decimal.
	UsageValue string `json:"usage_value"`
	// CollectedValue is the exact sum over collected records alone.
	CollectedValue string `json:"collected_value"`

	units, collectedUnits int64
}

// InstanceSummary is what one instance amounts to.
type InstanceSummary struct {
	InstanceID string `json:"instance_id"`
	Totals
}

// BillSummary is what one collection took.
type BillSummary struct {
	CollectedAt time.Time `json:"collected_at"`
	Records     int       `json:"records"`
	UsageValue  string    `json:"usage_value"`

	units int64
}

// Summary is the state of the whole sandbox.
type Summary struct {
	// Now is the marketplace's time, Moved how far advance requests moved it.
	Now   time.Time `json:"now"`
	Moved Duration  `json:"moved,omitempty"`
	// NextCollection is the next time at which valid records become immutable.
	NextCollection time.Time `json:"next_collection"`
	Total          Totals    `json:"total"`
	// Codes counts abnormal records by code.
	Codes map[string]int `json:"abnormal_codes"`
	// Instances are sorted by id, Bills by time.
	Instances []InstanceSummary `json:"instances"`
	Bills     []BillSummary     `json:"bills"`
}

// add counts one record.
func (t *Totals) add(r *Record, units int64) {
	switch r.State {
	case StateReceived:
		t.Received++
	case StateAbnormal:
		t.Abnormal++
	case StateValid:
		t.Valid++
	case StateCollected:
		t.Collected++
		t.collectedUnits += units
	}
	if r.counts() {
		t.Records++
		t.units += units
	}
}

// finish prints the sums.
func (t *Totals) finish() {
	t.UsageValue, t.CollectedValue = formatUnits(t.units), formatUnits(t.collectedUnits)
}

// Summary gives counts and exact sums, of everything and per instance and bill. It is derived from the records each
// time; there are no counters that could disagree with them.
func (s *Sandbox) Summary() Summary {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock()
	out := Summary{Now: now, Moved: Duration(s.offset), NextCollection: s.nextCollection(now), Codes: map[string]int{}}
	perInstance := map[string]*InstanceSummary{}
	bills := map[time.Time]*BillSummary{}
	for _, r := range s.records {
		units := int64(0)
		if r.counts() {
			units, _ = parseUnits(r.UsageValue) // Validation passed, so it parses.
		}
		inst, ok := perInstance[r.InstanceID]
		if !ok {
			inst = &InstanceSummary{InstanceID: r.InstanceID}
			perInstance[r.InstanceID] = inst
		}
		inst.add(r, units)
		out.Total.add(r, units)
		if r.Code != "" {
			out.Codes[r.Code]++
		}
		if r.State != StateCollected {
			continue
		}
		bill, ok := bills[r.CollectedAt]
		if !ok {
			bill = &BillSummary{CollectedAt: r.CollectedAt}
			bills[r.CollectedAt] = bill
		}
		bill.Records++
		bill.units += units
	}
	out.Total.finish()
	out.Instances = make([]InstanceSummary, 0, len(perInstance))
	for _, id := range slices.Sorted(maps.Keys(perInstance)) {
		perInstance[id].finish()
		out.Instances = append(out.Instances, *perInstance[id])
	}
	out.Bills = make([]BillSummary, 0, len(bills))
	for _, at := range slices.SortedFunc(maps.Keys(bills), time.Time.Compare) {
		bills[at].UsageValue = formatUnits(bills[at].units)
		out.Bills = append(out.Bills, *bills[at])
	}
	return out
}
