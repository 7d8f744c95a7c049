package config_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meterd/meterd/internal/config"
)

var update = flag.Bool("update", false, "rewrite golden files")

// fakeSecrets is an environment with which the defaults are complete. The values are obviously no keys.
var fakeSecrets = []string{
	"METERD_KOOGALLERY_SELLER_KEY=fake-seller-key-never-shown",
	"METERD_KOOGALLERY_SECRET_KEY=fake-secret-key-never-shown",
	"METERD_STORE_PASSWORD=fake-password-never-shown",
	"METERD_REPORTING_SHADOW_KEY=fake-shadow-key-never-shown",
	"METERD_KEY_A=fake-key-a-0123456789-never-shown",
	"METERD_KEY_SHORT=fake-key",
	"METERD_KEY_SPACE=fake key with some spaces never-shown",
	"PATH=/bin", "METERD_CONFIG=x", "METERD_REQUIRE_ENGINES=1", "METERD_SERVER=http://127.0.0.1:8080", "METERD_KEY=fake-key-of-a-client-never-shown",
	"METERD_PORT=tcp://10.0.0.1:80", "METERD_SERVER_SERVICE_HOST=10.0.0.1", "METERD_SERVER_PORT_80_TCP_ADDR=10.0.0.1",
}

func diff(want, got any) string {
	return cmp.Diff(want, got, cmpopts.IgnoreUnexported(config.Config{}), cmpopts.EquateEmpty())
}

// environmentOf applies the "#env NAME=VALUE" and "#env -NAME" lines of a test file to the fake secrets.
func environmentOf(text string) []string {
	env := append([]string(nil), fakeSecrets...)
	for line := range strings.Lines(text) {
		entry, ok := strings.CutPrefix(strings.TrimSpace(line), "#env ")
		if !ok {
			continue
		}
		if name, unset := strings.CutPrefix(entry, "-"); unset {
			kept := env[:0]
			for _, e := range env {
				if !strings.HasPrefix(e, name+"=") {
					kept = append(kept, e)
				}
			}
			env = kept
			continue
		}
		env = append(env, entry)
	}
	return env
}

// TestLoad_Bad compares the whole list of faults of each bad file with the text beside it.
func TestLoad_Bad(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.bad.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("glob = %v, %v; want files", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = config.Load(file, environmentOf(string(text)))
			if err == nil {
				t.Fatalf("Load(%s) = nil error, want faults", file)
			}
			var faults config.Faults
			if !errors.As(err, &faults) {
				t.Fatalf("Load(%s) error is a %T, want config.Faults", file, err)
			}
			dir, err := filepath.Abs("testdata")
			if err != nil {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(faults.Error(), dir, "DIR") + "\n"
			if strings.Contains(got, "not-to-be-shown") || strings.Contains(got, "never-shown") {
				t.Errorf("faults show a secret:\n%s", got)
			}
			golden := strings.TrimSuffix(file, ".toml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("faults (-want +got):\n%s", d)
			}
		})
	}
}

// TestLoad_Good loads each good file, prints it and loads what was printed: nothing may change on the way.
func TestLoad_Good(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.good.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("glob = %v, %v; want files", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			cfg, err := config.Load(file, fakeSecrets)
			if err != nil {
				t.Fatalf("Load(%s) = %v", file, err)
			}
			if err := cfg.Validate(); err != nil {
				t.Errorf("Validate() of a loaded configuration = %v", err)
			}
			if _, err := cfg.MeterList(); err != nil {
				t.Errorf("MeterList() of a loaded configuration = %v", err)
			}
			again, err := config.Load(writeFile(t, printed(t, cfg)), fakeSecrets)
			if err != nil {
				t.Fatalf("Load of the printed configuration = %v\n%s", err, printed(t, cfg))
			}
			if d := diff(cfg, again); d != "" {
				t.Errorf("printed and loaded again (-first +second):\n%s", d)
			}
		})
	}
}

func TestLoad_Meters(t *testing.T) {
	t.Parallel()
	cfg, err := config.Load("testdata/meters.good.toml", fakeSecrets)
	if err != nil {
		t.Fatal(err)
	}
	meters, err := cfg.MeterList()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range meters {
		line := fmt.Sprintf("%s %s %s %q scale %s billed %t instance %q", m.Slug, m.EventType, m.Aggregation, m.Value, m.Scale, m.Billed, m.Instance)
		for _, d := range m.GroupBy {
			line = fmt.Sprintf("%s %s=%s", line, d.Name, d.Path)
		}
		got = append(got, line)
	}
	want := []string{
		`tokens_total prompt sum "$.tokens" scale 1000 billed true instance "{subject}" kind=$['token kind'] model=$.model`,
		`calls prompt count "" scale 1 billed false instance "{subject}"`,
		`seats login unique_count "$.user" scale 1 billed true instance "" team=$.team`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("MeterList() (-want +got):\n%s", d)
	}
	if want := []config.Mapping{{Subject: "tenant-42", Meter: "seats", InstanceID: "7f141bf1-aec8-4859-8323-fb3a8ad50721"}}; diff(want, cfg.Mappings) != "" {
		t.Errorf("Mappings (-want +got):\n%s", diff(want, cfg.Mappings))
	}
}

func TestLoad_MissingFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "absent.toml")
	_, err := config.Load(path, fakeSecrets)
	if want := path + ": can't be read: no such file or directory"; err == nil || err.Error() != want {
		t.Errorf("Load = %v, want %s", err, want)
	}
	_, err = config.Load(t.TempDir(), fakeSecrets)
	if err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("Load of a directory = %v", err)
	}
}

func TestLoad_WithoutFile(t *testing.T) {
	t.Parallel()
	cfg, err := config.Load("", append([]string{"METERD_DATA_DIR=/data"}, fakeSecrets...))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.DataDir != "/data" {
		t.Errorf("DataDir = %q, want /data", cfg.DataDir)
	}
}

func TestLoad_Environment(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		env  []string
		want func(*config.Config) // change of the configuration; nil if fault is set
		err  string
	}{
		"text":      {env: []string{"METERD_SERVER_LISTEN=127.0.0.1:9"}, want: func(c *config.Config) { c.Server.Listen = "127.0.0.1:9" }},
		"wins":      {env: []string{"METERD_REPORTING_SELLER=env"}, want: func(c *config.Config) { c.Reporting.Seller = "env" }},
		"size":      {env: []string{"METERD_INGEST_MAX_BODY=1MiB"}, want: func(c *config.Config) { c.Ingest.MaxBody = config.MiB }},
		"duration":  {env: []string{"METERD_CLOSING_GRACE=90s"}, want: func(c *config.Config) { c.Closing.Grace = config.Duration(90 * time.Second) }},
		"number":    {env: []string{"METERD_INGEST_MAX_BATCH=7"}, want: func(c *config.Config) { c.Ingest.MaxBatch = 7 }},
		"ratio":     {env: []string{"METERD_TELEMETRY_TRACE_RATIO=0.5"}, want: func(c *config.Config) { c.Telemetry.TraceRatio = 0.5 }},
		"empty":     {env: []string{"METERD_TELEMETRY_LISTEN="}, want: func(c *config.Config) { c.Telemetry.Listen = "" }},
		"top level": {env: []string{"METERD_DATA_DIR=/x"}, want: func(c *config.Config) { c.DataDir = "/x" }},
		"list and switch": {
			env: []string{"METERD_STORE_EMBEDDED=false", "METERD_STORE_ADDRS=a:1, b:2,"},
			want: func(c *config.Config) {
				c.Store.Embedded = false
				c.Store.Addrs = []string{"a:1", "b:2"}
			},
		},
		"secret": {
			env:  []string{"METERD_STORE_PASSWORD=other"},
			want: func(c *config.Config) { c.Store.Password = "other" },
		},
		"foreign":        {env: []string{"METERDX=1", "METERD_=1", "METERD_WHATEVER=1", "METERD_TEST_X=1"}, want: func(*config.Config) {}},
		"bad number":     {env: []string{"METERD_INGEST_MAX_BATCH=many"}, err: `METERD_INGEST_MAX_BATCH: ingest.max_batch: must be a whole number (got "many")`},
		"bad switch":     {env: []string{"METERD_STORE_EMBEDDED=ja"}, err: `METERD_STORE_EMBEDDED: store.embedded: must be true or false (got "ja")`},
		"bad ratio":      {env: []string{"METERD_TELEMETRY_TRACE_RATIO=x"}, err: `METERD_TELEMETRY_TRACE_RATIO: telemetry.trace_ratio: must be a number (got "x")`},
		"bad duration":   {env: []string{"METERD_CLOSING_GRACE=5"}, err: `METERD_CLOSING_GRACE: closing.grace: must be a duration such as 200ms, 30s, 5m or 480h (got "5")`},
		"out of limits":  {env: []string{"METERD_CLOSING_GRACE=61m"}, err: `METERD_CLOSING_GRACE: closing.grace: must be from 0s to 59m59s (got 1h1m)`},
		"misspelt":       {env: []string{"METERD_SERVER_LISTN=x"}, err: `METERD_SERVER_LISTN: no such key; did you mean METERD_SERVER_LISTEN?`},
		"no such key":    {env: []string{"METERD_STORE_COLOUR=red"}, err: `METERD_STORE_COLOUR: no such key; see config.example.toml for all of them`},
		"list of tables": {env: []string{"METERD_SERVER_KEYS=x"}, err: `METERD_SERVER_KEYS: [[server.keys]] can't be set by an environment variable; write it in the file`},
		"empty secret":   {env: []string{"METERD_KOOGALLERY_SELLER_KEY="}, err: `METERD_KOOGALLERY_SELLER_KEY: koogallery.seller_key_file: is empty; set it or remove it`},
		"broken secret": {
			env: []string{"METERD_KOOGALLERY_SELLER_KEY=a\nb"},
			err: `METERD_KOOGALLERY_SELLER_KEY: koogallery.seller_key_file: has a line break or zero byte in it; it must hold the secret alone`,
		},
	}
	path := writeFile(t, "[reporting]\nseller = \"file\"\n")
	base, err := config.Load(path, fakeSecrets)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := config.Load(path, append(append([]string(nil), fakeSecrets...), tt.env...))
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Fatalf("Load = %v\nwant   %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := base
			tt.want(&want)
			if d := diff(want, got); d != "" {
				t.Errorf("configuration (-want +got):\n%s", d)
			}
		})
	}
}

func TestLoad_SecretFiles(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		content string
		mode    os.FileMode
		want    string
		err     string
		warning string
	}{
		"plain":           {content: "fake-secret-value-1", mode: 0o600, want: "fake-secret-value-1"},
		"newline":         {content: "fake-secret-value-1\n", mode: 0o400, want: "fake-secret-value-1"},
		"windows newline": {content: "fake-secret-value-1\r\n", mode: 0o600, want: "fake-secret-value-1"},
		"two newlines":    {content: "fake-secret-value-1\n\n", mode: 0o600, err: "has a line break or zero byte in it"},
		"empty":           {content: "", mode: 0o600, err: "is empty"},
		"only newline":    {content: "\n", mode: 0o600, err: "is empty"},
		"too large":       {content: strings.Repeat("x", 65<<10), mode: 0o600, err: "is larger than 64KiB"},
		"readable by all": {content: "fake-secret-value-1", mode: 0o644, want: "fake-secret-value-1", warning: "can be read by every user (mode 0644)"},
		"writable by all": {content: "fake-secret-value-1", mode: 0o602, err: "can be written by every user (mode 0602)"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			secret := filepath.Join(dir, "seller.key")
			if err := os.WriteFile(secret, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(secret, tt.mode); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "c.toml")
			text := "[koogallery]\nseller_key_file = \"seller.key\"\n[[server.keys]]\nname = \"a\"\nkey_file = \"seller.key\"\nscopes = [\"ingest\"]\n"
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg, err := config.Load(path, nil)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), path+":2: koogallery.seller_key_file: "+secret) {
					t.Fatalf("Load = %v, want %q of %s", err, tt.err, secret)
				}
				if len(tt.content) > 5 && strings.Contains(err.Error(), tt.content[:5]) {
					t.Errorf("the fault shows the secret: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := cfg.KooGallery.SellerKey.Reveal(); got != tt.want || cfg.Server.Keys[0].Value.Reveal() != tt.want {
				t.Errorf("secret = %q, want %q", got, tt.want)
			}
			if warnings := strings.Join(cfg.Warnings(), "\n"); !strings.Contains(warnings, tt.warning) || tt.warning == "" && strings.Contains(warnings, "key") {
				t.Errorf("Warnings() = %q, want %q", warnings, tt.warning)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	cfg, err := config.Load(writeFile(t, `
[server]
listen = "0.0.0.0:8080"
[[server.keys]]
name = "a"
key_env = "METERD_KEY_A"
scopes = ["ingest"]
[ingest]
max_age = "1000h"
`), fakeSecrets)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"meters: none is declared; events are stored and nothing is billed",
		"server.listen: API keys travel unencrypted; set tls_cert_file or put a proxy with TLS in front",
		"ingest.max_age: the marketplace takes nothing older than 504h; older usage can't be billed",
	}
	if d := cmp.Diff(want, cfg.Warnings()); d != "" {
		t.Errorf("Warnings() (-want +got):\n%s", d)
	}
}

// TestSecret_Elided dumps a configuration with every secret set in every way at hand.
func TestSecret_Elided(t *testing.T) {
	t.Parallel()
	cfg, err := config.Load(writeFile(t, "[[server.keys]]\nname = \"a\"\nkey_env = \"METERD_KEY_A\"\nscopes = [\"ingest\"]\n"), fakeSecrets)
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var logged strings.Builder
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "config", cfg, "key", cfg.Server.Keys[0].Value)
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "config", cfg, "key", cfg.Server.Keys[0].Value)
	dumps := map[string]string{
		"json": string(asJSON), "slog": logged.String(), "toml": printed(t, cfg),
		"String": cfg.Store.Password.String(), "GoString": cfg.Store.Password.GoString(),
		"pointer": fmt.Sprintf("%+v", &cfg),
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		dumps[verb] = fmt.Sprintf(verb, cfg)
		dumps["key "+verb] = fmt.Sprintf(verb, cfg.Store.Password)
	}
	for name, dump := range dumps {
		if strings.Contains(dump, "never-shown") || strings.Contains(dump, "6e657665722d73686f776e") {
			t.Errorf("%s shows a secret: %s", name, dump)
		}
		if !strings.Contains(strings.ReplaceAll(dump, `\u003c`, "<"), "<secret") {
			t.Errorf("%s doesn't show that there is a secret: %s", name, dump)
		}
	}
}

func printed(t *testing.T, cfg config.Config) string {
	t.Helper()
	var b strings.Builder
	if err := cfg.WriteTOML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
