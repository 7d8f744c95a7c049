package config_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"

	"github.com/meterd/meterd/internal/config"
)

func readExample(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../config.example.toml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var commentedTOML = regexp.MustCompile(`(?m)^# (\[\[|[a-z_]+ += )`)

// uncomment turns the commented blocks of the example into TOML.
func uncomment(text string) string { return commentedTOML.ReplaceAllString(text, "$1") }

// TestExample_IsDefault keeps the documented defaults true.
func TestExample_IsDefault(t *testing.T) {
	t.Parallel()
	path := writeFile(t, readExample(t))
	got, err := config.Load(path, []string{"METERD_KOOGALLERY_SELLER_KEY=fake-seller-key"})
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.DataDir = filepath.Join(filepath.Dir(path), want.DataDir)
	want.KooGallery.SellerKey = "fake-seller-key"
	if d := diff(want, got); d != "" {
		t.Errorf("config.example.toml differs from the defaults (-default +example):\n%s", d)
	}
}

// TestExample_HasEveryKey compares the keys of the example, commented blocks included, with those of the struct.
func TestExample_HasEveryKey(t *testing.T) {
	t.Parallel()
	all := config.Default()
	all.Server.Keys = []config.Key{{}}
	all.Products = []config.Product{{}}
	all.Meters = []config.Meter{{}}
	all.Mappings = []config.Mapping{{}}
	want := keysOf(t, printed(t, all))
	want = slices.DeleteFunc(want, func(key string) bool { return key == "server.keys[0].key_env" }) // in the comment of key_file
	got := slices.DeleteFunc(keysOf(t, uncomment(readExample(t))), func(key string) bool { return strings.HasPrefix(key, "meters[0].group_by.") })
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("keys of config.example.toml (-struct +example):\n%s", d)
	}
	if !strings.Contains(readExample(t), "key_env =") {
		t.Error("config.example.toml doesn't mention key_env")
	}
}

// TestExample_CommentedBlocks loads the example with its commented blocks in force.
func TestExample_CommentedBlocks(t *testing.T) {
	t.Parallel()
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("fake-key-0123456789\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(uncomment(readExample(t)), "/etc/meterd/keys/backend", key)
	cfg, err := config.Load(writeFile(t, text), []string{"METERD_KOOGALLERY_SELLER_KEY=fake-seller-key"})
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Server.Keys) != 1 || len(cfg.Products) != 1 || len(cfg.Meters) != 1 || len(cfg.Mappings) != 1 {
		t.Errorf("got %d keys, %d products, %d meters, %d mappings; want one of each",
			len(cfg.Server.Keys), len(cfg.Products), len(cfg.Meters), len(cfg.Mappings))
	}
}

// TestExample_Variables sets every key of the example through its variable.
func TestExample_Variables(t *testing.T) {
	t.Parallel()
	values := map[string]any{}
	if err := toml.Unmarshal([]byte(readExample(t)), &values); err != nil {
		t.Fatal(err)
	}
	env := []string{"METERD_KOOGALLERY_SELLER_KEY=fake-seller-key"}
	walk("", values, func(key string, value any) {
		text, ok := value.(string)
		switch x := value.(type) {
		case bool:
			text = strconv.FormatBool(x)
		case int64:
			text = strconv.FormatInt(x, 10)
		case float64:
			text = strconv.FormatFloat(x, 'g', -1, 64)
		case []any:
		default:
			if !ok {
				t.Errorf("%s is a %T", key, value)
			}
		}
		env = append(env, config.Variable(key)+"="+text)
	})
	if len(env) < 50 {
		t.Fatalf("found %d keys, want all of them", len(env))
	}
	path := writeFile(t, "")
	got, err := config.Load(path, env)
	if err != nil {
		t.Fatal(err)
	}
	want, err := config.Load(path, env[:1])
	if err != nil {
		t.Fatal(err)
	}
	if d := diff(want, got); d != "" {
		t.Errorf("defaults through the environment (-want +got):\n%s", d)
	}
}

func keysOf(t *testing.T, text string) []string {
	t.Helper()
	values := map[string]any{}
	if err := toml.Unmarshal([]byte(text), &values); err != nil {
		t.Fatal(err)
	}
	var keys []string
	walk("", values, func(key string, _ any) { keys = append(keys, key) })
	slices.Sort(keys)
	return keys
}

// walk calls visit for each leaf. An empty table is a leaf that is left out.
func walk(prefix string, value any, visit func(key string, value any)) {
	switch x := value.(type) {
	case map[string]any:
		for name, v := range x {
			walk(strings.TrimPrefix(prefix+"."+name, "."), v, visit)
		}
	case []any:
		if len(x) == 0 {
			visit(prefix, x)
		} else if _, ok := x[0].(map[string]any); !ok {
			visit(prefix, x)
			return
		}
		for i, v := range x {
			walk(prefix+"["+strconv.Itoa(i)+"]", v, visit)
		}
	default:
		visit(prefix, value)
	}
}
