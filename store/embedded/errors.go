package embedded

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// ClickHouse error codes the bridge gives itself, so that a client can branch on the same codes for a server.
const (
	codeSyntax         = 62   // SYNTAX_ERROR
	codeNotImplemented = 48   // NOT_IMPLEMENTED
	codeBadArguments   = 36   // BAD_ARGUMENTS
	codeTooLarge       = 307  // TOO_MANY_BYTES
	codeNoData         = 108  // NO_DATA_TO_INSERT
	codeTimeout        = 209  // SOCKET_TIMEOUT
	codeCancelled      = 394  // QUERY_WAS_CANCELLED
	codeUnknown        = 1002 // UNKNOWN_EXCEPTION
)

// Error is an exception of the engine, or one of the bridge in the engine's form. clickhouse-go turns it into
// *clickhouse.Exception with the same code.
type Error struct {
	// Code is ClickHouse's error code, for example 60 for an unknown table. Never 0.
	Code int
	// Message is the text without the leading "Code: N. ".
	Message string
}

// Error returns the text as ClickHouse writes it.
func (e *Error) Error() string { return fmt.Sprintf("Code: %d. %s", e.Code, e.Message) }

func bridgeError(code int, format string, args ...any) *Error {
	return &Error{Code: code, Message: "DB::Exception: embedded engine: " + fmt.Sprintf(format, args...)}
}

var errorCode = regexp.MustCompile(`^Code:\s*(\d{1,9})\.\s*`)

// parseError reads the code from the engine's text; a text without one keeps its words under codeUnknown.
func parseError(text string) *Error {
	text = strings.ToValidUTF8(strings.TrimSpace(text), "�")
	m := errorCode.FindStringSubmatch(text)
	if m == nil {
		return &Error{Code: codeUnknown, Message: text}
	}
	code, err := strconv.Atoi(m[1])
	if err != nil || code == 0 {
		code = codeUnknown
	}
	return &Error{Code: code, Message: text[len(m[0]):]}
}
