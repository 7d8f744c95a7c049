package meter

import (
	"errors"
	"fmt"
)

// Extractor applies a catalog to events one after the other without allocating. It is not safe for concurrent use; get
// one for each goroutine.
type Extractor struct {
	catalog  *Catalog
	x        extractor
	lastType []byte // the type of the event before, most often that of the next
	last     *typePlan
	slab     [][]byte // room for the dimensions of values to come
	one      Quantity // what an event adds to a count
}

// NewExtractor returns an extractor for the catalog's meters.
func (c *Catalog) NewExtractor() *Extractor { return &Extractor{catalog: c, one: NewQuantity(1, 0)} }

// plan returns what the meters of an event type need; nil if there is no meter.
func (e *Extractor) plan(eventType []byte) *typePlan {
	if e.last == nil || string(e.lastType) != string(eventType) {
		e.last = e.catalog.types[string(eventType)]
		e.lastType = append(e.lastType[:0], eventType...)
	}
	return e.last
}

// Check reports whether the event carries a valid value for each meter of its type. metered is false if its type has no
// meter; such an event is always fine. The problem is nil for a good event; its Index and Offset are the caller's to
// fill.
func (e *Extractor) Check(ev *Event) (metered bool, p *Problem) {
	plan := e.plan(ev.Type)
	if plan == nil {
		return false, nil
	}
	e.x.run(&plan.root, len(plan.paths), ev.Data)
	for i := range plan.values {
		if reason := e.fault(&plan.values[i]); reason != "" {
			return true, e.problem(plan, &plan.values[i], reason)
		}
	}
	return true, nil
}

// fault returns why a value can't be taken; "" if it can. The extractor has run.
func (e *Extractor) fault(v *valuePlan) Reason {
	if v.kind != valueCount {
		s := e.x.slots[v.slot]
		if reason := slotFault(s); reason != "" {
			return reason
		}
		if v.kind == valueNumber {
			if err := CheckQuantity(e.x.bytes(s)); err != nil {
				return quantityReason(err)
			}
		} else if s.end-s.start > MaxAttribute {
			return ReasonValueTooLong
		}
	}
	for _, d := range v.dimensions {
		if s := e.x.slots[d.slot]; s.kind == kindObject || s.kind == kindArray || s.end-s.start > MaxAttribute {
			return ReasonDimension
		}
	}
	return ""
}

func slotFault(s slot) Reason {
	switch s.kind {
	case kindNumber:
		return ""
	case kindText:
		if s.end == s.start {
			return ReasonValueMissing
		}
		return ""
	case kindAbsent, kindNull:
		return ReasonValueMissing
	}
	return ReasonValueType
}

func quantityReason(err error) Reason {
	switch {
	case errors.Is(err, ErrNegativeQuantity):
		return ReasonValueNegative
	case errors.Is(err, ErrQuantityTooLarge):
		return ReasonValueTooLarge
	case errors.Is(err, ErrQuantityTooFine):
		return ReasonValueTooFine
	}
	return ReasonValueNumber
}

// problem explains a fault.
func (e *Extractor) problem(plan *typePlan, v *valuePlan, reason Reason) *Problem {
	p := &Problem{Meter: v.slug, Reason: reason}
	if reason == ReasonDimension {
		for _, d := range v.dimensions {
			if s := e.x.slots[d.slot]; s.kind == kindObject || s.kind == kindArray || s.end-s.start > MaxAttribute {
				p.Field = plan.paths[d.slot].String()
				p.Detail = fmt.Sprintf("dimension %s of meter %s at %s must be a text, number or bool of at most %d bytes", d.name, v.slug, p.Field, MaxAttribute)
				return p
			}
		}
	}
	s := e.x.slots[v.slot]
	p.Field = plan.paths[v.slot].String()
	switch reason {
	case ReasonValueMissing:
		p.Detail = fmt.Sprintf("meter %s needs a value at %s of data; it is absent, null or empty", v.slug, p.Field)
	case ReasonValueType:
		p.Detail = fmt.Sprintf("meter %s needs a number or a text at %s of data", v.slug, p.Field)
	case ReasonValueTooLong:
		p.Detail = fmt.Sprintf("the text of meter %s at %s has more than %d bytes; send a hash of it", v.slug, p.Field, MaxAttribute)
	default:
		err := CheckQuantity(e.x.bytes(s))
		p.Detail = fmt.Sprintf("the value of meter %s at %s is %v", v.slug, p.Field, err)
	}
	return p
}

// Values appends the values of the event for all meters of its type to rows.Values, as those of row number row. It is
// how the loader computes them, and how a meter that was declared later is computed over stored events. The texts are
// views into ev.Data, or copies where the JSON had escapes, and live as long as ev.Data does.
//
// A value that can't be read is left out and counted as missing, with the problem of the first one: the event was accepted
// under an older catalog. Its raw form stays in the store.
func (e *Extractor) Values(rows *EventRows, row int, ev *Event) (missing int, problem *Problem) {
	plan := e.plan(ev.Type)
	if plan == nil {
		return 0, nil
	}
	e.x.text = nil // texts of this event may outlive the next run
	e.x.run(&plan.root, len(plan.paths), ev.Data)
	for i := range plan.values {
		v := &plan.values[i]
		if reason := e.fault(v); reason != "" {
			missing++
			if problem == nil {
				problem = e.problem(plan, v, reason)
			}
			continue
		}
		rows.Values = append(rows.Values, e.value(v, row))
	}
	return missing, problem
}

// value builds the value of a row that has no fault.
func (e *Extractor) value(v *valuePlan, row int) EventValue {
	out := EventValue{Row: row, Meter: v.fingerprint}
	switch v.kind {
	case valueCount:
		out.Quantity = e.one
	case valueNumber:
		q, err := ParseQuantity(e.x.bytes(e.x.slots[v.slot]))
		if err != nil { // fault has accepted the same bytes
			panic(fmt.Sprintf("parse a checked quantity: %v", err))
		}
		out.Quantity = q
	case valueText:
		out.Text = e.x.bytes(e.x.slots[v.slot])
	}
	if len(v.dimensions) > 0 {
		out.Dimensions = e.dimensions(len(v.dimensions))
		for i, d := range v.dimensions {
			if s := e.x.slots[d.slot]; s.kind != kindAbsent && s.kind != kindNull {
				out.Dimensions[i] = e.x.bytes(s)
			}
		}
	}
	return out
}

// dimensions cuts n empty texts off a slab: one allocation serves many values.
func (e *Extractor) dimensions(n int) [][]byte {
	const slab = 1024
	if len(e.slab) < n {
		e.slab = make([][]byte, max(slab, n))
	}
	d := e.slab[:n:n]
	e.slab = e.slab[n:]
	return d
}

// Values returns the values of one event for all meters of its type, each with Row 0. See [Extractor.Values], which
// serves many events.
func (c *Catalog) Values(ev *Event) ([]EventValue, *Problem) {
	var rows EventRows
	_, problem := c.NewExtractor().Values(&rows, 0, ev)
	return rows.Values, problem
}
