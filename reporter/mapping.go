package reporter

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/meterd/meterd/meter"
)

// SubjectMeter names usage: whose, and by which meter.
type SubjectMeter struct{ Subject, Meter string }

// String is "subject/meter".
func (p SubjectMeter) String() string { return p.Subject + "/" + p.Meter }

// Mapping says to which instance of the marketplace a subject's usage of a meter is billed.
type Mapping struct {
	Subject    string
	Meter      string // slug
	InstanceID string
	ProductID  string // empty: the meter's
}

// Target is where usage is billed.
type Target struct{ InstanceID, ProductID string }

// Mapper finds the marketplace's instance for usage: by an explicit mapping, or else by the meter's template. It is
// read-only and safe for concurrent use.
type Mapper struct {
	explicit  map[SubjectMeter]Target
	explained map[string]SubjectMeter // by instance id, of the explicit mappings
	meters    map[string]meter.Meter  // billed meters by slug
	slugs     []string                // of the billed meters, sorted
}

const subjectPlaceholder = "{subject}"

// NewMapper checks meters and mappings together and reports every fault at once. Meters that aren't billed are ignored,
// but a mapping that names one is a fault.
func NewMapper(meters []meter.Meter, mappings []Mapping) (*Mapper, error) {
	m := &Mapper{
		explicit: map[SubjectMeter]Target{}, explained: map[string]SubjectMeter{}, meters: map[string]meter.Meter{},
	}
	errs := m.addMeters(meters)
	known := map[string]bool{}
	for _, mt := range meters {
		known[mt.Slug] = true
	}
	for i, mp := range mappings {
		for _, err := range m.addMapping(mp, known) {
			errs = append(errs, fmt.Errorf("mappings[%d]: %w", i, err))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return m, nil
}

// addMeters takes over the billed meters and checks their templates.
func (m *Mapper) addMeters(meters []meter.Meter) (errs []error) {
	byTemplate := map[string]string{}
	seen := map[string]bool{}
	for _, mt := range meters {
		if seen[mt.Slug] {
			errs = append(errs, fmt.Errorf("meters: %q is declared twice", mt.Slug))
			continue
		}
		seen[mt.Slug] = true
		if !mt.Billed {
			continue
		}
		m.meters[mt.Slug] = mt
		m.slugs = append(m.slugs, mt.Slug)
		if mt.Instance == "" {
			continue
		}
		if !strings.Contains(mt.Instance, subjectPlaceholder) {
			errs = append(errs, fmt.Errorf("meters: %q: instance %q lacks {subject}, so every subject would be billed to "+
				"one instance; add {subject}, or set instance = \"\" and add [[mappings]]", mt.Slug, mt.Instance))
			continue
		}
		if other, taken := byTemplate[mt.Instance]; taken {
			errs = append(errs, fmt.Errorf("meters: %q and %q both have instance = %q, and the marketplace takes one record "+
				"per instance and hour; give one of them another template such as \"{subject}-%s\", or set instance = \"\" and "+
				"add [[mappings]], or set billed = false", other, mt.Slug, mt.Instance, mt.Slug))
			continue
		}
		byTemplate[mt.Instance] = mt.Slug
	}
	slices.Sort(m.slugs)
	return errs
}

// addMapping takes over one explicit mapping.
func (m *Mapper) addMapping(mp Mapping, known map[string]bool) (errs []error) {
	pair := SubjectMeter{mp.Subject, mp.Meter}
	if mp.Subject == "" {
		errs = append(errs, errors.New("subject: is required"))
	}
	if mp.InstanceID == "" {
		errs = append(errs, errors.New("instance_id: is required"))
	}
	mt, billed := m.meters[mp.Meter]
	switch {
	case !known[mp.Meter]:
		errs = append(errs, fmt.Errorf("meter: there is no meter %q; declare it in [[meters]]", mp.Meter))
	case !billed:
		errs = append(errs, fmt.Errorf("meter: %q is not billed; set billed = true or remove the mapping", mp.Meter))
	}
	if len(errs) > 0 {
		return errs
	}
	if _, taken := m.explicit[pair]; taken {
		return []error{fmt.Errorf("subject %q and meter %q are mapped twice; keep one of the mappings", mp.Subject, mp.Meter)}
	}
	if other, taken := m.explained[mp.InstanceID]; taken {
		return []error{fmt.Errorf("instance_id: %q is already mapped for subject %q and meter %q; the marketplace takes one "+
			"record per instance and hour, use an instance for each", mp.InstanceID, other.Subject, other.Meter)}
	}
	product := mp.ProductID
	if product == "" {
		product = mt.ProductID
	}
	m.explicit[pair] = Target{InstanceID: mp.InstanceID, ProductID: product}
	m.explained[mp.InstanceID] = pair
	return nil
}

// Target returns where the usage is billed; ok is false when nothing covers it or the meter is not billed.
func (m *Mapper) Target(subject, slug string) (t Target, ok bool) {
	if t, ok = m.explicit[SubjectMeter{subject, slug}]; ok {
		return t, true
	}
	mt, billed := m.meters[slug]
	if !billed || mt.Instance == "" || subject == "" {
		return Target{}, false
	}
	return Target{
		InstanceID: strings.ReplaceAll(mt.Instance, subjectPlaceholder, subject), ProductID: mt.ProductID,
	}, true
}

// Claimants returns every subject and meter whose usage would be billed to the instance, ordered by meter: mostly one,
// none for an unknown instance, and several when templates overlap (such as "{subject}" and "{subject}-x").
func (m *Mapper) Claimants(instanceID string) []SubjectMeter {
	var pairs []SubjectMeter
	if pair, ok := m.explained[instanceID]; ok {
		pairs = append(pairs, pair)
	}
	for _, slug := range m.slugs {
		subject, ok := unfoldTemplate(m.meters[slug].Instance, instanceID)
		if !ok {
			continue
		}
		pair := SubjectMeter{subject, slug}
		// An explicit mapping takes the subject away from the template; one to this very instance is listed already.
		if _, mapped := m.explicit[pair]; !mapped {
			pairs = append(pairs, pair)
		}
	}
	slices.SortFunc(pairs, func(a, b SubjectMeter) int { return strings.Compare(a.Meter, b.Meter) })
	return pairs
}

// contested reports whether usage of somebody else could be billed to the same instance.
func (m *Mapper) contested(instanceID string) bool {
	claims := 0
	if _, ok := m.explained[instanceID]; ok {
		claims++
	}
	if len(m.slugs) == 1 && claims == 0 {
		return false // one template only: different subjects give different instances
	}
	return len(m.Claimants(instanceID)) > 1
}

// unfoldTemplate finds the subject for which the template gives id.
func unfoldTemplate(template, id string) (subject string, ok bool) {
	n := strings.Count(template, subjectPlaceholder)
	if n == 0 {
		return "", false
	}
	size := len(id) - (len(template) - n*len(subjectPlaceholder))
	if size <= 0 || size%n != 0 {
		return "", false
	}
	start := strings.Index(template, subjectPlaceholder)
	if start+size/n > len(id) {
		return "", false
	}
	subject = id[start : start+size/n]
	return subject, strings.ReplaceAll(template, subjectPlaceholder, subject) == id
}
