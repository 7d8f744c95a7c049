package embedded_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meterd/meterd/store/embedded"
)

func writeFile(tb testing.TB, path string) string {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("library"), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func TestFindLibrary(t *testing.T) {
	dir := t.TempDir()
	configured := writeFile(t, filepath.Join(dir, "configured.so"))
	fromEnv := writeFile(t, filepath.Join(dir, "env.so"))
	cached := writeFile(t, filepath.Join(dir, "cache", "meterd", "engine", embedded.Version, "libchdb.so"))
	for name, tc := range map[string]struct {
		configured, env, cache string
		want                   string
		errs                   []string
	}{
		"configured first":    {configured: configured, env: fromEnv, cache: dir + "/cache", want: configured},
		"environment second":  {env: fromEnv, cache: dir + "/cache", want: fromEnv},
		"then the cache":      {cache: dir + "/cache", want: cached},
		"configured is final": {configured: dir + "/missing.so", env: fromEnv, errs: []string{"configured", dir + "/missing.so"}},
		"configured is a dir": {configured: dir, errs: []string{"not a regular file"}},
		"environment final":   {env: dir + "/missing.so", cache: dir + "/cache", errs: []string{embedded.LibraryEnv}},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Setenv(embedded.LibraryEnv, tc.env)
			t.Setenv("XDG_CACHE_HOME", tc.cache)
			got, err := embedded.FindLibrary(tc.configured)
			if got != tc.want || (err == nil) != (tc.errs == nil) {
				t.Fatalf("FindLibrary = %q, %v, want %q", got, err, tc.want)
			}
			checkError(t, err, tc.errs)
		})
	}
}

func TestFindLibrary_nowhere(t *testing.T) {
	for _, path := range []string{"/usr/local/lib/meterd/libchdb.so", "/usr/lib/meterd/libchdb.so"} {
		if _, err := os.Stat(path); err == nil {
			t.Skipf("this machine has %s", path)
		}
	}
	empty := t.TempDir()
	t.Setenv(embedded.LibraryEnv, "")
	t.Setenv("XDG_CACHE_HOME", empty)
	_, err := embedded.FindLibrary("")
	checkError(t, err, []string{
		filepath.Dir(os.Args[0]), filepath.Join(empty, "meterd", "engine", embedded.Version, "libchdb.so"),
		"/usr/local/lib/meterd/libchdb.so", "/usr/lib/meterd/libchdb.so", "fetch-engine.sh", embedded.LibraryEnv,
	})
}

func checkError(tb testing.TB, err error, parts []string) {
	tb.Helper()
	if len(parts) == 0 {
		return
	}
	if !errors.Is(err, embedded.ErrNoLibrary) {
		tb.Fatalf("error %v, want %v", err, embedded.ErrNoLibrary)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			tb.Errorf("error %q does not name %q", err, part)
		}
	}
}

const fetchScript = "../../deployments/fetch-engine.sh"

func TestFetchScript_refusesWrongFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	wrong := writeFile(t, filepath.Join(dir, "wrong.tgz"))
	cmd := exec.CommandContext(t.Context(), fetchScript, filepath.Join(dir, "out"))
	cmd.Env = append(os.Environ(), "METERD_ENGINE_TARBALL="+wrong)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !strings.Contains(string(out), "checksum") && exit.ExitCode() != 2 {
		t.Fatalf("script = %v\n%s\nwant a checksum error", err, out)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "out"))
	if err == nil && len(entries) != 0 {
		t.Errorf("script left %v behind", entries)
	}
}

func TestFetchScript_agreesWithPackage(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(fetchScript)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "\nversion="+embedded.Version+"\n") {
		t.Errorf("script and package differ in the engine's version (%s)", embedded.Version)
	}
}
