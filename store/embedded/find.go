package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const libraryName = "libchdb.so"

// LibraryEnv is the environment variable that names the engine's library.
const LibraryEnv = "METERD_ENGINE_LIBRARY"

// ErrNoLibrary is in the chain of FindLibrary's error when the library is nowhere.
var ErrNoLibrary = errors.New("embedded engine library not found")

// FindLibrary returns the absolute path of the engine's library. configured, when not empty, is the only place looked
// at, and so is the variable METERD_ENGINE_LIBRARY after it. Otherwise the places are, in this order: beside the
// executable, the user's cache (where deployments/fetch-engine.sh puts it), /usr/local/lib/meterd, /usr/lib/meterd.
// The error lists every place tried and says how to get the library.
func FindLibrary(configured string) (string, error) {
	if configured != "" {
		return checkLibrary(configured, "configured")
	}
	if path := os.Getenv(LibraryEnv); path != "" {
		return checkLibrary(path, LibraryEnv)
	}
	candidates := libraryCandidates()
	var tried strings.Builder
	for _, path := range candidates {
		found, err := checkLibrary(path, "")
		if err == nil {
			return found, nil
		}
		fmt.Fprintf(&tried, "\n  %s: %v", path, rootCause(err))
	}
	return "", fmt.Errorf("%w; tried:%s\nget it with: deployments/fetch-engine.sh %s\nor name it in store.engine_library or in %s, or use a ClickHouse server (store.addrs)",
		ErrNoLibrary, tried.String(), filepath.Dir(candidates[min(1, len(candidates)-1)]), LibraryEnv)
}

// libraryCandidates lists the places beside explicit ones. A place that cannot be named (no home) is left out.
func libraryCandidates() []string {
	var paths []string
	if exe, err := os.Executable(); err == nil {
		if resolved, err := filepath.EvalSymlinks(exe); err == nil {
			exe = resolved
		}
		paths = append(paths, filepath.Join(filepath.Dir(exe), libraryName))
	}
	if cache, err := os.UserCacheDir(); err == nil {
		paths = append(paths, filepath.Join(cache, "meterd", "engine", Version, libraryName))
	}
	return append(paths, filepath.Join("/usr/local/lib/meterd", libraryName), filepath.Join("/usr/lib/meterd", libraryName))
}

// checkLibrary wants a readable regular file; source names who asked for it.
func checkLibrary(path, source string) (string, error) {
	abs, err := filepath.Abs(path)
	if err == nil {
		err = checkFile(abs)
	}
	if err == nil {
		return abs, nil
	}
	if source == "" {
		return "", err
	}
	return "", fmt.Errorf("%w: %s %s: %w", ErrNoLibrary, source, path, rootCause(err))
}

func checkFile(path string) error {
	info, err := os.Stat(path) //nolint:gosec // G703: the operator names the library
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	file, err := os.Open(filepath.Clean(path)) //nolint:gosec // G703: the operator names the library
	if err != nil {
		return err
	}
	return file.Close()
}

// rootCause strips the path, which the caller prints itself.
func rootCause(err error) error {
	if pathErr, ok := errors.AsType[*os.PathError](err); ok {
		return pathErr.Err
	}
	return err
}
