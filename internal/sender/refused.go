package sender

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"unicode"
)

// maxShown is how many of the refused events an error lists; all are in [RefusedError].Events.
const maxShown = 10

// EventProblem is why the daemon refused one event.
type EventProblem struct {
	Position

	Field  string // attribute or path of a value; may be empty
	Reason string // the daemon's machine code
	Detail string
}

// String is "file:line: field: detail (reason)".
func (p EventProblem) String() string {
	text := p.Position.String() + ": "
	if p.Field != "" {
		text += p.Field + ": "
	}
	switch {
	case p.Detail == "":
		text += p.Reason
	case p.Reason == "":
		text += p.Detail
	default:
		text += p.Detail + " (" + p.Reason + ")"
	}
	return text
}

// RefusedError is an answer that repeating the request won't change.
type RefusedError struct {
	Status        int
	Title, Detail string
	// First and Last are the batch's positions.
	First, Last Position
	// Events are the refused ones that the daemon listed, of Total; none if the request was refused as a whole.
	Events []EventProblem
	Total  int
}

// Error says what was refused and why, with at most ten events.
func (e *RefusedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the daemon refused the events %s to %s: %d %s", e.First, e.Last, e.Status, http.StatusText(e.Status))
	for _, text := range []string{e.Title, e.Detail, e.advice()} {
		if text != "" && !strings.EqualFold(text, http.StatusText(e.Status)) {
			b.WriteString(": " + text)
		}
	}
	shown := e.Events[:min(len(e.Events), maxShown)]
	for _, p := range shown {
		b.WriteString("\n  " + p.String())
	}
	if more := max(e.Total, len(e.Events)) - len(shown); more > 0 && len(shown) > 0 {
		fmt.Fprintf(&b, "\n  … and %d more", more)
	}
	return b.String()
}

// advice says what to do about statuses whose reason is known.
func (e *RefusedError) advice() string {
	switch {
	case e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden:
		return "check the API key and that it has the scope ingest"
	case e.Status == http.StatusNotFound || e.Status == http.StatusMethodNotAllowed || e.Status/100 == 3:
		return "check the daemon's address"
	case e.Status == http.StatusRequestEntityTooLarge:
		return "send smaller batches"
	default:
		return ""
	}
}

// problem is what of an answer in the format of RFC 9457 serves a person; errors and total_errors are the daemon's own.
type problem struct {
	Title       string          `json:"title"`
	Detail      string          `json:"detail"`
	Errors      json.RawMessage `json:"errors"`
	TotalErrors int             `json:"total_errors"`
}

// problemEvent is an entry of errors.
type problemEvent struct {
	Index  *int   `json:"index"`
	Field  string `json:"field"`
	Reason string `json:"reason"`
	Detail string `json:"detail"`
}

// parseProblem reads what it can: an answer of something else, such as a proxy's page, gives an empty problem.
func parseProblem(answer []byte) problem {
	var p problem
	if json.Unmarshal(answer, &p) != nil {
		return problem{}
	}
	return p
}

// events returns the refused events; none where the list isn't the daemon's.
func (p problem) events() []problemEvent {
	var list []problemEvent
	if json.Unmarshal(p.Errors, &list) != nil {
		return nil
	}
	return list
}

func newRefusedError(status int, answer []byte, b *batch) *RefusedError {
	p := parseProblem(answer)
	e := &RefusedError{
		Status: status, Title: clean(p.Title), Detail: clean(p.Detail),
		First: b.positions[0], Last: b.positions[len(b.positions)-1],
	}
	for _, pe := range p.events() {
		if pe.Index == nil || *pe.Index < 0 || *pe.Index >= len(b.positions) {
			continue // not an event of this batch; the detail still says what is wrong
		}
		e.Events = append(e.Events, EventProblem{
			Position: b.positions[*pe.Index], Field: clean(pe.Field), Reason: clean(pe.Reason), Detail: clean(pe.Detail),
		})
	}
	e.Total = max(p.TotalErrors, len(e.Events))
	return e
}

// clean makes text from outside fit for a terminal: printable, on one line, bounded.
func clean(s string) string {
	const limit = 500
	s = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > limit {
		s = string(runes[:limit]) + "…"
	}
	return strings.TrimSpace(s)
}
