package killpoint

// ParseForTest reads a plan and returns its counting of a hit.
func ParseForTest(text string) (hit func(name string) bool, err error) {
	p, err := parsePlan(text)
	return p.hit, err
}
