package httpapi

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// params reads the query of a URL strictly and collects what is wrong with it: a misspelt filter must not be ignored, it
// would change the sums.
type params struct {
	values url.Values
	used   map[string]bool
	faults []string
}

func readParams(u *url.URL) *params {
	p := &params{used: map[string]bool{}}
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		p.fault("the query of the URL can't be read")
	}
	p.values = values
	return p
}

func (p *params) fault(text string) { p.faults = append(p.faults, text) }

// one returns the value of a parameter that may occur once.
func (p *params) one(name string) string {
	p.used[name] = true
	values := p.values[name]
	if len(values) > 1 {
		p.fault(name + ": occurs more than once")
	}
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// many returns the values of a parameter that may be repeated; with commas also within one value.
func (p *params) many(name string, commas bool) []string {
	p.used[name] = true
	var list []string
	for _, value := range p.values[name] {
		if !commas {
			list = append(list, value)
			continue
		}
		for item := range strings.SplitSeq(value, ",") {
			if item = strings.TrimSpace(item); item != "" {
				list = append(list, item)
			}
		}
	}
	return list
}

// time returns a time, zero if the parameter is absent.
func (p *params) time(name string) time.Time {
	text := p.one(name)
	if text == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		p.fault(name + ": must be an RFC 3339 time such as 2026-01-02T15:00:00Z (got " + quoteShort(text) + ")")
	}
	return t.UTC()
}

// limit returns how many items are asked for, from 1 to high, or the fallback if that is absent.
func (p *params) limit(fallback, high int) int {
	text := p.one("limit")
	if text == "" {
		return fallback
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > high {
		p.fault("limit: must be a whole number from 1 to " + strconv.Itoa(high) + " (got " + quoteShort(text) + ")")
		return fallback
	}
	return n
}

// period returns from and to and checks their order.
func (p *params) period() (from, to time.Time) {
	from, to = p.time("from"), p.time("to")
	if !from.IsZero() && !to.IsZero() && !from.Before(to) {
		p.fault("from: must be before to")
	}
	return from, to
}

// err reports every fault at once, unknown parameters included.
func (p *params) err() error {
	var unknown []string
	for name := range p.values {
		if !p.used[name] {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	for _, name := range unknown {
		p.fault(quoteShort(name) + ": no such parameter")
	}
	if len(p.faults) == 0 {
		return nil
	}
	return invalidRequest("%s", strings.Join(p.faults, "; "))
}
