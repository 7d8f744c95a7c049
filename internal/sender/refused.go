package sender

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"unicode"
)

// maxShown is how many of the refused events an error lists; all are in [RefusedError.Events].
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
	// Events are the refused ones; empty if the request was refused as a whole.
	Events []EventProblem
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
	for i, p := range e.Events {
		if i == maxShown {
			fmt.Fprintf(&b, "\n  … and %d more", len(e.Events)-maxShown)
			break
		}
		b.WriteString("\n  " + p.String())
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

// problem is an answer of the daemon in the format of RFC 9457, with its list of refused events.
type problem struct {
	Title, Detail string
	Events        []problemEvent
}

type problemEvent struct {
	Index                 int
	Field, Reason, Detail string
}

// parseProblem reads what it can; an answer in another format gives an empty problem. The list of events is looked for
// under the names errors, events, problems and results, and entries that report success are left out.
func parseProblem(answer []byte) problem {
	var top map[string]json.RawMessage
	if json.Unmarshal(answer, &top) != nil {
		return problem{}
	}
	p := problem{Title: text(top["title"]), Detail: text(top["detail"])}
	for _, name := range []string{"errors", "events", "problems", "results"} {
		var list []map[string]json.RawMessage
		if json.Unmarshal(top[name], &list) != nil {
			continue
		}
		for _, item := range list {
			e := problemEvent{
				Index: -1, Field: text(item["field"]), Reason: text(item["reason"]), Detail: text(item["detail"]),
			}
			if json.Unmarshal(item["index"], &e.Index) == nil && (e.Reason != "" || e.Detail != "") {
				p.Events = append(p.Events, e)
			}
		}
	}
	return p
}

func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

func newRefusedError(status int, answer []byte, b *batch) *RefusedError {
	p := parseProblem(answer)
	e := &RefusedError{
		Status: status, Title: clean(p.Title), Detail: clean(p.Detail),
		First: b.positions[0], Last: b.positions[len(b.positions)-1],
	}
	for _, pe := range p.Events {
		if pe.Index < 0 || pe.Index >= len(b.positions) {
			continue // not an event of this batch; the detail still says what is wrong
		}
		e.Events = append(e.Events, EventProblem{
			Position: b.positions[pe.Index], Field: clean(pe.Field), Reason: clean(pe.Reason), Detail: clean(pe.Detail),
		})
	}
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
