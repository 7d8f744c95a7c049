package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/meterd/meterd/internal/config"
)

// FuzzLoad loads any text: it must not panic, its error must be faults that name something, and what it loads must survive
// being printed and loaded again.
func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("testdata/*.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, "../../config.example.toml") {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		cfg, err := config.Load(writeFile(t, text), fakeSecrets)
		if err != nil {
			var faults config.Faults
			if !errors.As(err, &faults) || len(faults) == 0 {
				t.Fatalf("Load error is %T %v, want faults", err, err)
			}
			for _, fault := range faults {
				if fault.Message == "" {
					t.Errorf("a fault says nothing: %+v", fault)
				}
			}
			return
		}
		again, err := config.Load(writeFile(t, printed(t, cfg)), fakeSecrets)
		if err != nil {
			t.Fatalf("Load of the printed configuration = %v\n%s", err, printed(t, cfg))
		}
		if d := diff(cfg, again); d != "" {
			t.Errorf("printed and loaded again:\n%s", d)
		}
	})
}

func TestSize_RoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := config.Size(rapid.Int64Min(0).Draw(t, "size"))
		got, err := config.ParseSize(want.String())
		if err != nil || got != want {
			t.Errorf("ParseSize(%s) = %d, %v; want %d", want, got, err, want)
		}
	})
	for text, want := range map[string]config.Size{"0": 0, "512B": 512, "1 KiB": 1024, " 64KiB ": 64 << 10, "8191PiB": -1, "9223372036854775807": 1<<63 - 1, "16777216TiB": -1, "1.5MiB": -1, "": -1, "MiB": -1, "-1": -1, "1MB": -1} {
		got, err := config.ParseSize(text)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
}

func TestDuration_RoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := config.Duration(rapid.Int64().Draw(t, "duration"))
		var got config.Duration
		if err := got.UnmarshalText([]byte(want.String())); err != nil || got != want {
			t.Errorf("parse %s = %d, %v; want %d", want, got, err, want)
		}
	})
}

// TestLoad_ManyMappings bounds the cost of a large file: it must stay linear.
func TestLoad_ManyMappings(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("[[meters]]\nslug = \"calls\"\nevent_type = \"call\"\naggregation = \"count\"\n")
	for i := range 20000 {
		id := strings.Repeat("0", 8-len(strconv.Itoa(i))) + strconv.Itoa(i)
		b.WriteString("[[mappings]]\nsubject = \"s-" + id + "\"\nmeter = \"calls\"\ninstance_id = \"i-" + id + "\"\n")
	}
	cfg, err := config.Load(writeFile(t, b.String()), fakeSecrets)
	if err != nil || len(cfg.Mappings) != 20000 {
		t.Fatalf("Load = %d mappings, %v", len(cfg.Mappings), err)
	}
}
