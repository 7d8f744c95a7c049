package koogallery

import (
	"bytes"
	"net/http"
	"strings"

	"github.com/meterd/meterd/reporter"
)

// Answer codes without their prefix (KooGallery usage push, section 1.5).
const (
	codeSuccess         = "0000"
	codeInternal        = "0999"
	codeBadInput        = "0100"
	codeBadParameter    = "0101"
	codeBadSignature    = "0102"
	codeRequestError    = "0199"
	codeNotOurs         = "0150"
	codeNoAuthority     = "0151"
	codeIllegalToken    = "0154"
	codeThrottled       = "0250"
	codeUnknownInstance = "9001"
	codeInvalidEntry    = "9002"
	codeTooManyRecords  = "9003"
	codeTooOld          = "9004"
)

// Codes of a single record that say that the marketplace has it already (section 1.6).
const (
	recordDuplicateSN     = "005"
	recordDuplicateWindow = "010"
)

// isDuplicate tells whether a record's code is one of these; sent as a number, a code has lost its zeros.
func isDuplicate(code string) bool {
	code = strings.TrimLeft(code, "0")
	return code == strings.TrimLeft(recordDuplicateSN, "0") || code == strings.TrimLeft(recordDuplicateWindow, "0")
}

// codeClasses says what each documented code means for the reporter. Permanent errors come with HTTP 500 too, so the
// status has no say where a code is known.
var codeClasses = map[string]reporter.Class{
	codeInternal:        reporter.ClassUnavailable,
	codeThrottled:       reporter.ClassUnavailable,
	codeBadInput:        reporter.ClassRecordBad,
	codeBadParameter:    reporter.ClassRecordBad,
	codeRequestError:    reporter.ClassRecordBad,
	codeNotOurs:         reporter.ClassRecordBad,
	codeUnknownInstance: reporter.ClassRecordBad,
	codeInvalidEntry:    reporter.ClassRecordBad,
	codeBadSignature:    reporter.ClassMisconfigured,
	codeNoAuthority:     reporter.ClassMisconfigured,
	codeIllegalToken:    reporter.ClassMisconfigured,
	codeTooManyRecords:  reporter.ClassBatchTooLarge,
	codeTooOld:          reporter.ClassRecordExpired,
}

// shortCode returns the part after the dot of a code of the marketplace, and "" for all others. One edition of the pages
// prints the prefix CBC instead of MKT.
func shortCode(code string) string {
	for _, prefix := range []string{"MKT.", "CBC."} {
		if short, ok := strings.CutPrefix(code, prefix); ok {
			return short
		}
	}
	return ""
}

// classify decides what a readable answer to n records means.
//
// Success needs the explicit success code and a 2xx status; one without the other is a contradiction, and whether the
// batch was taken is unknown. An answer without a documented code is judged by its status.
func classify(status int, code string, n int) reporter.Class {
	short := shortCode(code)
	if short == codeSuccess {
		if status/100 == 2 {
			return reporter.ClassAccepted
		}
		return reporter.ClassUnknown
	}
	class, known := codeClasses[short]
	if !known {
		class = classOfStatus(status)
	}
	return halvable(class, n)
}

// classifyUnreadable decides what an answer means that isn't a JSON object. One that begins like JSON was cut short, and
// the code that is missing could have been any, except where the status alone settles it; everything else, such as a
// proxy's page, is judged by its status.
func classifyUnreadable(status int, body []byte, n int) reporter.Class {
	class := classOfStatus(status)
	looksCut := bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{"))
	if looksCut && (status/100 == 5 || class == reporter.ClassMisconfigured) {
		return reporter.ClassUnknown
	}
	return halvable(class, n)
}

// halvable replaces "too large" for a single record, which can't be halved and can't be too many either: the endpoint
// talks nonsense.
func halvable(class reporter.Class, n int) reporter.Class {
	if class == reporter.ClassBatchTooLarge && n <= 1 {
		return reporter.ClassUnavailable
	}
	return class
}

// classOfStatus judges answers without a documented code: those of the gateway in front (APIGW.…), of proxies, and codes
// that no page lists.
//
// 502 and 504 come from something that had passed the request on, so the batch may have been taken. Any other 5xx, and
// throttling, means nothing was. A remaining 4xx or a redirect would be given to every batch alike: address, key or
// gateway are set up wrongly, and taking the batch apart would only mark good records as bad.
func classOfStatus(status int) reporter.Class {
	switch status {
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return reporter.ClassUnknown
	case http.StatusTooManyRequests, http.StatusNotAcceptable, http.StatusRequestTimeout, http.StatusTooEarly:
		return reporter.ClassUnavailable
	case http.StatusRequestEntityTooLarge:
		return reporter.ClassBatchTooLarge
	}
	switch status / 100 {
	case 3, 4:
		return reporter.ClassMisconfigured
	case 5:
		return reporter.ClassUnavailable
	default:
		return reporter.ClassUnknown
	}
}
