package sender

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
	"unicode/utf8"
)

// Position is where an event was read.
type Position struct {
	File string
	Line int // from 1
}

// String is "file:line".
func (p Position) String() string { return p.File + ":" + strconv.Itoa(p.Line) }

// InputError is a fault of the input, with its place.
type InputError struct {
	Position

	Err error
}

// Error is "file:line: what is wrong".
func (e *InputError) Error() string { return e.String() + ": " + e.Err.Error() }

// Unwrap returns what is wrong.
func (e *InputError) Unwrap() error { return e.Err }

// Source gives events in order. Next returns io.EOF after the last one; any other error is final too. A Source is used by
// one goroutine.
type Source interface {
	Next() (Event, error)
}

// Event is one usage event, in the terms of CloudEvents 1.0.
type Event struct {
	// ID and Source identify the event. An empty ID stands for one derived from everything else, see [Event.AppendJSON].
	ID, Source, Type, Subject string
	// Time is zero if the event has none; the daemon then takes the time of receipt.
	Time time.Time
	// Data is a JSON object; nil if absent.
	Data []byte
	// Pos is where the event was read; Row counts the rows of its input from 0.
	Pos Position
	Row int64
	// Name identifies the input in a derived ID.
	Name string

	raw     []byte // the event as read, if it was JSON
	shifted bool   // Time isn't the one in raw any more
}

// Shift moves the event's time. An event without a time stays as it is.
func (e *Event) Shift(d time.Duration) {
	if e.Time.IsZero() || d == 0 {
		return
	}
	e.Time = e.Time.Add(d)
	e.shifted = true
}

// AppendJSON appends the event as JSON. Read from JSON, it is the bytes read, with the time replaced if it was shifted. The
// id of an event without one is 32 hex digits of SHA-256 over the input's name, the row's number and all other attributes:
// the same input sent with the same mapping has the same ids, and two rows never share one.
func (e *Event) AppendJSON(dst []byte) ([]byte, error) {
	if e.raw != nil {
		if !e.shifted {
			return append(dst, e.raw...), nil
		}
		return e.appendShifted(dst)
	}
	id := e.ID
	if id == "" {
		id = e.derivedID()
	}
	dst = append(dst, `{"specversion":"1.0"`...)
	for _, m := range []struct{ name, value string }{
		{"id", id}, {"source", e.Source}, {"type", e.Type}, {"subject", e.Subject}, {"time", e.timeText()},
	} {
		if m.value == "" {
			continue
		}
		dst = append(dst, `,"`+m.name+`":`...)
		dst = appendString(dst, m.value)
	}
	if e.Data != nil {
		dst = append(dst, `,"data":`...)
		dst = append(dst, e.Data...)
	}
	return append(dst, '}'), nil
}

func (e *Event) timeText() string {
	if e.Time.IsZero() {
		return ""
	}
	return e.Time.UTC().Format(time.RFC3339Nano)
}

func (e *Event) derivedID() string {
	h := sha256.New()
	for _, part := range []string{
		"meterd/send/1", e.Name, strconv.FormatInt(e.Row, 10), e.Source, e.Type, e.Subject, e.timeText(), string(e.Data),
	} {
		_, _ = io.WriteString(h, strconv.Itoa(len(part))+":"+part) // a hash never fails
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// appendShifted writes the members as read, in their order, but for the time.
func (e *Event) appendShifted(dst []byte) ([]byte, error) {
	members, err := readMembers(e.raw)
	if err != nil {
		return nil, err
	}
	dst = append(dst, '{')
	for i, m := range members {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, m.name)
		dst = append(dst, ':')
		if m.name == "time" {
			dst = appendString(dst, e.timeText())
		} else {
			dst = append(dst, m.value...)
		}
	}
	return append(dst, '}'), nil
}

// member is a name and a verbatim value of a JSON object.
type member struct {
	name  string
	value json.RawMessage
}

// readMembers reads the members of a valid JSON text in order. It refuses what is no object and a name that occurs twice.
// The tokens of encoding/json would serve too, at a fraction of the speed.
func readMembers(text []byte) ([]member, error) {
	i := skipSpace(text, 0)
	if i == len(text) || text[i] != '{' {
		return nil, errors.New("not a JSON object")
	}
	members := make([]member, 0, 8)
	for {
		i = skipSpace(text, i+1) // behind the brace or a comma
		if text[i] == '}' {
			return members, nil
		}
		end := skipValue(text, i)
		name, err := stringOf(text[i:end])
		if err != nil {
			return nil, err
		}
		for _, other := range members {
			if other.name == name {
				return nil, fmt.Errorf("%q occurs twice in one object", clip(name))
			}
		}
		i = skipSpace(text, skipSpace(text, end)+1) // behind the colon
		end = skipValue(text, i)
		members = append(members, member{name, text[i:end]})
		if i = skipSpace(text, end); text[i] == '}' {
			return members, nil
		}
	}
}

// skipSpace returns the index of the next byte that isn't white space.
func skipSpace(text []byte, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\t' || text[i] == '\n' || text[i] == '\r') {
		i++
	}
	return i
}

// skipValue returns the index behind the value that begins at i in valid JSON.
func skipValue(text []byte, i int) int {
	depth := 0
	for ; i < len(text); i++ {
		switch text[i] {
		case '"':
			for i++; text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // behind a number or a word
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return i
			}
		}
	}
	return i
}

// stringOf decodes a JSON string.
func stringOf(text []byte) (string, error) {
	if n := len(text); n >= 2 && text[0] == '"' && bytes.IndexByte(text, '\\') < 0 && utf8.Valid(text) {
		return string(text[1 : n-1]), nil
	}
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return "", errors.New("not a string")
	}
	return s, nil
}

// appendString appends s, which must be UTF-8, as a JSON string. It is not left to encoding/json, whose choice of escapes
// has changed between versions: derived ids depend on these bytes.
func appendString(dst []byte, s string) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c == '\n':
			dst = append(dst, '\\', 'n')
		case c < ' ' || c == 0x7f:
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&0xf])
		default:
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}

// OneLine removes the white space between the members of a JSON text, so that it fits on a line. Text that isn't JSON is
// returned as it is.
func OneLine(text []byte) []byte {
	var buf bytes.Buffer
	if json.Compact(&buf, text) != nil {
		return text
	}
	return buf.Bytes()
}

// clip keeps quotations in errors short.
func clip(s string) string {
	const limit = 60
	if len(s) > limit {
		return s[:limit] + "…"
	}
	return s
}
