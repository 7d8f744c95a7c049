package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/meterd/meterd/internal/sender"
	"github.com/meterd/meterd/meter"
)

// hourSource cuts a source of events that are ordered by hour into hours: it ends at the end of each and goes on
// after nextHour. The events of an hour are kept, to be sent again.
type hourSource struct {
	source sender.Source
	next   *sender.Event // read ahead: the first event of the next hour
	hour   meter.Window
	sent   []sender.Event
}

// nextHour tells the hour of the next event; more is false at the end of the source.
func (h *hourSource) nextHour() (hour meter.Window, more bool, err error) {
	if h.next == nil {
		ev, err := h.source.Next()
		if errors.Is(err, io.EOF) {
			return meter.Window{}, false, nil
		}
		if err != nil {
			return meter.Window{}, false, err
		}
		h.next = &ev
	}
	h.hour, h.sent = meter.HourOf(h.next.Time), nil
	return h.hour, true, nil
}

// Next implements sender.Source for one hour.
func (h *hourSource) Next() (sender.Event, error) {
	if h.next == nil {
		ev, err := h.source.Next()
		if err != nil {
			return sender.Event{}, err
		}
		h.next = &ev
	}
	if h.hour.Contains(h.next.Time) {
		ev := *h.next
		h.next = nil
		h.sent = append(h.sent, ev)
		return ev, nil
	}
	if h.next.Time.Before(h.hour.Start) {
		return sender.Event{}, fmt.Errorf("%s: its hour comes after a later one; sort the file by time", h.next.Pos)
	}
	return sender.Event{}, io.EOF
}

// again gives the events of the current hour once more.
func (h *hourSource) again() sender.Source { return &sliceSource{events: h.sent} }

// sliceSource is a source of events in memory.
type sliceSource struct{ events []sender.Event }

// Next implements sender.Source.
func (s *sliceSource) Next() (sender.Event, error) {
	if len(s.events) == 0 {
		return sender.Event{}, io.EOF
	}
	ev := s.events[0]
	s.events = s.events[1:]
	return ev, nil
}
