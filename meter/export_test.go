package meter

// RowBuilder gives tests the rows that the loader makes of payloads.
type RowBuilder struct {
	c *Catalog
	w rowBuilder
}

// NewRowBuilder returns a builder.
func NewRowBuilder(c *Catalog) *RowBuilder { return &RowBuilder{c: c} }

// Build returns the rows of payloads, valid until the next call.
func (b *RowBuilder) Build(payloads ...[]byte) (*EventRows, error) {
	b.w.begin(b.c, nil, 0)
	for _, p := range payloads {
		if err := b.w.add(p); err != nil {
			return nil, err
		}
	}
	return &b.w.rows, nil
}

// ParseTime is parseTime.
func ParseTime(s []byte) (int64, bool) { return parseTime(s) }
