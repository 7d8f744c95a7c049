package config

import (
	"sort"
	"strconv"
	"strings"
)

// Fault is one thing wrong with the configuration.
type Fault struct {
	// Key is the dotted key, such as "server.listen" or "meters[1].slug"; empty when the file as a whole is meant.
	Key string
	// File and Line say where the value was written; Line is 0 when it comes from a default. Variable is the environment
	// variable it came from instead.
	File     string
	Line     int
	Variable string
	// Message says what is wrong and, where it helps, what was found and what to do.
	Message string
}

// String is "file:line: section.key: what is wrong", without the parts that are unknown.
func (f Fault) String() string {
	var parts []string
	switch {
	case f.Variable != "":
		parts = append(parts, f.Variable)
	case f.File != "" && f.Line > 0:
		parts = append(parts, f.File+":"+strconv.Itoa(f.Line))
	case f.File != "" && f.Key == "":
		parts = append(parts, f.File)
	}
	if f.Key != "" {
		parts = append(parts, f.Key)
	}
	return strings.Join(append(parts, f.Message), ": ")
}

// Faults is the error [Load] and [Config.Validate] return: everything that is wrong, one line each.
type Faults []Fault

// Error lists every fault on a line of its own.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.String()
	}
	return strings.Join(lines, "\n")
}

// add appends a fault of a key.
func (f *Faults) add(key, message string) { *f = append(*f, Fault{Key: key, Message: message}) }

// err is nil when there are no faults.
func (f Faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return f
}

// sortByLine orders faults as they appear in the file; those without a line come last.
func (f Faults) sortByLine() {
	sort.SliceStable(f, func(i, j int) bool {
		a, b := f[i].Line, f[j].Line
		return a != b && b == 0 || a < b && a != 0
	})
}
