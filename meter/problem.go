package meter

import "fmt"

// Reason is a stable machine code that says why an event was refused. Reasons are part of the API: never rename one.
type Reason string

// Reasons for refusing an event.
const (
	// The request as a whole, found while decoding.
	ReasonMalformed     Reason = "malformed_json"    // not JSON (RFC 8259); nothing after it in an array can be trusted
	ReasonTooManyEvents Reason = "too_many_events"   // the request has more events than allowed
	ReasonNotAnObject   Reason = "not_an_object"     // the element or line is JSON, but no object
	ReasonEventTooLarge Reason = "event_too_large"   // the event is longer than allowed
	ReasonDuplicateKey  Reason = "duplicate_key"     // a name occurs twice in one object, so its value is ambiguous
	ReasonTooDeep       Reason = "nested_too_deeply" // more than MaxDepth levels

	// One event's attributes.
	ReasonMissing           Reason = "missing_attribute"        // id, source, type or subject is absent, null or empty
	ReasonWrongType         Reason = "wrong_type"               // the attribute isn't a string, or an extension isn't a scalar
	ReasonTooLong           Reason = "too_long"                 // the attribute is longer than MaxAttribute bytes
	ReasonCharacters        Reason = "invalid_characters"       // a control or unprintable character in an attribute
	ReasonAttributeName     Reason = "invalid_attribute_name"   // not a CloudEvents attribute name, or one in the wrong case
	ReasonTooManyAttributes Reason = "too_many_attributes"      // more attributes in headers than any real event has
	ReasonSpecVersion       Reason = "unsupported_spec_version" // specversion is not 1.0
	ReasonTime              Reason = "invalid_time"             // time is not RFC 3339 or out of range
	ReasonContentType       Reason = "unsupported_data_type"    // data that isn't JSON
	ReasonData              Reason = "invalid_data"             // data_base64 isn't base64 of JSON, or both data and data_base64

	// Rules of this service.
	ReasonTimeInFuture Reason = "time_in_future" // later than now + the permitted clock skew
	ReasonTimeTooOld   Reason = "time_too_old"   // older than the marketplace would take

	// The value of a meter.
	ReasonValueMissing  Reason = "value_missing"      // the meter's path leads nowhere, to null or to an empty text
	ReasonValueType     Reason = "value_wrong_type"   // a bool, an object, an array
	ReasonValueNumber   Reason = "value_not_a_number" // a string that isn't a JSON number, such as "NaN" or "1,5"
	ReasonValueNegative Reason = "value_negative"
	ReasonValueTooLarge Reason = "value_too_large"   // 10^15 or more
	ReasonValueTooFine  Reason = "value_too_fine"    // more than 18 decimals
	ReasonValueTooLong  Reason = "value_too_long"    // a text for unique_count longer than MaxAttribute bytes
	ReasonDimension     Reason = "invalid_dimension" // a dimension that is an object, an array or too long

	// Acknowledged events that the store would not take; only in dead letters.
	ReasonStoreRefused Reason = "store_refused"
	ReasonUndecodable  Reason = "undecodable_payload"
)

// Problem is why one event of a request was refused.
type Problem struct {
	// Index is the event's place in the request, from 0. For NDJSON it counts lines that aren't blank.
	Index int
	// Offset is where in the request's body the problem was noticed, in bytes from 0.
	Offset int
	// Field names the attribute, or the path of a value such as $.tokens; empty if it concerns the whole event.
	Field string
	// Meter is the slug of the meter that needs the value; empty otherwise.
	Meter  string
	Reason Reason
	// Detail says in a sentence what is wrong and what to do. It quotes at most a few characters of the event.
	Detail string
}

// Error makes a Problem usable as an error.
func (p *Problem) Error() string {
	if p.Field == "" {
		return fmt.Sprintf("event %d: %s: %s", p.Index, p.Reason, p.Detail)
	}
	return fmt.Sprintf("event %d: %s: %s: %s", p.Index, p.Field, p.Reason, p.Detail)
}
