package config

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/meterd/meterd/meter"
)

// MeterList converts the declared meters, in the file's order; dimensions are ordered by name, so that reordering a line
// doesn't make another meter. The error is [Faults]; a loaded configuration has none.
func (c Config) MeterList() ([]meter.Meter, error) {
	var faults Faults
	list := make([]meter.Meter, 0, len(c.Meters))
	for i, m := range c.Meters {
		list = append(list, m.convert(entryKey("meters", i), &faults))
	}
	return list, faults.err()
}

// convert parses the texts of one meter and has it validate itself.
func (m Meter) convert(at string, faults *Faults) meter.Meter {
	bad := map[string]bool{}
	report := func(key string, err error) {
		bad[key] = true
		faults.add(at+"."+key, err.Error())
	}
	out := meter.Meter{
		Slug: m.Slug, Description: m.Description, EventType: m.EventType, Unit: m.Unit,
		Billed: m.Billed, Instance: m.Instance, ProductID: m.ProductID, Product: m.Product, Late: m.Late,
	}
	var err error
	if m.Aggregation != "" {
		if out.Aggregation, err = meter.ParseAggregation(m.Aggregation); err != nil {
			report("aggregation", err)
		}
	}
	if m.Value != "" {
		if out.Value, err = meter.ParsePath(m.Value); err != nil {
			report("value", err)
		}
	}
	for _, name := range sortedKeys(m.GroupBy) {
		path, err := meter.ParsePath(m.GroupBy[name])
		if err != nil {
			report("group_by", fmt.Errorf("%s: %w", name, err))
		}
		out.GroupBy = append(out.GroupBy, meter.Dimension{Name: name, Path: path})
	}
	if out.Scale, err = meter.ParseQuantity([]byte(m.Scale)); errors.Is(err, meter.ErrNegativeQuantity) {
		report("scale", fmt.Errorf("must be positive (got %q)", shorten(m.Scale)))
	} else if err != nil {
		report("scale", fmt.Errorf("%w (got %q)", err, shorten(m.Scale)))
	}
	if m.Price != "" {
		if out.Price, err = meter.ParseQuantity([]byte(m.Price)); errors.Is(err, meter.ErrNegativeQuantity) {
			report("price", fmt.Errorf("must not be negative (got %q)", shorten(m.Price)))
		} else if err != nil {
			report("price", fmt.Errorf("%w (got %q)", err, shorten(m.Price)))
		}
	}
	for _, err := range flatten(out.Validate()) {
		key, message, ok := strings.Cut(err.Error(), ": ")
		if !ok {
			faults.add(at, err.Error())
		} else if !bad[key] && (key != "value" || !bad["aggregation"]) {
			faults.add(at+"."+key, message)
		}
	}
	if reason := instanceReason(strings.ReplaceAll(m.Instance, "{subject}", "")); reason != "" {
		faults.add(at+".instance", reason)
	}
	return out
}

// flatten returns the errors joined in err.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		return joined.Unwrap()
	}
	return []error{err}
}

func (c Config) checkMeters(faults *Faults) {
	slugs, templates := map[string]int{}, map[string]int{}
	for i, m := range c.Meters {
		at := entryKey("meters", i)
		m.convert(at, faults)
		c.checkMeterProduct(at, m, faults)
		if first, ok := slugs[m.Slug]; ok {
			faults.add(at+".slug", fmt.Sprintf("%q is already the slug of %s", shorten(m.Slug), entryKey("meters", first)))
		} else {
			slugs[m.Slug] = i
		}
		if !m.Billed || m.Instance == "" {
			continue
		}
		// The marketplace takes one record per instance and hour: a second one would be discarded.
		if first, ok := templates[m.Instance]; ok {
			faults.add(at+".instance", fmt.Sprintf("%q is the instance of %s already, and an instance bills one meter; use another "+
				"template such as \"{subject}-%s\", or \"\" with [[mappings]], or billed = false",
				shorten(m.Instance), entryKey("meters", first), shorten(m.Slug)))
		} else {
			templates[m.Instance] = i
		}
		if !strings.Contains(m.Instance, "{subject}") {
			faults.add(at+".instance", fmt.Sprintf("needs {subject}, or every subject would be billed to one instance (got %q)", shorten(m.Instance)))
		}
		if c.needsProducts() && m.ProductID == "" {
			faults.add(at+".product_id", "koogallery.api = \"old\" needs the product id of every billed meter")
		}
	}
}

// needsProducts reports whether usage is reported through the marketplace's old interface.
func (c Config) needsProducts() bool { return c.Reporting.Enabled && c.KooGallery.API == "old" }

func (c Config) checkMappings(faults *Faults) {
	type pair struct{ subject, meter string }
	meters := map[string]Meter{}
	slugs := make([]string, 0, len(c.Meters))
	for _, m := range c.Meters {
		meters[m.Slug] = m
		slugs = append(slugs, m.Slug)
	}
	pairs, instances := map[pair]int{}, map[string]int{}
	for i, m := range c.Mappings {
		at := entryKey("mappings", i)
		target, ok := meters[m.Meter]
		switch {
		case m.Meter == "":
			faults.add(at+".meter", "is required")
		case !ok:
			faults.add(at+".meter", unknownMeter(m.Meter, slugs))
		case !target.Billed:
			faults.add(at+".meter", fmt.Sprintf("the meter %q is not billed", m.Meter))
		case c.needsProducts() && m.ProductID == "" && target.ProductID == "":
			faults.add(at+".product_id", "koogallery.api = \"old\" needs a product id here or on the meter")
		}
		if m.Subject == "" {
			faults.add(at+".subject", "is required")
		}
		if m.InstanceID == "" {
			faults.add(at+".instance_id", "is required")
		} else if reason := instanceReason(m.InstanceID); reason != "" {
			faults.add(at+".instance_id", reason)
		}
		if first, ok := pairs[pair{m.Subject, m.Meter}]; ok {
			faults.add(at, fmt.Sprintf("subject %q and meter %q are mapped already by %s", shorten(m.Subject), m.Meter, entryKey("mappings", first)))
		} else {
			pairs[pair{m.Subject, m.Meter}] = i
		}
		// The marketplace takes one record per instance and hour: a second one would be discarded.
		if first, ok := instances[m.InstanceID]; ok && m.InstanceID != "" {
			faults.add(at+".instance_id", fmt.Sprintf("%q is mapped already by %s; an instance bills one subject and meter",
				shorten(m.InstanceID), entryKey("mappings", first)))
		} else {
			instances[m.InstanceID] = i
		}
	}
}

func unknownMeter(slug string, slugs []string) string {
	message := fmt.Sprintf("no meter has the slug %q", shorten(slug))
	if guess := nearest(slug, slugs); guess != "" {
		return message + "; did you mean " + guess + "?"
	}
	return message
}

// instanceReason says why a text can't be (part of) an instance id, or "": KooGallery usage push, section 1.3.
func instanceReason(id string) string {
	if len(id) > 64 {
		return fmt.Sprintf("an instance id has at most 64 characters (got %d)", len(id))
	}
	if strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\'' || r == '\\' }) {
		return fmt.Sprintf("an instance id is printable ASCII without spaces, quotes and backslashes (got %q)", shorten(id))
	}
	return ""
}

// findWarnings lists what is legal and probably not meant.
func (c Config) findWarnings() []string {
	var warnings []string
	if len(c.Meters) == 0 {
		warnings = append(warnings, "meters: none is declared; events are stored and nothing is billed")
	}
	if len(c.Server.Keys) > 0 && c.Server.TLSCertFile == "" && !isLoopback(c.Server.Listen) {
		warnings = append(warnings, "server.listen: API keys travel unencrypted; set tls_cert_file or put a proxy with TLS in front")
	}
	if c.Reporting.Enabled && c.Ingest.MaxAge.Std() > marketplaceMaxAge {
		warnings = append(warnings, "ingest.max_age: the marketplace takes nothing older than 504h; older usage can't be billed")
	}
	if c.Reporting.Enabled {
		warnings = append(warnings, c.findLateSchedule()...)
	}
	return warnings
}

// findLateSchedule warns of a schedule by which reports can't be on time.
func (c Config) findLateSchedule() []string {
	profile, err := c.Profile()
	if err != nil {
		return nil
	}
	schedule, err := cron.ParseStandard(c.Closing.Schedule)
	if err != nil {
		return nil
	}
	limit, grace := profile.Hourly().OnTime, c.Closing.Grace.Std()
	if grace >= limit {
		return []string{fmt.Sprintf("closing.grace: the marketplace collects an hour's records %s after its end; with %s none is ever on time", limit, grace)}
	}
	limit -= c.Closing.Jitter.Std()
	day := time.Date(2026, time.January, 5, 0, 0, 0, 0, time.UTC)
	for hour := range 24 {
		end := day.Add(time.Duration(hour) * time.Hour)
		if run := schedule.Next(end.Add(-time.Second)); run.Sub(end) >= limit || run.IsZero() {
			return []string{fmt.Sprintf("closing.schedule: the marketplace collects an hour's records %s after its end; by %q not every hour is closed by then",
				profile.Hourly().OnTime, c.Closing.Schedule)}
		}
	}
	return nil
}
