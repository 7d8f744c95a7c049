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
	r := treeReader{text: string(body)}
	return r.value(0)
}

// treeReader builds nodes from a text that json.Valid has passed, so it need not look for mistakes. It is several
// times as fast as json.Decoder's tokens.
type treeReader struct {
	text string
	pos  int
}

// next skips white space and gives the byte behind it.
func (r *treeReader) next() byte {
	for r.pos < len(r.text) {
		c := r.text[r.pos]
		if c != ' ' && c != '\t' && c != '\n' && c != '\r' {
			return c
		}
		r.pos++
	}
	return 0
}

// value reads the next value.
func (r *treeReader) value(depth int) (node, error) {
	if depth > maxDepth {
		return node{}, fmt.Errorf("the body nests deeper than %d levels", maxDepth)
	}
	switch c := r.next(); c {
	case '{':
		return r.object(depth)
	case '[':
		return r.array(depth)
	case '"':
		text, err := r.str()
		return node{kind: kindString, text: text}, err
	case 't', 'f':
		return node{kind: kindBool, text: r.word()}, nil
	case 'n':
		r.word()
		return node{kind: kindNull}, nil
	default:
		return node{kind: kindNumber, text: r.word()}, nil
	}
}

// word reads a number or a literal name: everything up to the next white space or punctuation.
func (r *treeReader) word() string {
	start := r.pos
	for r.pos < len(r.text) && !strings.ContainsRune(" \t\n\r,]}", rune(r.text[r.pos])) {
		r.pos++
	}
	return r.text[start:r.pos]
}

// str reads a string.
func (r *treeReader) str() (string, error) {
	start := r.pos
	escaped := false
	for r.pos++; r.pos < len(r.text) && r.text[r.pos] != '"'; r.pos++ {
		if r.text[r.pos] == '\\' {
			escaped = true
			r.pos++
		}
	}
	r.pos++
	if r.pos > len(r.text) {
		return "", errors.New("a string does not end")
	}
	if !escaped {
		// A copy, so that a record kept for long does not keep the whole body.
		return strings.Clone(r.text[start+1 : r.pos-1]), nil
	}
	var text string
	if err := json.Unmarshal([]byte(r.text[start:r.pos]), &text); err != nil {
		return "", fmt.Errorf("decode string: %w", err)
	}
	return text, nil
}

// object reads members up to and including the closing brace.
func (r *treeReader) object(depth int) (node, error) {
	n := node{kind: kindObject, members: make([]member, 0, 8)}
	for r.pos++; r.next() == '"' || r.next() == ','; {
		if r.next() == ',' {
			r.pos++
			continue
		}
		name, err := r.str()
		if err != nil {
			return node{}, err
		}
		r.next()
		r.pos++ // The colon.
		value, err := r.value(depth + 1)
		if err != nil {
			return node{}, err
		}
		n.members = append(n.members, member{name: name, value: value})
	}
	r.pos++
	return n, nil
}

// array reads items up to and including the closing bracket.
func (r *treeReader) array(depth int) (node, error) {
	n := node{kind: kindArray}
	for r.pos++; r.pos < len(r.text) && r.next() != ']'; {
		if r.next() == ',' {
			r.pos++
			continue
		}
		item, err := r.value(depth + 1)
		if err != nil {
			return node{}, err
		}
		n.items = append(n.items, item)
	}
	r.pos++
	return n, nil
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
	plain := 0 // Everything from here to i needs no escape.
	for i := range len(text) {
		c := text[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		buf.WriteString(text[plain:i])
		plain = i + 1
		if at := strings.IndexByte("\"\\\n\r\t\b\f", c); at >= 0 {
			buf.WriteByte('\\')
			buf.WriteByte(`"\nrtbf`[at])
			continue
		}
		buf.WriteString(`\u00`)
		buf.WriteByte(hex[c>>4])
		buf.WriteByte(hex[c&0xf])
	}
	buf.WriteString(text[plain:])
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
