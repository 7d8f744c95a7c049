package meter

import (
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Attribute is one CloudEvents context attribute of the HTTP binary mode.
type Attribute struct {
	// Name without the ce- prefix, in any case (HTTP headers have none); Content-Type is given as datacontenttype.
	Name string
	// Value after percent-decoding.
	Value string
}

// maxHeaders bounds the attributes of one event in binary mode.
const maxHeaders = 128

// DecodeBinary reads one event in binary mode: the attributes from headers and the data from the body. An empty body is
// absent data. Earlier content of the batch is dropped.
func (b *Batch) DecodeBinary(list []Attribute, data []byte, opts DecodeOptions) {
	if !b.begin(data, opts) {
		return
	}
	b.attrs = attributes{}
	b.headers = append(b.headers[:0], list...)
	a := &b.attrs
	size := len(data)
	if len(list) > maxHeaders {
		a.refuse(0, "", ReasonTooManyAttributes, fmt.Sprintf("the event has %d attributes; at most %d are taken", len(list), maxHeaders))
		list = nil
	}
	for i, attribute := range list {
		size += len(attribute.Name) + len(attribute.Value)
		b.header(attribute, list[:i])
	}
	if a.reason == "" {
		b.bodyData("data", data)
	}
	b.finish(eventSpan{start: -1, end: size - 1})
}

// header takes one attribute of binary mode; before are those before it.
func (b *Batch) header(attribute Attribute, before []Attribute) {
	a := &b.attrs
	name := strings.ToLower(attribute.Name)
	for _, other := range before {
		if strings.EqualFold(other.Name, name) {
			a.refuse(0, name, ReasonDuplicateKey, "the attribute occurs twice, so its value is ambiguous; send it once")
			return
		}
	}
	from := len(b.arena)
	b.arena = append(b.arena, attribute.Value...)
	value := b.arena[from:len(b.arena):len(b.arena)]
	if !utf8.Valid(value) {
		a.refuse(0, name, ReasonCharacters, name+" is not UTF-8; percent-encode it as UTF-8")
		return
	}
	switch name {
	case "id":
		b.headerText(name, value, &a.event.ID)
	case "source":
		b.headerText(name, value, &a.event.Source)
	case "type":
		b.headerText(name, value, &a.event.Type)
	case "subject":
		b.headerText(name, value, &a.event.Subject)
	case "datacontenttype":
		b.headerText(name, value, &a.contentType)
	case "specversion":
		a.specVersion(0, value)
	case "time":
		a.time(0, value)
	case "data", "data_base64":
		a.refuse(0, name, ReasonAttributeName, "in binary mode the data is the body of the request")
	default:
		b.headerExtension(name, value)
	}
}

func (b *Batch) headerText(name string, value []byte, dst *[]byte) {
	*dst = value
	if len(value) > MaxAttribute {
		b.attrs.refuse(0, name, ReasonTooLong, fmt.Sprintf("%s has %d bytes; at most %d are taken", name, len(value), MaxAttribute))
	}
	b.attrs.characters(0, name, value)
}

func (b *Batch) headerExtension(name string, value []byte) {
	a := &b.attrs
	if reason := attributeNameFault([]byte(name)); reason != "" {
		a.refuse(0, string(truncateForError([]byte(name))), ReasonAttributeName, reason)
		return
	}
	b.quoted = appendJSONString(b.quoted[:0], value)
	b.addExtension([]byte(name), b.quoted)
}

// binaryJSON is the event of binary mode as JSON, with the data as it came.
func (b *Batch) binaryJSON() []byte {
	out := []byte{'{'}
	for _, attribute := range b.headers {
		out = appendJSONString(out, []byte(strings.ToLower(attribute.Name)))
		out = append(out, ':')
		out = append(appendJSONString(out, []byte(attribute.Value)), ',')
	}
	out = append(out, `"data_base64":"`...)
	out = base64.StdEncoding.AppendEncode(out, b.body)
	return append(out, '"', '}')
}
