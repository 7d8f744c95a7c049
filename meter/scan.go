package meter

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner validates JSON (RFC 8259, strictly: UTF-8, no lone surrogates, no unknown escapes) in one pass and without
// allocating. A method that takes a position i begins there and returns the position after what it read, or −1 after
// recording the error.
//
// encoding/json is not used on this path: it is seven times slower, accepts invalid UTF-8, and lets the last of two
// equal names win, so that two readers of the same bytes may see different amounts.
type scanner struct {
	buf  []byte
	keys []keyRef // names of the objects that are open, innermost last
	text []byte   // names that had escapes, unescaped

	errOffset int
	errReason Reason
	errDetail string

	dupOffset int // offset of the first duplicate name since reset, −1 if none
}

// keyRef is a name within an open object. Comparing two of them rarely needs more than the prefix.
type keyRef struct {
	prefix  uint64 // its first 8 bytes
	off     int32
	length  int32
	escaped bool // off counts in scanner.text, not scanner.buf
}

// Facts about a string, found while scanning it.
type textFlags uint8

const (
	hasEscape textFlags = 1 << iota
	hasHigh             // bytes above 0x7f
)

const (
	swarOnes = 0x0101010101010101
	swarHigh = 0x8080808080808080
)

// linearKeys is the number of names up to which an object is searched for duplicates name by name; larger objects are
// sorted once, so that a hostile object costs n log n.
const linearKeys = 16

// reset prepares for the next document in buf.
func (s *scanner) reset(buf []byte) {
	s.buf = buf
	s.resetDocument()
}

// memory is about how many bytes the scanner holds for reuse.
func (s *scanner) memory() int { return cap(s.keys)*24 + cap(s.text) }

func (s *scanner) resetDocument() {
	s.keys = s.keys[:0]
	s.text = s.text[:0]
	s.dupOffset = -1
}

func (s *scanner) fail(offset int, reason Reason, detail string) int {
	s.errOffset, s.errReason, s.errDetail = offset, reason, detail
	return -1
}

// unexpected records that the byte at i is not what the grammar wants there.
func (s *scanner) unexpected(i int, want string) int {
	if i >= len(s.buf) {
		return s.fail(len(s.buf), ReasonMalformed, "ends too early, expected "+want)
	}
	return s.fail(i, ReasonMalformed, "found "+strconv.QuoteRune(rune(s.buf[i]))+", expected "+want)
}

// space skips white space.
func (s *scanner) space(i int) int {
	for i < len(s.buf) {
		c := s.buf[i]
		if c > ' ' || (c != ' ' && c != '\n' && c != '\r' && c != '\t') {
			return i
		}
		i++
	}
	return i
}

// at is the byte at i, or 0 (which no grammar rule wants) at the end.
func (s *scanner) at(i int) byte {
	if uint(i) < uint(len(s.buf)) {
		return s.buf[i]
	}
	return 0
}

// value reads any JSON value. depth is the number of objects and arrays around it.
func (s *scanner) value(i, depth int) int {
	switch c := s.at(i); {
	case c == '"':
		end, _ := s.str(i + 1)
		if end < 0 {
			return -1
		}
		return end + 1
	case c == '{':
		return s.object(i, depth)
	case c == '[':
		return s.array(i, depth)
	case c == '-' || (c >= '0' && c <= '9'):
		return s.number(i)
	case c == 't':
		return s.literal(i, "true")
	case c == 'f':
		return s.literal(i, "false")
	case c == 'n':
		return s.literal(i, "null")
	}
	return s.unexpected(i, "a value")
}

func (s *scanner) literal(i int, word string) int {
	if len(s.buf)-i >= len(word) && string(s.buf[i:i+len(word)]) == word {
		return i + len(word)
	}
	return s.unexpected(i, "a value such as true, false or null")
}

// number reads a number by the grammar of RFC 8259; its size is nobody's business here.
func (s *scanner) number(i int) int {
	if s.at(i) == '-' {
		i++
	}
	switch c := s.at(i); {
	case c == '0':
		i++
	case c >= '1' && c <= '9':
		i = s.digits(i)
	default:
		return s.unexpected(i, "a digit")
	}
	if s.at(i) == '.' {
		i++
		start := i
		if i = s.digits(i); i == start {
			return s.unexpected(i, "a digit after the decimal point")
		}
	}
	if c := s.at(i); c == 'e' || c == 'E' {
		i++
		if c := s.at(i); c == '+' || c == '-' {
			i++
		}
		start := i
		if i = s.digits(i); i == start {
			return s.unexpected(i, "a digit in the exponent")
		}
	}
	return i
}

func (s *scanner) digits(i int) int {
	for i < len(s.buf) && s.buf[i]-'0' <= 9 {
		i++
	}
	return i
}

func (s *scanner) array(i, depth int) int {
	if depth >= MaxDepth {
		return s.fail(i, ReasonTooDeep, "nested more than "+strconv.Itoa(MaxDepth)+" levels deep; flatten it")
	}
	i = s.space(i + 1)
	if s.at(i) == ']' {
		return i + 1
	}
	for {
		if i = s.value(i, depth+1); i < 0 {
			return -1
		}
		i = s.space(i)
		switch s.at(i) {
		case ',':
			i = s.space(i + 1)
		case ']':
			return i + 1
		default:
			return s.unexpected(i, "',' or ']'")
		}
	}
}

func (s *scanner) object(i, depth int) int {
	if depth >= MaxDepth {
		return s.fail(i, ReasonTooDeep, "nested more than "+strconv.Itoa(MaxDepth)+" levels deep; flatten it")
	}
	base := len(s.keys)
	i = s.space(i + 1)
	if s.at(i) == '}' {
		return i + 1
	}
	for {
		start, end, flags := s.name(i)
		if end < 0 {
			return -1
		}
		s.pushKey(base, start, end, flags)
		if i = s.colon(end + 1); i < 0 {
			return -1
		}
		if i = s.value(i, depth+1); i < 0 {
			return -1
		}
		i = s.space(i)
		switch s.at(i) {
		case ',':
			i = s.space(i + 1)
		case '}':
			s.popKeys(base)
			return i + 1
		default:
			return s.unexpected(i, "',' or '}'")
		}
	}
}

// name reads a member's name: the bytes between its quotes are buf[start:end].
func (s *scanner) name(i int) (start, end int, flags textFlags) {
	if s.at(i) != '"' {
		return 0, s.unexpected(i, "a name in double quotes"), 0
	}
	end, flags = s.str(i + 1)
	return i + 1, end, flags
}

// colon reads the colon after a name and returns where the value begins.
func (s *scanner) colon(i int) int {
	if s.at(i) == ':' && s.at(i+1) > ' ' {
		return i + 1 // compact JSON
	}
	i = s.space(i)
	if s.at(i) != ':' {
		return s.unexpected(i, "':'")
	}
	return s.space(i + 1)
}

// pushKey remembers a name of the object whose names begin at keys[base] and looks for an equal one.
func (s *scanner) pushKey(base, start, end int, flags textFlags) {
	k := keyRef{off: int32(start), length: int32(end - start)} //nolint:gosec // bodies are far below 2 GiB, checked by Batch
	if flags&hasEscape != 0 {
		k.escaped = true
		k.off = int32(len(s.text)) //nolint:gosec // as above
		s.text = appendUnescaped(s.text, s.buf[start:end])
		k.length = int32(len(s.text)) - k.off //nolint:gosec // as above
	}
	k.prefix = prefix8(s.keyBytes(k))
	if s.dupOffset < 0 && len(s.keys)-base < linearKeys {
		for _, other := range s.keys[base:] {
			if s.sameKey(other, k) {
				s.dupOffset = start - 1
				break
			}
		}
	}
	s.keys = append(s.keys, k)
}

// popKeys forgets the names of an object that ended.
func (s *scanner) popKeys(base int) {
	if len(s.keys)-base > linearKeys && s.dupOffset < 0 {
		s.sortedDuplicates(s.keys[base:])
	}
	s.keys = s.keys[:base]
}

func (s *scanner) sortedDuplicates(keys []keyRef) {
	slices.SortFunc(keys, func(a, b keyRef) int {
		if c := cmp.Compare(a.prefix, b.prefix); c != 0 {
			return c
		}
		return bytes.Compare(s.keyBytes(a), s.keyBytes(b))
	})
	for i := 1; i < len(keys); i++ {
		if s.sameKey(keys[i-1], keys[i]) {
			s.dupOffset = 0
			if !keys[i].escaped {
				s.dupOffset = int(keys[i].off) - 1
			}
			return
		}
	}
}

func (s *scanner) sameKey(a, b keyRef) bool {
	return a.prefix == b.prefix && a.length == b.length &&
		(a.length <= 8 || bytes.Equal(s.keyBytes(a), s.keyBytes(b)))
}

func (s *scanner) keyBytes(k keyRef) []byte {
	if k.escaped {
		return s.text[k.off : k.off+k.length]
	}
	return s.buf[k.off : k.off+k.length]
}

// prefix8 packs the first 8 bytes, zero padded.
func prefix8(b []byte) uint64 {
	if len(b) >= 8 {
		return binary.LittleEndian.Uint64(b)
	}
	var v uint64
	for i, c := range b {
		v |= uint64(c) << (8 * i)
	}
	return v
}

// str reads a string that began before i and returns the position of its closing quote, or −1.
func (s *scanner) str(i int) (end int, flags textFlags) {
	b := s.buf
	for {
		// Eight bytes at a time, up to the first that is a quote, a backslash, a control character or not ASCII. A
		// borrow can only set marks above the first true one, so the lowest mark is exact.
		for i+8 <= len(b) {
			v := binary.LittleEndian.Uint64(b[i:])
			quote := v ^ ('"' * swarOnes)
			slash := v ^ ('\\' * swarOnes)
			marks := (((quote - swarOnes) &^ quote) | ((slash - swarOnes) &^ slash) | ((v - ' '*swarOnes) &^ v) | v) & swarHigh
			if marks != 0 {
				i += bits.TrailingZeros64(marks) >> 3
				break
			}
			i += 8
		}
		if i >= len(b) {
			return s.unexpected(i, "a closing quote"), 0
		}
		switch c := b[i]; {
		case c == '"':
			return i, flags
		case c == '\\':
			flags |= hasEscape
			if i = s.escape(i); i < 0 {
				return -1, 0
			}
		case c < ' ':
			return s.fail(i, ReasonMalformed, "control character in a string; write it as \\u00XX"), 0
		case c < utf8.RuneSelf:
			i++
		default:
			flags |= hasHigh
			r, size := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && size <= 1 {
				return s.fail(i, ReasonMalformed, "invalid UTF-8; send the body as UTF-8"), 0
			}
			i += size
		}
	}
}

// escape reads the escape sequence at i, for \u of a surrogate the whole pair.
func (s *scanner) escape(i int) int {
	switch s.at(i + 1) {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2
	case 'u':
	default:
		return s.fail(i, ReasonMalformed, "unknown escape in a string")
	}
	r := hex4(s.buf, i+2)
	if r < 0 {
		return s.fail(i, ReasonMalformed, "\\u needs four hexadecimal digits")
	}
	if !utf16.IsSurrogate(r) {
		return i + 6
	}
	if s.at(i+6) == '\\' && s.at(i+7) == 'u' {
		if utf16.DecodeRune(r, hex4(s.buf, i+8)) != utf8.RuneError {
			return i + 12
		}
	}
	return s.fail(i, ReasonMalformed, "half of a surrogate pair in a string; write both halves")
}

// hex4 reads four hexadecimal digits at i, or returns −1.
func hex4(b []byte, i int) rune {
	if i+4 > len(b) {
		return -1
	}
	var r rune
	for _, c := range b[i : i+4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

// appendUnescaped appends the text of a string whose bytes between the quotes are raw. raw was validated; whatever it
// is, appendUnescaped doesn't fail.
func appendUnescaped(dst, raw []byte) []byte {
	for len(raw) > 0 {
		n := bytes.IndexByte(raw, '\\')
		if n < 0 || n+1 >= len(raw) {
			return append(dst, raw...)
		}
		dst = append(dst, raw[:n]...)
		c := raw[n+1]
		raw = raw[n+2:]
		switch c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r := hex4(raw, 0)
			raw = raw[min(4, len(raw)):]
			if utf16.IsSurrogate(r) && len(raw) >= 6 {
				r = utf16.DecodeRune(r, hex4(raw, 2))
				raw = raw[6:]
			}
			dst = utf8.AppendRune(dst, r)
		default:
			dst = append(dst, c)
		}
	}
	return dst
}
