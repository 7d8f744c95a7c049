package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// maxFileBytes bounds the configuration file: ample for 100,000 mappings.
const maxFileBytes = 64 << 20

// Load reads the configuration: defaults, then the file, then the environment (entries "NAME=value" as from os.Environ),
// then the secrets. The error is [Faults] with everything that is wrong. Relative paths are resolved against the file's
// directory; an empty path loads defaults and environment only, relative to the working directory.
func Load(path string, env []string) (Config, error) {
	var faults Faults
	cfg := Default()
	doc, err := readDocument(path)
	if err != nil {
		return Config{}, err
	}
	decodeTable(doc.values, reflect.ValueOf(&cfg).Elem(), "", &faults)
	variables := parseEnvironment(env)
	origins := variables.apply(&cfg, &faults)
	if err := cfg.resolvePaths(filepath.Dir(path)); err != nil {
		return Config{}, err
	}
	secretFaults, warnings := cfg.readSecrets(variables)
	faults = append(faults, secretFaults...)
	faults = append(faults, cfg.checkFiles()...)
	bad := map[string]bool{}
	for _, f := range faults {
		bad[f.Key] = true
	}
	for _, f := range cfg.validate() {
		if !bad[f.Key] {
			faults = append(faults, f)
		}
	}
	if len(faults) > 0 {
		faults.locate(path, doc, origins)
		return Config{}, faults
	}
	cfg.warnings = append(warnings, cfg.findWarnings()...)
	return cfg, nil
}

// Validate checks everything that can be checked without reading files: limits of each key and the rules across keys. The
// error is [Faults].
func (c Config) Validate() error { return c.validate().err() }

// readDocument reads and parses the file.
func readDocument(path string) (document, error) {
	if path == "" {
		return document{}, nil
	}
	text, err := readFileLimited(path, maxFileBytes)
	if err != nil {
		return document{}, Faults{{File: path, Message: err.Error()}}
	}
	doc, fault := parseDocument(text)
	if fault != nil {
		fault.File = path
		return document{}, Faults{*fault}
	}
	return doc, nil
}

// locate adds to each fault where its value was written.
func (f Faults) locate(path string, doc document, origins map[string]string) {
	for i := range f {
		if f[i].Variable != "" || f[i].Key == "" {
			continue
		}
		if name, ok := origins[f[i].Key]; ok {
			f[i].Variable = name
			continue
		}
		f[i].File, f[i].Line = path, doc.line(f[i].Key)
	}
	f.sortByLine()
}

// resolvePaths makes every path absolute: child processes may have another working directory.
func (c *Config) resolvePaths(dir string) error {
	base, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("resolve the configuration's directory: %w", err)
	}
	// Lists are shared with nothing yet: this configuration was built by this call of Load.
	forEachLeaf(reflect.ValueOf(c).Elem(), "", func(f field) {
		if path := f.value; f.tag.Get("path") == "yes" && path.String() != "" && !filepath.IsAbs(path.String()) {
			path.SetString(filepath.Join(base, path.String()))
		}
	})
	return nil
}

// readFileLimited reads a regular file of at most limit bytes. Its errors name what is wrong, not the path.
func readFileLimited(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path) //nolint:gosec // the operator chose the path
	if err != nil {
		return nil, pathReason(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, pathReason(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	text, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, pathReason(err)
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("is larger than %s", Size(limit))
	}
	return text, nil
}

// pathReason strips the operation and path, which the fault names already.
func pathReason(err error) error {
	if pathErr, ok := errors.AsType[*os.PathError](err); ok {
		return fmt.Errorf("can't be read: %w", pathErr.Err)
	}
	return fmt.Errorf("can't be read: %w", err)
}

// oneOf reports whether value is in the space separated list.
func oneOf(value, list string) bool { return slices.Contains(strings.Fields(list), value) }
