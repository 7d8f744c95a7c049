package koogallery_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter/koogallery"
)

func readProfile(tb testing.TB) string {
	tb.Helper()
	text, err := os.ReadFile("profile.toml")
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

// TestBuiltinProfile holds the built-in profile against the marketplace's pages, written down a second time.
func TestBuiltinProfile(t *testing.T) {
	t.Parallel()
	p := koogallery.BuiltinProfile()
	l := p.Limits()
	if l.MaxBatch != 1000 || l.Scale != 4 || l.MaxAge != 21*24*time.Hour || !l.MaxQuantity.Equal(meter.MustParseQuantity("99999999.9999")) {
		t.Errorf("Limits = %+v", l)
	}
	if d := cmp.Diff(koogallery.Deadlines{OnTime: 15 * time.Minute, Late: 2 * time.Hour}, p.Hourly()); d != "" {
		t.Errorf("Hourly (-want +got):\n%s", d)
	}
	if d := cmp.Diff(koogallery.Deadlines{OnTime: 15 * time.Minute, Late: time.Hour}, p.Daily()); d != "" {
		t.Errorf("Daily (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]koogallery.Site{"china", "europe", "international"}, p.Sites()); d != "" {
		t.Errorf("Sites (-want +got):\n%s", d)
	}
	zone, ok := p.DayZone("china")
	day := time.Date(2026, 3, 1, 16, 0, 0, 0, time.UTC).In(zone)
	if !ok || day.Hour() != 0 || day.Day() != 2 {
		t.Errorf("DayZone(china) = %v, %t; 16:00Z is %s there, want midnight", zone, ok, day)
	}
	if _, ok := p.DayZone("mars"); ok {
		t.Error("DayZone(mars) is known")
	}
	for host, want := range map[string]bool{
		"mkt.myhuaweicloud.com": true, "MKT.MYHUAWEICLOUD.CN": true, "mkt-intl.myhuaweicloud.com": true,
		"mkt.myhuaweicloud.eu": true, "localhost": false, "": false, "x.mkt.myhuaweicloud.com": false,
	} {
		if p.OwnsHost(host) != want {
			t.Errorf("OwnsHost(%q) = %t, want %t", host, !want, want)
		}
	}
}

func TestParseProfileFaults(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		old, replacement string
		want             string
	}{
		"no toml":       {"[limits]", "[limits", "profile: line 4: "},
		"unknown key":   {"scale = 4", "scale = 4\nscales = 5", "limits.scales: no such key"},
		"unknown table": {"[hourly]", "[weekly]\nx = 1\n[hourly]", "weekly: no such key"},
		"missing key":   {"scale = 4", "", "profile: limits.scale: is missing"},
		"missing table": {"[daily]", "[daily2]", "no such key"},
		"missing zone":  {`day_zone = "+08:00"`, "", "sites.china.day_zone: is missing"},
		"type":          {"max_batch = 1000", `max_batch = "1000"`, "profile: line"},
		"batch":         {"max_batch = 1000", "max_batch = 0", "limits.max_batch: must be from 1 to 100000 (got 0)"},
		"scale":         {"scale = 4", "scale = 10", "limits.scale: must be from 0 to 9 (got 10)"},
		"decimals":      {"scale = 4", "scale = 3", "limits.max_quantity: has more than 3 decimals"},
		"quantity":      {`"99999999.9999"`, `"-1"`, "limits.max_quantity: must be a positive number"},
		"age":           {`"504h"`, `"21d"`, "limits.max_age: must be a duration"},
		"field":         {"metering_sn = 64", "metering_sn = 31", "fields.metering_sn: must be from 32 to 1024 (got 31)"},
		"late":          {`late = "1h"`, `late = "1m"`, "daily.late: must not be before on_time, 15m0s (got 1m0s)"},
		"half an hour":  {`"+08:00"`, `"+05:30"`, "sites.china.day_zone: must be in whole hours"},
		"zone":          {`"+08:00"`, `"Mars/Crater"`, "sites.china.day_zone: must be an offset"},
		"http":          {`"https://mkt.myhuaweicloud.eu"`, `"http://mkt.myhuaweicloud.eu"`, "sites.europe.base_url: must be like https://host"},
		"password":      {`"https://mkt.myhuaweicloud.eu"`, `"https://u:hidden@x"`, "sites.europe.base_url: must be like https://host"},
		"fallback site": {`fallback_site = "china"`, `fallback_site = "mars"`, "sites.china.fallback_site: must name the site"},
		"no fallback":   {`fallback_url = ""`, `fallback_url = "https://x"`, "sites.europe.fallback_site: must name the site"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := readProfile(t)
			changed := strings.Replace(text, tt.old, tt.replacement, 1)
			if changed == text {
				t.Fatalf("the profile lacks %q", tt.old)
			}
			_, err := koogallery.ParseProfile([]byte(changed))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("ParseProfile = %v, want %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "hidden") {
				t.Errorf("the error shows a password: %v", err)
			}
		})
	}
	if _, err := koogallery.ParseProfile([]byte(strings.Repeat("#", 65<<10))); err == nil {
		t.Error("ParseProfile of 65 KiB = nil, want an error")
	}
	_, err := koogallery.ParseProfile(nil)
	if err == nil || strings.Count(err.Error(), "is missing") != 4 {
		t.Errorf("ParseProfile of nothing = %v, want four tables missing", err)
	}
}

// TestProfileIsObeyed changes each limit and watches what the rules and the client do.
func TestProfileIsObeyed(t *testing.T) {
	t.Parallel()
	text := strings.NewReplacer("max_batch = 1000", "max_batch = 7", "scale = 4", "scale = 2", `"99999999.9999"`, `"10.5"`,
		"instance_id = 64", "instance_id = 36", `"https://mkt.myhuaweicloud.com"`, `"https://elsewhere.example"`).Replace(readProfile(t))
	p, err := koogallery.ParseProfile([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	rules := koogallery.Rules{Profile: p}
	if l := rules.Limits(); l.MaxBatch != 7 || l.Scale != 2 {
		t.Errorf("Limits = %+v", l)
	}
	long := demoRecord(0, "1")
	long.InstanceID += "x"
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"good", rules.Check(demoRecord(0, "10.5")), ""},
		{"too much", rules.Check(demoRecord(0, "10.51")), "above 10.5"},
		{"too fine", rules.Check(demoRecord(0, "1.123")), "more than 2 decimals"},
		{"too long", rules.Check(long), "longer than 36 characters"},
	} {
		if (tt.err == nil) != (tt.want == "") || tt.err != nil && !strings.Contains(tt.err.Error(), tt.want) {
			t.Errorf("%s: Check = %v, want %q", tt.name, tt.err, tt.want)
		}
	}
	o := koogallery.Options{Site: "china", SellerKey: demoKey, Now: time.Now, Profile: p}
	c := newClient(t, o)
	if got := koogallery.Endpoints(c)[0]; !strings.HasPrefix(got, "https://elsewhere.example/") {
		t.Errorf("endpoint = %s", got)
	}
	if c.Limits().MaxBatch != 7 {
		t.Errorf("the client's batches have up to %d records, want 7", c.Limits().MaxBatch)
	}
	o.MaxBatch = 8
	if _, err := koogallery.New(o); err == nil || !strings.Contains(err.Error(), "must be 1 to 7 (got 8)") {
		t.Errorf("New = %v, want a fault of max_batch", err)
	}
}

func FuzzParseProfile(f *testing.F) {
	f.Add(readProfile(f))
	f.Add("")
	f.Add("[limits]\nmax_batch = 1\n")
	f.Add("[sites.x]\nbase_url = \"https://h\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := koogallery.ParseProfile([]byte(text))
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without text")
			}
			return
		}
		l := p.Limits()
		if l.MaxBatch < 1 || l.MaxAge <= 0 || l.MaxQuantity.Sign() <= 0 || len(p.Sites()) == 0 || p.Hourly().Late < p.Hourly().OnTime {
			t.Errorf("accepted %+v", l)
		}
		for _, s := range p.Sites() {
			if zone, ok := p.DayZone(s); !ok || zone == nil {
				t.Errorf("site %q has no zone", s)
			}
		}
	})
}

func FuzzParseZone(f *testing.F) {
	for _, seed := range []string{"+08:00", "-12:00", "UTC", "Asia/Shanghai", "", "Local", "+05:30", "../etc/passwd"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		zone, err := koogallery.ParseZone(text)
		if (zone == nil) == (err == nil) {
			t.Errorf("ParseZone(%q) = %v, %v", text, zone, err)
		}
	})
}
