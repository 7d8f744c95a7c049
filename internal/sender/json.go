package sender

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// JSONSource reads CloudEvents in the structured JSON format: one object, one array of objects, or objects one after the
// other (NDJSON, or simply concatenated). Events must have an id and a source, since repeating depends on them; everything
// else is the daemon's to judge.
type JSONSource struct {
	name  string
	in    *boundedReader
	dec   *json.Decoder
	array bool
	begun bool
	row   int64
	err   error // final, io.EOF at the end
}

// NewJSONSource returns a source of the events in r. The name stands for r in errors.
func NewJSONSource(r io.Reader, name string) *JSONSource {
	in := newBoundedReader(r, true)
	return &JSONSource{name: name, in: in, dec: json.NewDecoder(in)}
}

// Next implements [Source].
func (s *JSONSource) Next() (Event, error) {
	if s.err != nil {
		return Event{}, s.err
	}
	e, err := s.read()
	s.err = err
	return e, err
}

func (s *JSONSource) read() (Event, error) {
	if !s.begun {
		if err := s.begin(); err != nil {
			return Event{}, err
		}
	}
	s.in.next()
	if s.array && !s.dec.More() {
		return Event{}, s.end()
	}
	s.dec.More() // moves to the next value, so that an error tells its line
	start := s.dec.InputOffset()
	var raw json.RawMessage
	if err := s.dec.Decode(&raw); err != nil {
		if errors.Is(err, io.EOF) && !s.array {
			return Event{}, io.EOF
		}
		return Event{}, s.fault(start, s.jsonFault(err))
	}
	start = s.dec.InputOffset() - int64(len(raw))
	pos := Position{s.name, s.in.lineAt(start)}
	e, err := readEvent(raw)
	if err != nil {
		return Event{}, &InputError{pos, err}
	}
	e.Pos, e.Row, e.Name = pos, s.row, s.name
	s.row++
	return e, nil
}

// begin skips a byte order mark and finds out whether the events stand in an array.
func (s *JSONSource) begin() error {
	s.begun = true
	br := bufio.NewReaderSize(s.in.r, 4096)
	skipBOM(br)
	for {
		c, err := br.ReadByte()
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		if err != nil {
			return &InputError{Position{s.name, 1}, err}
		}
		if c == '\n' {
			s.in.passed++
		}
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			_ = br.UnreadByte() // just read
			s.array = c == '['
			break
		}
	}
	s.in.r = br
	if s.array {
		if _, err := s.dec.Token(); err != nil {
			return s.fault(0, err)
		}
	}
	return nil
}

// end reads the end of the array, behind which nothing may stand.
func (s *JSONSource) end() error {
	at := s.dec.InputOffset()
	if _, err := s.dec.Token(); err != nil {
		return s.fault(at, s.jsonFault(err))
	}
	at = s.dec.InputOffset()
	switch _, err := s.dec.Token(); {
	case errors.Is(err, io.EOF):
		return io.EOF
	case err != nil:
		return s.fault(at, s.jsonFault(err))
	default:
		return s.fault(at, errors.New("something stands behind the array of events"))
	}
}

func (s *JSONSource) fault(offset int64, err error) error {
	return &InputError{Position{s.name, s.in.lineAt(offset)}, err}
}

// jsonFault puts an error of the decoder in words. Within an array its line is known only to be that of the comma.
func (s *JSONSource) jsonFault(err error) error {
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the input ends inside an event")
	case errors.As(err, &syntax) && s.array:
		return fmt.Errorf("at or behind this line is no valid JSON: %w", err)
	case errors.As(err, &syntax):
		return fmt.Errorf("the event that begins here is not valid JSON: %w", err)
	default:
		return err
	}
}

// readEvent takes what sending needs out of an event.
func readEvent(raw []byte) (Event, error) {
	members, err := readMembers(raw)
	if err != nil {
		return Event{}, err
	}
	e := Event{raw: raw}
	for _, m := range members {
		var target *string
		var text string
		switch m.name {
		case "id":
			target = &e.ID
		case "source":
			target = &e.Source
		case "type":
			target = &e.Type
		case "subject":
			target = &e.Subject
		case "time":
			target = &text
		default:
			continue
		}
		if bytes.Equal(m.value, []byte("null")) {
			continue
		}
		if *target, err = stringOf(m.value); err != nil {
			return Event{}, fmt.Errorf("%s must be a string", m.name)
		}
		if m.name == "time" {
			if e.Time, err = time.Parse(time.RFC3339, text); err != nil {
				return Event{}, fmt.Errorf("time %q is not RFC 3339, like 2026-01-02T15:04:05Z", clip(text))
			}
		}
	}
	if e.ID == "" || e.Source == "" {
		return Event{}, errors.New("the event has no id or no source; without them it would count twice if sent again")
	}
	return e, nil
}

// skipBOM skips a UTF-8 byte order mark.
func skipBOM(br *bufio.Reader) {
	if head, err := br.Peek(3); err == nil && bytes.Equal(head, []byte("\xef\xbb\xbf")) {
		_, _ = br.Discard(3) // peeked
	}
}
