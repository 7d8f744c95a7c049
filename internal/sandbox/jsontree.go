package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is far above what the API's bodies need.
const maxDepth = 32

// nodeKind is the JSON type of a node.
type nodeKind byte

const (
	kindNull nodeKind = iota
	kindBool
	kindNumber
	kindString
	kindArray
	kindObject
)

// node is a JSON value that keeps what a struct decoder loses: members in order, repeated names, numbers as written.
type node struct {
	kind    nodeKind
	text    string // the string, the number as written, or true/false
	members []member
	items   []node
}

// member is one name and value of an object.
type member struct {
	name  string
	value node
}

// parseTree reads exactly one JSON value.
func parseTree(body []byte) (node, error) {
	if !utf8.Valid(body) {
		return node{}, errors.New("the body is not UTF-8")
	}
	if !json.Valid(body) {
		var v any
		if err := json.Unmarshal(body, &v); err != nil {
			return node{}, fmt.Errorf("the body is not JSON: %w", err)
		}
		return node{}, errors.New("the body is not JSON")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	root, err := readNode(dec, 0)
	if err != nil {
		return node{}, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return node{}, errors.New("the body holds more than one JSON value")
	}
	return root, nil
}

// readNode reads the next value of the stream.
func readNode(dec *json.Decoder, depth int) (node, error) {
	if depth > maxDepth {
		return node{}, fmt.Errorf("the body nests deeper than %d levels", maxDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return node{}, fmt.Errorf("read JSON: %w", err)
	}
	switch v := tok.(type) {
	case json.Delim:
		if v == '{' {
			return readObject(dec, depth)
		}
		return readArray(dec, depth)
	case string:
		return node{kind: kindString, text: v}, nil
	case json.Number:
		return node{kind: kindNumber, text: v.String()}, nil
	case bool:
		if v {
			return node{kind: kindBool, text: "true"}, nil
		}
		return node{kind: kindBool, text: "false"}, nil
	default:
		return node{kind: kindNull}, nil
	}
}

// readObject reads members up to and including the closing brace.
func readObject(dec *json.Decoder, depth int) (node, error) {
	n := node{kind: kindObject, members: make([]member, 0, 8)}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return node{}, fmt.Errorf("read JSON: %w", err)
		}
		name, ok := tok.(string)
		if !ok {
			return node{}, errors.New("read JSON: an object's name is not a string")
		}
		value, err := readNode(dec, depth+1)
		if err != nil {
			return node{}, err
		}
		n.members = append(n.members, member{name: name, value: value})
	}
	_, err := dec.Token()
	return n, err
}

// readArray reads items up to and including the closing bracket.
func readArray(dec *json.Decoder, depth int) (node, error) {
	n := node{kind: kindArray}
	for dec.More() {
		item, err := readNode(dec, depth+1)
		if err != nil {
			return node{}, err
		}
		n.items = append(n.items, item)
	}
	_, err := dec.Token()
	return n, err
}

// canonical writes the value as the "natural sorting" of the signature is understood here: compact, names ascending by
// UTF-16 code unit at every level (the order of a Java TreeMap), arrays in order, non-ASCII and slashes as they are
// (KooGallery usage push, section 1.4). It is false where an object repeats a name: then no such text is defined.
func (n node) canonical() ([]byte, bool) {
	var buf bytes.Buffer
	ok := n.writeCanonical(&buf)
	return buf.Bytes(), ok
}

func (n node) writeCanonical(buf *bytes.Buffer) bool {
	switch n.kind {
	case kindNull:
		buf.WriteString("null")
	case kindBool, kindNumber:
		buf.WriteString(n.text)
	case kindString:
		writeString(buf, n.text)
	case kindArray:
		buf.WriteByte('[')
		for i, item := range n.items {
			if i > 0 {
				buf.WriteByte(',')
			}
			if !item.writeCanonical(buf) {
				return false
			}
		}
		buf.WriteByte(']')
	case kindObject:
		return n.writeSortedMembers(buf)
	}
	return true
}

func (n node) writeSortedMembers(buf *bytes.Buffer) bool {
	sorted := slices.Clone(n.members)
	slices.SortStableFunc(sorted, func(a, b member) int { return compareCodeUnits(a.name, b.name) })
	buf.WriteByte('{')
	for i, m := range sorted {
		if i > 0 {
			if m.name == sorted[i-1].name {
				return false
			}
			buf.WriteByte(',')
		}
		writeString(buf, m.name)
		buf.WriteByte(':')
		if !m.value.writeCanonical(buf) {
			return false
		}
	}
	buf.WriteByte('}')
	return true
}

// compareCodeUnits orders strings as Java does. It differs from the order of the bytes only above U+FFFF.
func compareCodeUnits(a, b string) int {
	if isASCII(a) && isASCII(b) {
		return strings.Compare(a, b)
	}
	return slices.Compare(utf16.Encode([]rune(a)), utf16.Encode([]rune(b)))
}

// isASCII reports whether every byte of text is ASCII.
func isASCII(text string) bool {
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// writeString writes a JSON string, escaping only what JSON demands.
func writeString(buf *bytes.Buffer, text string) {
	const hex = "0123456789ABCDEF"
	buf.WriteByte('"')
	for i := range len(text) {
		switch c := text[i]; {
		case c == '"' || c == '\\':
			buf.WriteByte('\\')
			buf.WriteByte(c)
		case c == '\n':
			buf.WriteString(`\n`)
		case c == '\r':
			buf.WriteString(`\r`)
		case c == '\t':
			buf.WriteString(`\t`)
		case c == '\b':
			buf.WriteString(`\b`)
		case c == '\f':
			buf.WriteString(`\f`)
		case c < 0x20:
			buf.WriteString(`\u00`)
			buf.WriteByte(hex[c>>4])
			buf.WriteByte(hex[c&0xf])
		default:
			buf.WriteByte(c)
		}
	}
	buf.WriteByte('"')
}

// decodeStrict decodes one JSON value and refuses unknown fields and anything behind it.
func decodeStrict(body []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("decode body: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("decode body: there is more behind the JSON value")
	}
	return nil
}
