package httpapi

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/meterd/meterd/meter"
)

var zeroTime time.Time

// isConnectionError reports whether err is about the connection or its deadlines and not about what was sent.
func isConnectionError(err error) bool {
	var netError net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, context.DeadlineExceeded) || errors.As(err, &netError)
}

// form is how events are written in a body.
type form uint8

const (
	formJSON   form = iota + 1 // an object or an array
	formLines                  // NDJSON
	formBinary                 // CloudEvents binary mode: attributes in headers
	formAsk                    // no content type: the first byte decides
)

// eventsForm decides the form from the headers. Parameters of the content type are tolerated; only a charset other than
// UTF-8 isn't.
func eventsForm(h http.Header) (form, error) {
	contentType := h.Get("Content-Type")
	media, params, _ := strings.Cut(contentType, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	if params != "" {
		if err := checkCharset(params); err != nil {
			return 0, err
		}
	}
	switch media {
	case "application/cloudevents+json", "application/cloudevents-batch+json":
		return formJSON, nil
	case "application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines", "application/json-lines":
		return formLines, nil
	}
	if strings.HasPrefix(media, "application/cloudevents") {
		return 0, unsupported("the event format %s isn't known; send application/cloudevents+json", quoteShort(media))
	}
	if isBinaryMode(h) {
		return formBinary, nil
	}
	switch media {
	case "application/json":
		return formJSON, nil
	case "":
		return formAsk, nil
	}
	return 0, unsupported("the content type %s isn't known; send application/cloudevents+json, application/cloudevents-batch+json, "+
		"application/json or application/x-ndjson", quoteShort(media))
}

// checkCharset refuses bodies that say they aren't UTF-8.
func checkCharset(params string) error {
	for param := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(param, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "charset") {
			continue
		}
		value = strings.Trim(strings.TrimSpace(value), `"`)
		if !strings.EqualFold(value, "utf-8") && !strings.EqualFold(value, "utf8") && !strings.EqualFold(value, "us-ascii") {
			return unsupported("the charset %s isn't taken; send UTF-8", quoteShort(value))
		}
	}
	return nil
}

// isBinaryMode reports whether the headers carry the attributes of an event.
func isBinaryMode(h http.Header) bool {
	return h["Ce-Specversion"] != nil || h["Ce-Id"] != nil || h["Ce-Type"] != nil || h["Ce-Source"] != nil
}

// binaryAttributes reads the attributes of binary mode.
func binaryAttributes(h http.Header) []meter.Attribute {
	var list []meter.Attribute
	for name, values := range h {
		var attribute string
		switch {
		case strings.HasPrefix(name, "Ce-"):
			attribute = strings.ToLower(name[3:])
		case name == "Content-Type":
			attribute = "datacontenttype"
		default:
			continue
		}
		for _, value := range values {
			if attribute != "datacontenttype" {
				value = decodeHeader(value)
			}
			list = append(list, meter.Attribute{Name: attribute, Value: value})
		}
	}
	// In one order: the same event sent again must have the same content.
	slices.SortStableFunc(list, func(a, b meter.Attribute) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// decodeHeader undoes quoting, then percent-encoding, as the CloudEvents HTTP binding 1.0.2, section 3.1.3.2, asks for. A
// percent sign without two hexadecimal digits stands for itself.
func decodeHeader(value string) string {
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		value = unquoteHeader(value[1 : len(value)-1])
	}
	if strings.IndexByte(value, '%') < 0 {
		return value
	}
	out := make([]byte, 0, len(value))
	for i := 0; i < len(value); i++ {
		if value[i] == '%' && i+2 < len(value) {
			hi, ok1 := hexDigit(value[i+1])
			lo, ok2 := hexDigit(value[i+2])
			if ok1 && ok2 {
				out = append(out, hi<<4|lo)
				i += 2
				continue
			}
		}
		out = append(out, value[i])
	}
	return string(out)
}

func unquoteHeader(value string) string {
	if strings.IndexByte(value, '\\') < 0 {
		return value
	}
	out := make([]byte, 0, len(value))
	for i := 0; i < len(value); i++ {
		if value[i] == '\\' && i+1 < len(value) {
			i++
		}
		out = append(out, value[i])
	}
	return string(out)
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// wantsVerdicts reports whether the client prefers a verdict per event (RFC 7240).
func wantsVerdicts(h http.Header) bool {
	for _, value := range h["Prefer"] {
		for preference := range strings.SplitSeq(value, ",") {
			preference, _, _ = strings.Cut(preference, ";")
			name, choice, _ := strings.Cut(preference, "=")
			if strings.EqualFold(strings.TrimSpace(name), "return") && strings.EqualFold(strings.Trim(strings.TrimSpace(choice), `"`), "representation") {
				return true
			}
		}
	}
	return false
}

// traceparent returns the W3C trace context of a request if it can be one.
func traceparent(h http.Header) string {
	if values := h["Traceparent"]; len(values) == 1 && len(values[0]) == 55 {
		return values[0]
	}
	return ""
}
