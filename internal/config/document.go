package config

import (
	"bytes"
	"errors"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// document is a parsed TOML file: its values, and the line of each key.
type document struct {
	values map[string]any
	lines  map[string]int
}

// parseDocument parses TOML. A syntax error is one fault with its line.
func parseDocument(text []byte) (document, *Fault) {
	d := document{values: map[string]any{}, lines: map[string]int{}}
	if err := toml.Unmarshal(text, &d.values); err != nil {
		fault := &Fault{Message: strings.TrimPrefix(err.Error(), "toml: ")}
		if decode, ok := errors.AsType[*toml.DecodeError](err); ok {
			fault.Line, _ = decode.Position()
			fault.Key = strings.Join(decode.Key(), ".")
		}
		return d, fault
	}
	d.readLines(text)
	return d, nil
}

// line returns the line of a key, or of the nearest table around it; 0 if unknown.
func (d document) line(key string) int {
	if line, ok := d.lines[entryKey(key, 0)]; ok {
		return line
	}
	for key != "" {
		if line, ok := d.lines[key]; ok {
			return line
		}
		key = key[:max(strings.LastIndexAny(key, ".["), 0)]
	}
	return 0
}

// readLines notes where each key stands. Elements of an array of tables are named list[0], list[1] and so on.
func (d document) readLines(text []byte) {
	lineAt := lineCounter(text)
	arrays := map[string]int{} // array of tables → index of its latest element
	var parser unstable.Parser
	parser.Reset(text)
	table := ""
	for parser.NextExpression() {
		node := parser.Expression()
		path, offset := keyPath(node, arrays, "")
		switch node.Kind {
		case unstable.Table:
			table = path
		case unstable.ArrayTable:
			if n, ok := arrays[path]; ok {
				arrays[path] = n + 1
			} else {
				arrays[path] = 0
			}
			table = entryKey(path, arrays[path])
			path = table
		case unstable.KeyValue:
			path, offset = keyPath(node, nil, table)
		default:
			continue
		}
		if _, ok := d.lines[path]; !ok {
			d.lines[path] = lineAt(offset)
		}
	}
}

// keyPath joins the parts of a key below prefix; parts that name an array of tables mean its latest element, except the
// last one. It also returns the offset of the first part.
func keyPath(node *unstable.Node, arrays map[string]int, prefix string) (path string, offset int) {
	path, offset = prefix, -1
	for it := node.Key(); it.Next(); {
		if n, ok := arrays[path]; ok {
			path = entryKey(path, n)
		}
		part := it.Node()
		if offset < 0 {
			offset = int(part.Raw.Offset)
		}
		if path != "" {
			path += "."
		}
		path += string(part.Data)
	}
	return path, max(offset, 0)
}

// lineCounter returns a function from offset to line number that is cheap for growing offsets.
func lineCounter(text []byte) func(offset int) int {
	line, at := 1, 0
	return func(offset int) int {
		if offset < at {
			line, at = 1, 0
		}
		line += bytes.Count(text[at:min(offset, len(text))], []byte{'\n'})
		at = min(offset, len(text))
		return line
	}
}
