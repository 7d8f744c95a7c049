package meter

import (
	"errors"
	"fmt"
	"slices"
)

// Catalog holds the meters, ready to be applied to events. It is read-only and safe for concurrent use.
//
// An event whose type no meter has is accepted, stored and counted as "without meter": raw events are kept so that a
// meter that is declared later can be computed over the past. An event whose type has meters must carry a valid value
// for each of them.
type Catalog struct {
	meters []Meter
	slugs  map[string]int
	types  map[string]*typePlan
}

// typePlan is what the meters of one event type need.
type typePlan struct {
	root   pathNode
	paths  []Path // by slot
	values []valuePlan
}

// valuePlan is one value that the store keeps. Meters that differ only in how they aggregate share it.
type valuePlan struct {
	fingerprint uint64
	slug        string // of the first meter that needs it
	kind        valueKind
	slot        int
	dimensions  []dimensionPlan
}

type dimensionPlan struct {
	name string
	slot int
}

type valueKind uint8

const (
	valueCount valueKind = iota
	valueNumber
	valueText
)

// NewCatalog validates the meters and prepares them. Slugs must be unique. The error joins all faults, each with the
// meter's place in the list. No meters at all is fine.
func NewCatalog(meters []Meter) (*Catalog, error) {
	c := &Catalog{meters: slices.Clone(meters), slugs: map[string]int{}, types: map[string]*typePlan{}}
	var errs []error
	for i, m := range c.meters {
		if err := m.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("meter %d (%s): %w", i+1, m.Slug, err))
			continue
		}
		if other, taken := c.slugs[m.Slug]; taken {
			errs = append(errs, fmt.Errorf("meter %d: slug %q is already that of meter %d; slugs must be unique", i+1, m.Slug, other+1))
			continue
		}
		c.slugs[m.Slug] = i
		c.add(m)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for _, plan := range c.types {
		plan.root.countLeaves()
	}
	return c, nil
}

// add plans a meter's value.
func (c *Catalog) add(m Meter) {
	plan := c.types[m.EventType]
	if plan == nil {
		plan = &typePlan{root: pathNode{slot: -1}}
		c.types[m.EventType] = plan
	}
	v := valuePlan{fingerprint: m.Fingerprint(), slug: m.Slug, kind: kindOf(m.Aggregation), slot: -1}
	for _, other := range plan.values {
		if other.fingerprint == v.fingerprint {
			return
		}
	}
	if v.kind != valueCount {
		v.slot = plan.slotOf(m.Value)
	}
	for _, d := range m.GroupBy {
		v.dimensions = append(v.dimensions, dimensionPlan{d.Name, plan.slotOf(d.Path)})
	}
	plan.values = append(plan.values, v)
}

func kindOf(a Aggregation) valueKind {
	switch a {
	case Count:
		return valueCount
	case UniqueCount:
		return valueText
	case Sum, Max, Min, Latest:
	}
	return valueNumber
}

// slotOf gives each distinct path one slot.
func (p *typePlan) slotOf(path Path) int {
	node := &p.root
	for _, step := range path.Steps() {
		node = node.child(step)
	}
	if node.slot < 0 {
		node.slot = len(p.paths)
		p.paths = append(p.paths, path)
	}
	return node.slot
}

func (n *pathNode) countLeaves() int {
	n.leaves = 0
	if n.slot >= 0 {
		n.leaves = 1
	}
	for _, c := range n.names {
		n.leaves += c.node.countLeaves()
	}
	for _, c := range n.indexes {
		n.leaves += c.node.countLeaves()
	}
	return n.leaves
}

// Meters are the meters in the order given. The caller must not change them.
func (c *Catalog) Meters() []Meter { return c.meters }

// Meter returns the meter with a slug.
func (c *Catalog) Meter(slug string) (Meter, bool) {
	i, ok := c.slugs[slug]
	if !ok {
		return Meter{}, false
	}
	return c.meters[i], true
}

// ForType reports whether any meter counts events of this type.
func (c *Catalog) ForType(eventType []byte) bool { return c.types[string(eventType)] != nil }
