package meter

import (
	"fmt"
	"strconv"
	"strings"
)

// Path is a place in a JSON document: the subset of JSONPath (RFC 9535) that names exactly one value, such as
// $.usage.tokens, $['input tokens'] or $.choices[0].n. The zero value names nothing.
type Path struct {
	text  string
	steps []PathStep
}

// PathStep is one step of a Path: a member name, or an array index when Name is empty and Index is not negative.
type PathStep struct {
	Name  string
	Index int // −1 for a member
}

// ParsePath parses a path. Wildcards, filters, slices, negative indexes and recursive descent are refused.
func ParsePath(text string) (Path, error) {
	fail := func(reason string) (Path, error) {
		return Path{}, fmt.Errorf("path %q: %s; use the form $.name, $.name.other, $['any name'] or $.list[0]", text, reason)
	}
	if !strings.HasPrefix(text, "$") {
		return fail("must begin with $")
	}
	p := Path{text: text}
	rest := text[1:]
	for rest != "" {
		step, tail, reason := nextStep(rest)
		if reason != "" {
			return fail(reason)
		}
		p.steps = append(p.steps, step)
		rest = tail
	}
	if len(p.steps) == 0 {
		return fail("names the whole document")
	}
	if len(p.steps) > 16 {
		return fail("has more than 16 steps")
	}
	return p, nil
}

// MustParsePath is ParsePath for tests and constants.
func MustParsePath(text string) Path {
	p, err := ParsePath(text)
	if err != nil {
		panic(err)
	}
	return p
}

// nextStep cuts one step off rest. A non-empty reason says why it can't.
func nextStep(rest string) (step PathStep, tail, reason string) {
	switch {
	case strings.HasPrefix(rest, "['"):
		end := strings.Index(rest, "']")
		if end < 3 {
			return step, "", "has an empty or open ['…']"
		}
		return PathStep{Name: rest[2:end], Index: -1}, rest[end+2:], ""
	case rest[0] == '[':
		end := strings.IndexByte(rest, ']')
		if end < 0 {
			return step, "", "has an open bracket"
		}
		n, err := strconv.Atoi(rest[1:end])
		if err != nil || n < 0 || n > 1_000_000 || strconv.Itoa(n) != rest[1:end] {
			return step, "", "has an index that is not a number from 0 to 1000000"
		}
		return PathStep{Index: n}, rest[end+1:], ""
	case rest[0] == '.':
		rest = rest[1:]
		end := strings.IndexAny(rest, ".[")
		if end < 0 {
			end = len(rest)
		}
		name := rest[:end]
		if name == "" || strings.ContainsAny(name, "*?@'\" ]") {
			return step, "", "has an empty name or an unsupported character"
		}
		return PathStep{Name: name, Index: -1}, rest[end:], ""
	}
	return step, "", "expects . or [ between steps"
}

// IsZero reports whether p names nothing.
func (p Path) IsZero() bool { return len(p.steps) == 0 }

// Steps are the steps from the root. The caller must not change them.
func (p Path) Steps() []PathStep { return p.steps }

// String is the text the path was parsed from.
func (p Path) String() string { return p.text }
