package meter

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// Kinds of JSON values, as far as extraction tells them apart.
const (
	kindAbsent byte = 0
	kindText   byte = '"'
	kindNumber byte = '0'
	kindBool   byte = 't'
	kindNull   byte = 'n'
	kindObject byte = '{'
	kindArray  byte = '['
)

// slot is what was found at one path: data[start:end], for a text without its quotes.
type slot struct {
	start, end int32
	kind       byte
	escaped    bool
}

// pathNode is a node of the tree of all paths that the meters of one event type need.
type pathNode struct {
	slot    int // of the value here, −1 if no path ends here
	names   []namedNode
	indexes []indexedNode
	leaves  int // paths that end here or below
}

type namedNode struct {
	name string
	node *pathNode
}

type indexedNode struct {
	index int
	node  *pathNode
}

// child returns the node one step below, creating it if need be.
func (n *pathNode) child(step PathStep) *pathNode {
	if step.Index >= 0 {
		for _, c := range n.indexes {
			if c.index == step.Index {
				return c.node
			}
		}
		node := &pathNode{slot: -1}
		n.indexes = append(n.indexes, indexedNode{step.Index, node})
		return node
	}
	for _, c := range n.names {
		if c.name == step.Name {
			return c.node
		}
	}
	node := &pathNode{slot: -1}
	n.names = append(n.names, namedNode{step.Name, node})
	return node
}

// extractor finds the values of one event type's paths in one pass over data. It trusts that data is valid JSON, as the
// decoder left it: on anything else it finds less or nonsense, but stays within the bytes and ends. It is reused and not
// safe for concurrent use.
type extractor struct {
	data    []byte
	slots   []slot
	missing int    // leaves not yet seen
	text    []byte // unescaped texts
}

// run fills the slots from data.
func (x *extractor) run(root *pathNode, slots int, data []byte) {
	x.data, x.missing = data, root.leaves
	x.text = x.text[:0]
	if cap(x.slots) < slots {
		x.slots = make([]slot, slots)
	}
	x.slots = x.slots[:slots]
	clear(x.slots)
	if root.leaves > 0 {
		x.value(root, x.space(0))
	}
}

// bytes returns the text of a slot: a text unescaped, anything else as written. It is a view into data or into the
// extractor, valid until the next run.
func (x *extractor) bytes(s slot) []byte {
	raw := x.data[s.start:s.end:s.end]
	if !s.escaped {
		return raw
	}
	from := len(x.text)
	x.text = appendUnescaped(x.text, raw)
	return x.text[from:len(x.text):len(x.text)]
}

func (x *extractor) space(i int) int {
	for i < len(x.data) && x.data[i] <= ' ' {
		i++
	}
	return i
}

// value visits the value at i, for which node has paths, and returns the position after it.
func (x *extractor) value(node *pathNode, i int) int {
	if i >= len(x.data) {
		return len(x.data)
	}
	var end int
	found := slot{start: int32(i), kind: x.data[i]} //nolint:gosec // an event is far below 2 GiB
	switch c := x.data[i]; {
	case c == '{' && len(node.names) > 0:
		end = x.object(node, i+1)
	case c == '[' && len(node.indexes) > 0:
		end = x.array(node, i+1)
	case c == '"':
		end, found.escaped = x.skipText(i + 1)
		found.start++
		found.end = int32(end) //nolint:gosec // as above
		end = min(end+1, len(x.data))
	default:
		end = x.skip(i)
		switch {
		case c == 'f':
			found.kind = kindBool
		case c != '{' && c != '[' && c != 't' && c != 'n':
			found.kind = kindNumber
		}
	}
	if found.kind != kindText {
		found.end = int32(end) //nolint:gosec // as above
	}
	if node.slot >= 0 {
		x.slots[node.slot] = found
		x.missing--
	}
	return end
}

// object visits the members from i on. It stops early once every path was seen.
func (x *extractor) object(node *pathNode, i int) int {
	for {
		i = x.space(i)
		if i >= len(x.data) || x.data[i] != '"' {
			return min(i+1, len(x.data)) // the closing brace
		}
		end, escaped := x.skipText(i + 1)
		name := x.data[i+1 : end]
		if escaped {
			name = appendUnescaped(nil, name)
		}
		i = x.space(end + 1)
		if i < len(x.data) {
			i = x.space(i + 1) // the colon
		}
		if child := node.named(name); child != nil {
			i = x.value(child, i)
		} else {
			i = x.skip(i)
		}
		if x.missing <= 0 {
			return len(x.data)
		}
		i = x.space(i)
		if i < len(x.data) && x.data[i] == ',' {
			i++
		}
	}
}

func (x *extractor) array(node *pathNode, i int) int {
	for index := 0; ; index++ {
		i = x.space(i)
		if i >= len(x.data) || x.data[i] == ']' {
			return min(i+1, len(x.data))
		}
		start := i
		if child := node.indexed(index); child != nil {
			i = x.value(child, i)
		} else {
			i = x.skip(i)
		}
		if x.missing <= 0 || i <= start {
			return len(x.data)
		}
		i = x.space(i)
		if i < len(x.data) && x.data[i] == ',' {
			i++
		}
	}
}

func (n *pathNode) named(name []byte) *pathNode {
	for i := range n.names {
		if n.names[i].name == string(name) {
			return n.names[i].node
		}
	}
	return nil
}

func (n *pathNode) indexed(index int) *pathNode {
	for i := range n.indexes {
		if n.indexes[i].index == index {
			return n.indexes[i].node
		}
	}
	return nil
}

// skipText returns the position of the closing quote of a text that began before i.
func (x *extractor) skipText(i int) (end int, escaped bool) {
	b := x.data
	for {
		for i+8 <= len(b) {
			v := binary.LittleEndian.Uint64(b[i:])
			quote := v ^ ('"' * swarOnes)
			slash := v ^ ('\\' * swarOnes)
			marks := (((quote - swarOnes) &^ quote) | ((slash - swarOnes) &^ slash)) & swarHigh
			if marks != 0 {
				i += bits.TrailingZeros64(marks) >> 3
				break
			}
			i += 8
		}
		if i >= len(b) {
			return len(b), escaped
		}
		switch b[i] {
		case '"':
			return i, escaped
		case '\\':
			escaped = true
			i += 2
		default:
			i++
		}
	}
}

// skip returns the position after the value at i, whatever it is.
func (x *extractor) skip(i int) int {
	b := x.data
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			i, _ = x.skipText(i + 1)
			i++
		case '{', '[':
			depth++
			i++
			continue
		case '}', ']':
			if depth == 0 {
				return i
			}
			depth--
			i++
		case ',', ':', ' ', '\n', '\r', '\t':
			if depth == 0 {
				return i
			}
			i++
			continue
		default:
			n := bytes.IndexAny(b[i:], ",]} \n\r\t")
			if n < 0 {
				return len(b)
			}
			i += n
		}
		if depth == 0 {
			return min(i, len(b))
		}
	}
	return len(b)
}
