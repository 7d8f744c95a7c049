package main

import (
	"fmt"
	"io"

	"github.com/meterd/meterd/meter"
)

// effectAnswer is the API's answer to a preview or its commit.
type effectAnswer struct {
	Committed bool `json:"committed"`
	meter.Effect
}

// shownLines bounds the lines of an effect in the output for people.
const shownLines = 40

// writeEffect shows an effect to people: what would change, or changed.
func writeEffect(w io.Writer, what string, e meter.Effect) error {
	fmt.Fprintf(w, "%s: %s", what, plural(e.Events, "event", "events"))
	if e.Already > 0 {
		fmt.Fprintf(w, ", of which %d make no difference", e.Already)
	}
	if e.Conflicts > 0 {
		fmt.Fprintf(w, ", and %d would be kept without counting: another event has their identity", e.Conflicts)
	}
	if len(e.Lines) == 0 {
		_, err := fmt.Fprintln(w, "; no amount changes")
		return err
	}
	closed := 0
	for _, l := range e.Lines {
		if l.Closed {
			closed++
		}
	}
	fmt.Fprintf(w, "; %s, %d of them in hours that are billed already\n", plural(len(e.Lines), "amount changes", "amounts change"), closed)
	t := newTable(w, "HOUR", "SUBJECT", "METER", "BEFORE", "AFTER", "DIFFERENCE", "BILLED")
	for _, l := range e.Lines[:min(len(e.Lines), shownLines)] {
		billed := "no"
		if l.Closed {
			billed = "yes"
		}
		t.row(showWindow(l.Hour.Start, l.Hour.End), l.Subject, l.Meter, l.Before.String(), l.After.String(), l.After.Sub(l.Before).String(), billed)
	}
	if err := t.flush(); err != nil {
		return err
	}
	if more := len(e.Lines) - shownLines; more > 0 {
		fmt.Fprintf(w, "… and %d more; -o json --dry-run shows all\n", more)
	}
	return nil
}

// effectSum sums up the effects of several requests.
type effectSum struct {
	meter.Effect

	places map[effectPlace]int // of Lines
}

type effectPlace struct {
	hour           int64
	subject, meter string
}

// add adds an effect. A line of both is one with the differences of both.
func (s *effectSum) add(e meter.Effect) {
	s.Events += e.Events
	s.Already += e.Already
	s.Conflicts += e.Conflicts
	if s.places == nil {
		s.places, s.Lines = map[effectPlace]int{}, []meter.EffectLine{}
	}
	for _, l := range e.Lines {
		place := effectPlace{l.Hour.Start.Unix(), l.Subject, l.Meter}
		if i, both := s.places[place]; both {
			s.Lines[i].After = s.Lines[i].After.Add(l.After.Sub(l.Before))
			continue
		}
		s.places[place] = len(s.Lines)
		s.Lines = append(s.Lines, l)
	}
}
