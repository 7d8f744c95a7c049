package meter

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"
	"unicode"
)

// attributes collects one event while its members are read, in whatever order they come.
type attributes struct {
	event Event
	seen  attributeSet
	timed bool // it has a time

	contentType []byte // text of datacontenttype
	base64      []byte // text of data_base64
	extStart    int    // where the event's extension object begins in Batch.extensions, if hasExt
	hasExt      bool

	// The first thing found wrong; reason is empty if there is none.
	offset int
	field  string
	reason Reason
	detail string
}

// attributeSet says which of the known members an event has.
type attributeSet uint16

const (
	hasID attributeSet = 1 << iota
	hasSource
	hasType
	hasSubject
	hasSpecVersion
	hasTime
	hasContentType
	hasData
	hasBase64
)

// refuse notes what is wrong with the event, unless something else was noticed before.
func (a *attributes) refuse(offset int, field string, reason Reason, detail string) {
	if a.reason == "" {
		a.offset, a.field, a.reason, a.detail = offset, field, reason, detail
	}
}

// members reads the event object at i into b.attrs. Faults of the event don't end the reading, so that the next event
// can be found; only a syntax error does (−1).
func (b *Batch) members(i int) int {
	s := &b.scan
	i = s.space(i + 1)
	if s.at(i) == '}' {
		return i + 1
	}
	for {
		start, end, flags := s.name(i)
		if end < 0 {
			return -1
		}
		value := s.colon(end + 1)
		if value < 0 {
			return -1
		}
		name := s.buf[start:end]
		if flags&hasEscape != 0 { // no attribute needs an escape, but "\u0069d" is id
			from := len(b.arena)
			b.arena = appendUnescaped(b.arena, name)
			name = b.arena[from:]
		}
		if i = b.member(name, value); i == memberIsExtension {
			s.pushKey(0, start, end, flags)
			i = b.extension(name, start, value)
		}
		if i < 0 {
			return -1
		}
		i = s.space(i)
		switch s.at(i) {
		case ',':
			i = s.space(i + 1)
		case '}':
			s.popKeys(0)
			return b.afterMembers(i + 1)
		default:
			return s.unexpected(i, "',' or '}'")
		}
	}
}

// afterMembers refuses the event if any object in it had a name twice.
func (b *Batch) afterMembers(end int) int {
	if off := b.scan.dupOffset; off >= 0 {
		b.attrs.refuse(off, "", ReasonDuplicateKey, "a name occurs twice in one object, so its value is ambiguous; send it once")
	}
	return end
}

// memberIsExtension is the answer of member for a name it doesn't know.
const memberIsExtension = -2

// member reads the value of a known member, which begins at value.
func (b *Batch) member(name []byte, value int) int {
	a := &b.attrs
	switch string(name) {
	case "id":
		return b.text(hasID, "id", value, &a.event.ID)
	case "source":
		return b.text(hasSource, "source", value, &a.event.Source)
	case "type":
		return b.text(hasType, "type", value, &a.event.Type)
	case "subject":
		return b.text(hasSubject, "subject", value, &a.event.Subject)
	case "specversion":
		var version []byte
		end := b.text(hasSpecVersion, "specversion", value, &version)
		if end >= 0 && version != nil {
			a.specVersion(value, version)
		}
		return end
	case "time":
		var text []byte
		end := b.text(hasTime, "time", value, &text)
		if end >= 0 && text != nil {
			a.time(value, text)
		}
		return end
	case "datacontenttype":
		return b.text(hasContentType, "datacontenttype", value, &a.contentType)
	case "data":
		return b.data(value)
	case "data_base64":
		return b.longText(hasBase64, "data_base64", value, &a.base64)
	}
	return memberIsExtension
}

// once refuses a known member that occurs twice.
func (b *Batch) once(bit attributeSet, field string, at int) {
	if b.attrs.seen&bit != 0 {
		b.attrs.refuse(at, field, ReasonDuplicateKey, "the attribute occurs twice, so its value is ambiguous; send it once")
	}
	b.attrs.seen |= bit
}

// text reads a string attribute into dst and checks its characters and length. null counts as absent, as the JSON format
// of CloudEvents says.
func (b *Batch) text(bit attributeSet, field string, i int, dst *[]byte) int {
	end := b.longText(bit, field, i, dst)
	if end >= 0 && len(*dst) > MaxAttribute {
		b.attrs.refuse(i, field, ReasonTooLong, fmt.Sprintf("%s has %d bytes; at most %d are taken", field, len(*dst), MaxAttribute))
	}
	return end
}

// longText is text without the bound.
func (b *Batch) longText(bit attributeSet, field string, i int, dst *[]byte) int {
	b.once(bit, field, i)
	s := &b.scan
	switch s.at(i) {
	case '"':
	case 'n':
		return s.literal(i, "null")
	default:
		b.attrs.refuse(i, field, ReasonWrongType, field+" must be a string")
		return s.value(i, 1)
	}
	end, flags := s.str(i + 1)
	if end < 0 {
		return -1
	}
	text := s.buf[i+1 : end : end]
	if flags&hasEscape != 0 {
		from := len(b.arena)
		b.arena = appendUnescaped(b.arena, text)
		text = b.arena[from:len(b.arena):len(b.arena)]
	}
	*dst = text
	if flags != 0 || bytes.IndexByte(text, 0x7f) >= 0 {
		b.attrs.characters(i, field, text)
	}
	return end + 1
}

// characters refuses control characters, which CloudEvents 1.0 forbids in strings, and for the subject, which people
// read on bills, everything else that can't be printed.
func (a *attributes) characters(at int, field string, text []byte) {
	for _, r := range string(text) {
		if unicode.IsControl(r) || (field == "subject" && !unicode.IsPrint(r)) {
			a.refuse(at, field, ReasonCharacters, fmt.Sprintf("%s contains the character %U, which can't be printed", field, r))
			return
		}
	}
}

func (a *attributes) specVersion(at int, version []byte) {
	if string(version) != "1.0" {
		a.refuse(at, "specversion", ReasonSpecVersion, fmt.Sprintf("specversion is %q; only 1.0 is supported", truncateForError(version)))
	}
}

func (a *attributes) time(at int, text []byte) {
	t, ok := parseTime(text)
	if !ok {
		a.refuse(at, "time", ReasonTime, fmt.Sprintf(
			"time %q is not an RFC 3339 time from %d to %d such as 2026-01-02T15:04:05.123Z", truncateForError(text), minYear, maxYear))
	}
	a.event.Time, a.timed = t, true
}

// data reads the data member, verbatim. null is absent data.
func (b *Batch) data(i int) int {
	b.once(hasData, "data", i)
	end := b.scan.value(i, 1)
	if end >= 0 && b.scan.at(i) != 'n' {
		b.attrs.event.Data = b.scan.buf[i:end:end]
	}
	return end
}

// extension reads an attribute that isn't one of ours into the event's extension object, verbatim.
func (b *Batch) extension(name []byte, at, i int) int {
	a, s := &b.attrs, &b.scan
	if reason := attributeNameFault(name); reason != "" {
		a.refuse(at-1, strconv.Quote(string(truncateForError(name))), ReasonAttributeName, reason)
	}
	c := s.at(i)
	end := s.value(i, 1)
	switch {
	case end < 0:
		return -1
	case c == 'n':
	case c == '{' || c == '[':
		a.refuse(i, string(truncateForError(name)), ReasonWrongType,
			"an extension attribute must be a string, a number or a bool; put structured values into data")
	case a.reason == "":
		b.addExtension(name, s.buf[i:end])
	}
	return end
}

// addExtension appends a member with a value in JSON to the event's extension object.
func (b *Batch) addExtension(name, value []byte) {
	separator := byte(',')
	if !b.attrs.hasExt {
		b.attrs.hasExt, b.attrs.extStart = true, len(b.extensions)
		separator = '{'
	}
	b.extensions = append(b.extensions, separator, '"')
	b.extensions = append(b.extensions, name...)
	b.extensions = append(b.extensions, '"', ':')
	b.extensions = append(b.extensions, value...)
}

// attributeNameFault says what is wrong with the name of an extension. CloudEvents names are lower-case letters and
// digits; its Go SDK lets upper case pass, so we do, except where it is surely a slip: taking "Time" for an extension
// would date the event wrongly.
func attributeNameFault(name []byte) string {
	if len(name) == 0 || len(name) > 64 {
		return "attribute names have 1 to 64 letters and digits"
	}
	upper := false
	for _, c := range name {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case c >= 'A' && c <= 'Z':
			upper = true
		default:
			return "attribute names are letters and digits; put other values into data"
		}
	}
	if upper {
		switch lower := string(bytes.ToLower(name)); lower {
		case "id", "source", "type", "subject", "specversion", "time", "datacontenttype", "dataschema", "data":
			return "attribute names are case-sensitive; write " + lower
		}
	}
	return ""
}

// complete checks what only the whole event can tell.
func (b *Batch) complete(span eventSpan) {
	a := &b.attrs
	if limit := b.opts.MaxEventBytes; limit > 0 && span.end-span.start > limit {
		a.refuse(span.start, "", ReasonEventTooLarge, fmt.Sprintf("the event has %d bytes; at most %d are taken", span.end-span.start, limit))
		return
	}
	a.require("id", a.event.ID)
	a.require("source", a.event.Source)
	a.require("type", a.event.Type)
	a.require("subject", a.event.Subject)
	if a.base64 != nil {
		b.decodeBase64(span)
	}
	if a.event.Data != nil && a.contentType != nil && !isJSON(a.contentType) {
		a.refuse(span.start, "datacontenttype", ReasonContentType,
			fmt.Sprintf("data of type %q can't be metered; send application/json", truncateForError(a.contentType)))
	}
	if a.reason != "" {
		return
	}
	if a.contentType != nil && string(a.contentType) != "application/json" {
		b.quoted = appendJSONString(b.quoted[:0], a.contentType)
		b.addExtension([]byte("datacontenttype"), b.quoted)
	}
	if a.hasExt {
		b.extensions = append(b.extensions, '}')
		a.event.Extensions = b.extensions[a.extStart:len(b.extensions):len(b.extensions)]
	}
	a.event.Stamped = !a.timed
}

func (a *attributes) require(field string, value []byte) {
	if len(value) == 0 {
		a.refuse(a.offset, field, ReasonMissing, field+" is required and must not be empty")
	}
}

// decodeBase64 turns data_base64 into data. It must be JSON, too.
func (b *Batch) decodeBase64(span eventSpan) {
	a := &b.attrs
	if a.event.Data != nil {
		a.refuse(span.start, "data_base64", ReasonData, "the event has both data and data_base64; send one of them")
		return
	}
	from := len(b.arena)
	var err error
	b.arena, err = base64.StdEncoding.AppendDecode(b.arena, a.base64)
	if err != nil {
		a.refuse(span.start, "data_base64", ReasonData, "data_base64 is not base64 (RFC 4648, section 4, with padding)")
		return
	}
	b.bodyData("data_base64", b.arena[from:len(b.arena):len(b.arena)])
}

// bodyData checks data that came as bytes of their own and makes it the event's.
func (b *Batch) bodyData(field string, data []byte) {
	a := &b.attrs
	data = bytes.Trim(data, " \t\r\n")
	if len(data) == 0 {
		return
	}
	if a.contentType != nil && !isJSON(a.contentType) {
		a.event.Data = data // complete names the content type as the fault
		return
	}
	b.inner.reset(data)
	end := b.inner.value(0, 1)
	if end >= 0 && end < len(data) {
		end = b.inner.unexpected(end, "the end of data")
	}
	switch {
	case end < 0:
		a.refuse(a.offset, field, ReasonData, fmt.Sprintf("%s is not valid JSON: %s (at byte %d of it)", field, b.inner.errDetail, b.inner.errOffset))
	case b.inner.dupOffset >= 0:
		a.refuse(a.offset, field, ReasonDuplicateKey, "a name occurs twice in one object of data, so its value is ambiguous; send it once")
	case string(data) != "null":
		a.event.Data = data
	}
}

// isJSON reports whether a media type means JSON: application/json, text/json or anything with +json, in any case and
// with any parameters.
func isJSON(mediaType []byte) bool {
	t, _, _ := bytes.Cut(mediaType, []byte(";"))
	t = bytes.TrimSpace(t)
	return bytes.EqualFold(t, []byte("application/json")) || bytes.EqualFold(t, []byte("text/json")) ||
		(len(t) > 5 && bytes.EqualFold(t[len(t)-5:], []byte("+json")))
}
