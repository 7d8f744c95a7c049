package sandbox

import "net/http"

// Answer codes of the usage-data API (KooGallery usage push, section 1.5).
const (
	// CodeSuccess says that the records were received, not that they are correct.
	CodeSuccess = "MKT.0000"
	// CodeInternal is any other error inside the marketplace.
	CodeInternal = "MKT.0999"
	// CodeBadParameter is a value of a wrong type, range, length or format.
	CodeBadParameter = "MKT.0100"
	// CodeInvalidParameter is a parameter the API does not define, too many or too few of them, or an illegal number.
	CodeInvalidParameter = "MKT.0101"
	// CodeBadSign is a failed check of the body's signature, timestamp or nonce.
	CodeBadSign = "MKT.0102"
	// CodeIllegalOperation is an instance whose product another seller published.
	CodeIllegalOperation = "MKT.0150"
	// CodeNoAuthority is a caller who is known but is not a seller.
	CodeNoAuthority = "MKT.0151"
	// CodeIllegalToken is a failed AK/SK authentication.
	CodeIllegalToken = "MKT.0154"
	// CodeRequestError is any other fault of the request, such as a missing mandatory header.
	CodeRequestError = "MKT.0199"
	// CodeThrottled is a call too many (documented for the sibling order query).
	CodeThrottled = "MKT.0250"
	// CodeUnknownInstance is an unknown instance id.
	CodeUnknownInstance = "MKT.9001"
	// CodeInvalidEntity is a usage record that is not a usable entity.
	CodeInvalidEntity = "MKT.9002"
	// CodeTooManyRecords is a call with more than 1000 records.
	CodeTooManyRecords = "MKT.9003"
	// CodeBeginTooOld is a begin_time more than 21 days ago.
	CodeBeginTooOld = "MKT.9004"
	// CodeGatewayNoAPI is the gateway's answer for a path or method it does not serve.
	CodeGatewayNoAPI = "APIGW.0101"
	// CodeGatewayTooLarge is the gateway's answer for a body above its limit.
	CodeGatewayTooLarge = "APIGW.0201"
)

// Codes of a single record after the background validation (KooGallery usage push, section 1.6). There is no 008.
const (
	// RecordUnknownInstance: the instance does not exist.
	RecordUnknownInstance = "001"
	// RecordBadTime: a time is not a real time of the form yyyyMMdd'T'HHmmss'Z'.
	RecordBadTime = "002"
	// RecordBadValue: the usage value is not a positive number with at most 8 + 4 digits.
	RecordBadValue = "003"
	// RecordNoSN: the record's unique id is missing.
	RecordNoSN = "004"
	// RecordDuplicateSN: the record's unique id was received before.
	RecordDuplicateSN = "005"
	// RecordDelisted: the instance's product was taken off the shelf.
	RecordDelisted = "006"
	// RecordExpired: the record is too old.
	RecordExpired = "007"
	// RecordForeign: the instance belongs to another seller.
	RecordForeign = "009"
	// RecordDuplicateWindow: a record of this instance with the same begin and end counts already.
	RecordDuplicateWindow = "010"
	// RecordBadRange: begin and end are not a usable time range.
	RecordBadRange = "011"
	// RecordNotPayPerUse: the instance is not a pay-per-use resource.
	RecordNotPayPerUse = "012"
	// RecordBadState: the instance's resource state is abnormal.
	RecordBadState = "013"
)

// answerFor gives the documented HTTP status and message of an answer code; an unknown code is an internal error with
// the code's own name.
func answerFor(code string) (status int, msg string) {
	switch code {
	case CodeSuccess:
		return http.StatusOK, "success"
	case CodeInternal:
		return http.StatusInternalServerError, "System internal error."
	case CodeBadParameter:
		return http.StatusInternalServerError, "Failure of input parameter"
	case CodeInvalidParameter:
		return http.StatusBadRequest, "Invalid parameter"
	case CodeBadSign:
		return http.StatusBadRequest, "Invalid body sign"
	case CodeIllegalOperation:
		return http.StatusUnauthorized, "Illegal operation"
	case CodeNoAuthority:
		return http.StatusUnauthorized, "No authority"
	case CodeIllegalToken:
		return http.StatusUnauthorized, "Illegal token"
	case CodeRequestError:
		return http.StatusBadRequest, "Request parameter error"
	case CodeThrottled:
		return http.StatusNotAcceptable, "Access frequency overlimit"
	case CodeUnknownInstance:
		return http.StatusInternalServerError, "Instance ID not found."
	case CodeInvalidEntity:
		return http.StatusInternalServerError, "Invalid usage enties." // The marketplace's own spelling.
	case CodeTooManyRecords:
		return http.StatusInternalServerError, "Usage records extends size limit." // The marketplace's own wording.
	case CodeBeginTooOld:
		return http.StatusInternalServerError, "Record beginTime extends Limit."
	case CodeGatewayNoAPI:
		return http.StatusNotFound, "The API does not exist or has not been published"
	case CodeGatewayTooLarge:
		return http.StatusRequestEntityTooLarge, "Request entity too large"
	default:
		return http.StatusInternalServerError, code
	}
}

// recordCodeText says what a record code means, for people; empty for a code that is not in the list.
func recordCodeText(code string) string {
	switch code {
	case RecordUnknownInstance:
		return "instance does not exist"
	case RecordBadTime:
		return "time format wrong"
	case RecordBadValue:
		return "usage value wrong"
	case RecordNoSN:
		return "unique id missing"
	case RecordDuplicateSN:
		return "unique id duplicated"
	case RecordDelisted:
		return "product taken off the shelf"
	case RecordExpired:
		return "record expired (too old)"
	case RecordForeign:
		return "instance of another seller"
	case RecordDuplicateWindow:
		return "record duplicated (same window)"
	case RecordBadRange:
		return "time range invalid"
	case RecordNotPayPerUse:
		return "instance is not pay-per-use"
	case RecordBadState:
		return "resource state abnormal"
	default:
		return ""
	}
}

// refusal is a failed check: the answer's code and, for the person debugging, what was wrong where. The detail travels
// in the X-Sandbox-Detail header and the request list, never in error_msg, which stays the documented text.
type refusal struct {
	code   string
	detail string
}

// refuse builds a refusal.
func refuse(code, detail string) *refusal { return &refusal{code: code, detail: detail} }
