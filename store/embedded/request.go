package embedded

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// maxQueryBytes bounds SQL text in a body.
const maxQueryBytes = 64 << 20

// request is one HTTP request after its parameters were read. For inserts with rows, the rows are still in the body.
type request struct {
	sql       string
	statement statement
	database  string
	format    string // of the answer, when the statement names none
	settings  map[string]string
	queryID   string
	revision  uint64 // of the protocol, as the client assumes before its hello is answered
}

var (
	settingName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,127}$`)
	formatName  = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9]{0,63}$`)
)

// parseRequest reads the statement and its parameters as clickhouse-go v2 sends them: the statement of an insert in
// the URL parameter query with the rows as body, any other statement as body; settings as further parameters.
func parseRequest(r *http.Request) (*request, error) {
	if err := refuseEncodings(r); err != nil {
		return nil, err
	}
	params, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, bridgeError(codeBadArguments, "URL parameters: %v. (BAD_ARGUMENTS)", err)
	}
	req := &request{format: "TabSeparated", settings: map[string]string{}}
	for name, values := range params {
		if err := req.parameter(name, values[len(values)-1]); err != nil {
			return nil, err
		}
	}
	if req.sql != "" {
		if req.statement, err = analyze(req.sql); err != nil {
			return nil, err
		}
		if req.statement.kind == kindInsertBody {
			return req, nil
		}
	}
	text, err := readText(r.Body)
	if err != nil {
		return nil, err
	}
	if req.sql != "" && text != "" {
		text = "\n" + text
	}
	req.sql += text
	if req.statement, err = analyze(req.sql); err != nil {
		return nil, err
	}
	if req.statement.kind == kindInsertBody {
		return nil, bridgeError(codeNoData, "INSERT … FORMAT %s has no rows: send the statement in the URL parameter query and the rows as body. (NO_DATA_TO_INSERT)", req.statement.format)
	}
	return req, nil
}

// refuseEncodings names what clickhouse-go must not be configured to do with this engine.
func refuseEncodings(r *http.Request) error {
	if enc := r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return bridgeError(codeNotImplemented, "Content-Encoding %q is not supported on the local socket: switch client compression off. (NOT_IMPLEMENTED)", enc)
	}
	if media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); strings.HasPrefix(media, "multipart/") {
		return bridgeError(codeNotImplemented, "external tables are not supported. (NOT_IMPLEMENTED)")
	}
	return nil
}

// parameter takes one URL parameter: one of the interface's own, or a setting of the engine.
func (req *request) parameter(name, value string) error {
	switch name {
	case "query":
		req.sql = value
	case "database":
		req.database = value
	case "query_id":
		req.queryID = value
	case "default_format":
		if !formatName.MatchString(value) {
			return bridgeError(codeBadArguments, "default_format %.60q is not a format name. (BAD_ARGUMENTS)", value)
		}
		req.format = value
	case "client_protocol_version":
		revision, err := strconv.ParseUint(value, 10, 32)
		if err != nil {
			return bridgeError(codeBadArguments, "client_protocol_version %.60q is not a number. (BAD_ARGUMENTS)", value)
		}
		req.revision = revision
	case "quota_key", "wait_end_of_query", "buffer_size", "user", "password":
		// No meaning on a private socket.
	case "compress", "decompress":
		if value != "0" && value != "" {
			return bridgeError(codeNotImplemented, "compression is not supported on the local socket: switch client compression off. (NOT_IMPLEMENTED)")
		}
	case "session_id", "session_timeout", "session_check", "role", markSetting:
		return bridgeError(codeNotImplemented, "parameter %s is not supported. (NOT_IMPLEMENTED)", name)
	default:
		if strings.HasPrefix(name, "param_") {
			return bridgeError(codeNotImplemented, "query parameter %.60s: bind values in the client. (NOT_IMPLEMENTED)", name)
		}
		if !settingName.MatchString(name) {
			return bridgeError(codeBadArguments, "URL parameter %.60q is not the name of a setting. (BAD_ARGUMENTS)", name)
		}
		req.settings[name] = value
	}
	return nil
}

func readText(src io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(src, maxQueryBytes+1))
	if err != nil {
		return "", fmt.Errorf("read statement: %w", err)
	}
	if len(text) > maxQueryBytes {
		return "", bridgeError(codeTooLarge, "statement is larger than %d bytes. (TOO_MANY_BYTES)", maxQueryBytes)
	}
	return string(text), nil
}

// status is the HTTP status of an error: the bridge's own refusals are the client's fault, all else is the engine's.
func status(err error) (int, *Error) {
	var e *Error
	if !errors.As(err, &e) {
		return http.StatusInternalServerError, bridgeError(codeUnknown, "%v. (UNKNOWN_EXCEPTION)", err)
	}
	if !strings.HasPrefix(e.Message, "DB::Exception: embedded engine: ") {
		return http.StatusInternalServerError, e
	}
	switch e.Code {
	case codeSyntax, codeNotImplemented, codeBadArguments, codeNoData:
		return http.StatusBadRequest, e
	case codeTooLarge:
		return http.StatusRequestEntityTooLarge, e
	case codeTimeout:
		return http.StatusRequestTimeout, e
	default:
		return http.StatusInternalServerError, e
	}
}
