package config

import (
	"errors"
	"fmt"
	"time"

	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/koogallery"
)

// Terms returns the terms of every meter by slug: those of its product, or live and hourly when it has none. A loaded
// configuration has a valid entry for each of its meters.
func (c Config) Terms() map[string]reporter.Terms {
	products := make(map[string]Product, len(c.Products))
	for _, p := range c.Products {
		products[p.Name] = p
	}
	terms := make(map[string]reporter.Terms, len(c.Meters))
	for _, m := range c.Meters {
		t := reporter.Terms{Product: m.Product}
		// Names that are none were refused by Validate; unread they would stand for live, hourly, carry.
		t.Late, _ = reporter.ParseLatePolicy(m.Late)
		if p, ok := products[m.Product]; ok {
			t.Mode, _ = reporter.ParseMode(p.Mode)
			t.Cycle, _ = reporter.ParseCycle(p.Cycle)
		}
		terms[m.Slug] = t
	}
	return terms
}

// Profile returns the marketplace's profile: the one named in koogallery.profile_file, or else the built-in one.
func (c Config) Profile() (*koogallery.Profile, error) {
	if c.KooGallery.ProfileFile == "" {
		return koogallery.BuiltinProfile(), nil
	}
	p, err := c.readProfile()
	if err != nil {
		return nil, fmt.Errorf("koogallery.profile_file: %s: %w", c.KooGallery.ProfileFile, err)
	}
	return p, nil
}

// readProfile reads the named profile.
func (c Config) readProfile() (*koogallery.Profile, error) {
	text, err := readFileLimited(c.KooGallery.ProfileFile, 64<<10)
	if err != nil {
		return nil, err
	}
	return koogallery.ParseProfile(text)
}

// DayZone returns where billing days begin: closing.day_zone, or else what the marketplace's profile says of the site.
func (c Config) DayZone() (*time.Location, error) {
	if c.Closing.DayZone != "" {
		zone, err := koogallery.ParseZone(c.Closing.DayZone)
		if err != nil {
			return nil, fmt.Errorf("closing.day_zone: %w", err)
		}
		return zone, nil
	}
	p, err := c.Profile()
	if err != nil {
		return nil, err
	}
	zone, ok := p.DayZone(koogallery.Site(c.KooGallery.Site))
	if !ok {
		return nil, errors.New("closing.day_zone: the marketplace's profile doesn't know the site; set it, for example to \"+08:00\"")
	}
	return zone, nil
}

func (c Config) checkProducts(faults *Faults) {
	names := map[string]int{}
	for i, p := range c.Products {
		at := entryKey("products", i)
		if !keyNamePattern.MatchString(p.Name) {
			faults.add(at+".name", fmt.Sprintf("must match %s (got %q)", keyNamePattern, shorten(p.Name)))
		} else if first, ok := names[p.Name]; ok {
			faults.add(at+".name", fmt.Sprintf("%q is already the name of %s", p.Name, entryKey("products", first)))
		} else {
			names[p.Name] = i
		}
	}
}

// checkMeterProduct looks at what a meter says about its product and at what would have no effect.
func (c Config) checkMeterProduct(at string, m Meter, faults *Faults) {
	if m.Price != "" && c.Reporting.Currency == "" {
		faults.add(at+".price", "a price needs reporting.currency, for example \"CNY\"")
	}
	if m.Product == "" {
		return
	}
	names := make([]string, 0, len(c.Products))
	for _, p := range c.Products {
		if p.Name == m.Product {
			return
		}
		names = append(names, p.Name)
	}
	message := fmt.Sprintf("no product has the name %q; declare it in [[products]]", shorten(m.Product))
	if guess := nearest(m.Product, names); guess != "" {
		message = fmt.Sprintf("no product has the name %q; did you mean %s?", shorten(m.Product), guess)
	}
	faults.add(at+".product", message)
}
