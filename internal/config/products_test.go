package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/reporter"
)

func loadProducts(t *testing.T) config.Config {
	t.Helper()
	cfg, err := config.Load("testdata/products.good.toml", fakeSecrets)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestTerms(t *testing.T) {
	t.Parallel()
	want := map[string]reporter.Terms{
		"tokens":    {Product: "assistant", Mode: reporter.ModeLive, Cycle: reporter.CycleHourly, Late: reporter.LateCarry},
		"gigabytes": {Product: "archive", Mode: reporter.ModeShadow, Cycle: reporter.CycleDaily, Late: reporter.LateHold},
		"calls":     {Product: "trial", Mode: reporter.ModeDryRun, Cycle: reporter.CycleHourly, Late: reporter.LateWriteOff},
		"plain":     {},
	}
	cfg := loadProducts(t)
	if d := cmp.Diff(want, cfg.Terms()); d != "" {
		t.Errorf("Terms (-want +got):\n%s", d)
	}
	meters, err := cfg.MeterList()
	if err != nil {
		t.Fatal(err)
	}
	if m := meters[0]; m.Product != "assistant" || m.Late != "carry" || m.Price.String() != "0.02" {
		t.Errorf("meter = %+v", m)
	}
	if m := meters[3]; m.Product != "" || !m.Price.IsZero() {
		t.Errorf("meter = %+v", m)
	}
}

func TestDayZone(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		text   string
		offset int // hours
	}{
		"site china":         {"", 8},
		"site international": {"[koogallery]\nsite = \"international\"", 0},
		"offset":             {"[closing]\nday_zone = \"-03:00\"", -3},
		"utc":                {"[closing]\nday_zone = \"UTC\"", 0},
		"name":               {"[closing]\nday_zone = \"Asia/Tokyo\"", 9},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, err := config.Load(writeFile(t, tt.text), fakeSecrets)
			if err != nil {
				t.Fatal(err)
			}
			zone, err := cfg.DayZone()
			if err != nil {
				t.Fatal(err)
			}
			if _, offset := time.Unix(0, 0).In(zone).Zone(); offset != tt.offset*3600 {
				t.Errorf("DayZone = %s (%d s), want %d h", zone, offset, tt.offset)
			}
		})
	}
}

func TestProfile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../reporter/koogallery/profile.toml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	changed := strings.NewReplacer("max_batch = 1000", "max_batch = 100", `"+08:00"`, `"+07:00"`).Replace(string(text))
	if err := os.WriteFile(filepath.Join(dir, "profile.toml"), []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "meterd.toml")
	if err := os.WriteFile(path, []byte("[koogallery]\nprofile_file = \"profile.toml\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path, fakeSecrets)
	if err != nil {
		t.Fatal(err)
	}
	p, err := cfg.Profile()
	if err != nil || p.Limits().MaxBatch != 100 {
		t.Errorf("Profile = %+v, %v, want batches of 100", p, err)
	}
	zone, err := cfg.DayZone()
	if _, offset := time.Unix(0, 0).In(zone).Zone(); err != nil || offset != 7*3600 {
		t.Errorf("DayZone = %s, %v, want +07:00", zone, err)
	}
	cfg.KooGallery.ProfileFile += "x"
	if _, err := cfg.Profile(); err == nil || !strings.Contains(err.Error(), "koogallery.profile_file: ") {
		t.Errorf("Profile of a missing file = %v", err)
	}
	cfg.KooGallery.ProfileFile = ""
	if p, err := cfg.Profile(); err != nil || p.Limits().MaxBatch != 1000 {
		t.Errorf("built-in profile = %+v, %v", p, err)
	}
}

// The shadow key's variable is one like the others.
func TestShadowKey(t *testing.T) {
	t.Parallel()
	cfg := loadProducts(t)
	if cfg.Reporting.ShadowKey.Reveal() != "fake-shadow-key-never-shown" {
		t.Error("the shadow key was not read from its variable")
	}
	if strings.Contains(printed(t, cfg), "fake-shadow-key") {
		t.Error("the shadow key is printed")
	}
}
