package meter

import (
	"time"
	"unicode/utf8"
)

// AppendEventJSON appends an event in the JSON format of CloudEvents 1.0, as it would be sent: an event that was stamped
// on receipt has no time.
func AppendEventJSON(dst []byte, ev *Event) []byte {
	dst = append(dst, `{"specversion":"1.0"`...)
	dst = appendMember(dst, "id", ev.ID)
	dst = appendMember(dst, "source", ev.Source)
	dst = appendMember(dst, "type", ev.Type)
	dst = appendMember(dst, "subject", ev.Subject)
	if !ev.Stamped {
		dst = append(dst, `,"time":"`...)
		dst = time.Unix(0, ev.Time).UTC().AppendFormat(dst, time.RFC3339Nano)
		dst = append(dst, '"')
	}
	if len(ev.Extensions) > 2 {
		dst = append(dst, ',')
		dst = append(dst, ev.Extensions[1:len(ev.Extensions)-1]...)
	}
	if len(ev.Data) > 0 {
		dst = append(dst, `,"data":`...)
		dst = append(dst, ev.Data...)
	}
	return append(dst, '}')
}

func appendMember(dst []byte, name string, value []byte) []byte {
	dst = append(dst, ',', '"')
	dst = append(dst, name...)
	dst = append(dst, '"', ':')
	return appendJSONString(dst, value)
}

// appendJSONString appends text as a JSON string. Bytes that aren't UTF-8 become the replacement character.
func appendJSONString(dst, text []byte) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for len(text) > 0 {
		c := text[0]
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < ' ' || c == 0x7f:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case c < utf8.RuneSelf:
			dst = append(dst, c)
		default:
			r, size := utf8.DecodeRune(text)
			dst = utf8.AppendRune(dst, r)
			text = text[size:]
			continue
		}
		text = text[1:]
	}
	return append(dst, '"')
}
