package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meterd/meterd/internal/config"
)

// A schedule by which reports can't be on time is legal and worth a word.
func TestWarnings_LateSchedule(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ text, warning string }{
		"default":           {"", ""},
		"within the grace":  {"[closing]\nschedule = \"0 * * * *\"\ngrace = \"10m\"", ""},
		"often":             {"[closing]\nschedule = \"*/10 * * * *\"", ""},
		"long grace":        {"[closing]\ngrace = \"20m\"", "closing.grace: the marketplace collects"},
		"late in the hour":  {"[closing]\nschedule = \"20 * * * *\"", "closing.schedule: the marketplace collects"},
		"once a day":        {"[closing]\nschedule = \"5 0 * * *\"", "closing.schedule: the marketplace collects"},
		"reporting is off":  {"[closing]\nschedule = \"5 0 * * *\"\n[reporting]\nenabled = false", ""},
		"just before it is": {"[closing]\nschedule = \"14 * * * *\"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, err := config.Load(writeFile(t, tt.text), fakeSecrets)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(cfg.Warnings(), "\n")
			if tt.warning == "" && strings.Contains(got, "closing.") || !strings.Contains(got, tt.warning) {
				t.Errorf("warnings = %q, want %q", got, tt.warning)
			}
		})
	}
}

// The marketplace's addresses are also those of a profile of one's own.
func TestShadow_AddressOfTheProfile(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../reporter/koogallery/profile.toml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	moved := strings.ReplaceAll(string(text), "https://mkt.myhuaweicloud.com", "https://moved.example")
	if err := os.WriteFile(filepath.Join(dir, "profile.toml"), []byte(moved), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "meterd.toml")
	file := "[koogallery]\nprofile_file = \"profile.toml\"\n[reporting]\nshadow_base_url = \"https://moved.example\"\n"
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(path, fakeSecrets); err == nil || !strings.Contains(err.Error(), "is the marketplace's own address") {
		t.Errorf("Load = %v, want a refusal", err)
	}
}
