package sender

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// ErrMapping marks errors of a table's mapping: options that are missing or contradict each other, or that name a column
// which the table doesn't have.
var ErrMapping = errors.New("the table can't be mapped")

// CSVOptions map the rows of a table to events. Columns are named as in the first line.
type CSVOptions struct {
	// Type and Source are the same for all events; both are needed.
	Type, Source string

	// Exactly one of the next three gives the subject: a column, a constant, or SubjectPrefix-NNN where NNN is the row's
	// number modulo SpreadSubjects in at least three digits, for tables that name no customer.
	SubjectColumn  string
	Subject        string
	SpreadSubjects int
	SubjectPrefix  string

	// TimeColumn and its form; both the layouts of [ParseTimeLayout] and the zone, nil for UTC, apply to every row.
	TimeColumn string
	TimeLayout TimeLayout
	Zone       *time.Location

	// IDColumn holds unique ids. Without it ids are derived, see [Event.AppendJSON]: the same file with the same mapping
	// gives the same ids, a row that was corrected gives another one.
	IDColumn string

	// Data are the members of the events' data. A cell that is a JSON number becomes that number, digit by digit; an empty
	// cell leaves the member out; everything else becomes a string.
	Data []DataColumn

	// Comma separates cells; 0 means ','.
	Comma rune
}

// DataColumn gives a member of an event's data.
type DataColumn struct{ Name, Column string }

// Validate reports every fault of the options that can be found without a file.
func (o CSVOptions) Validate() error {
	var errs []error
	fault := func(bad bool, text string) {
		if bad {
			errs = append(errs, errors.New(text))
		}
	}
	fault(o.Type == "", "type: missing; events of which type?")
	fault(o.Source == "", "source: missing")
	fault(o.TimeColumn == "", "time: missing; which column holds the time?")
	given := 0
	for _, is := range []bool{o.SubjectColumn != "", o.Subject != "", o.SpreadSubjects != 0} {
		if is {
			given++
		}
	}
	fault(given != 1, "subject: give exactly one of a column, a constant and a number of subjects to spread over")
	fault(o.SpreadSubjects < 0, "spread-subjects: must not be negative")
	fault(o.SpreadSubjects > 0 && o.SubjectPrefix == "", "subject-prefix: missing")
	fault(o.Comma != 0 && (o.Comma == '"' || o.Comma == '\r' || o.Comma == '\n' || !utf8.ValidRune(o.Comma)),
		"delimiter: must not be a quote or a line break")
	seen := map[string]bool{}
	for _, d := range o.Data {
		fault(d.Name == "" || d.Column == "", "data: must be like name=COLUMN")
		fault(seen[d.Name], fmt.Sprintf("data: %q is given twice", d.Name))
		seen[d.Name] = true
	}
	return mappingError(errs)
}

func mappingError(errs []error) error {
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", ErrMapping, err)
	}
	return nil
}

// CSVSource reads a table, RFC 4180 with a line of column names, as events. A byte order mark, CRLF and quoted line breaks
// are fine; a row with too few or too many cells is an error.
type CSVSource struct {
	name string
	o    CSVOptions
	in   *boundedReader
	rows *csv.Reader

	time, id, subject int // columns, -1 for none
	data              []int
	row               int64
	err               error
}

// NewCSVSource reads the line of column names. The name stands for r in errors and in derived ids; give the base name of a
// file, so that the ids don't depend on its directory.
func NewCSVSource(r io.Reader, name string, o CSVOptions) (*CSVSource, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	br := bufio.NewReaderSize(r, 64<<10)
	skipBOM(br)
	s := &CSVSource{name: name, o: o, in: newBoundedReader(br, false)}
	s.rows = csv.NewReader(s.in)
	s.rows.ReuseRecord = true
	if o.Comma != 0 {
		s.rows.Comma = o.Comma
	}
	header, err := s.rows.Read()
	if errors.Is(err, io.EOF) {
		return nil, &InputError{Position{name, 1}, errors.New("the file is empty; its first line must name the columns")}
	}
	if err != nil {
		return nil, s.fault(err)
	}
	if err := s.findColumns(header); err != nil {
		return nil, &InputError{Position{name, 1}, err}
	}
	return s, nil
}

func (s *CSVSource) findColumns(header []string) error {
	var errs []error
	find := func(column string) int {
		if column == "" {
			return -1
		}
		i := slices.Index(header, column)
		switch {
		case i < 0:
			errs = append(errs, fmt.Errorf("no column %q; the columns are %s", column, clip(strings.Join(header, ", "))))
		case slices.Contains(header[i+1:], column):
			errs = append(errs, fmt.Errorf("column %q occurs twice", column))
		}
		return i
	}
	s.time, s.id, s.subject = find(s.o.TimeColumn), find(s.o.IDColumn), find(s.o.SubjectColumn)
	for _, d := range s.o.Data {
		s.data = append(s.data, find(d.Column))
	}
	return mappingError(errs)
}

// Next implements [Source].
func (s *CSVSource) Next() (Event, error) {
	if s.err != nil {
		return Event{}, s.err
	}
	s.in.next()
	cells, err := s.rows.Read()
	if err != nil {
		if !errors.Is(err, io.EOF) {
			err = s.fault(err)
		}
		s.err = err
		return Event{}, err
	}
	line, _ := s.rows.FieldPos(0)
	e, err := s.event(cells)
	if err != nil {
		s.err = &InputError{Position{s.name, line}, err}
		return Event{}, s.err
	}
	e.Pos = Position{s.name, line}
	s.row++
	return e, nil
}

// fault gives an error of the CSV reader its line.
func (s *CSVSource) fault(err error) error {
	var parse *csv.ParseError
	if !errors.As(err, &parse) {
		line := 1
		if s.row > 0 {
			line, _ = s.rows.FieldPos(0)
		}
		return &InputError{Position{s.name, line}, fmt.Errorf("read the row here or the next one: %w", err)}
	}
	if errors.Is(parse.Err, csv.ErrFieldCount) {
		return &InputError{Position{s.name, parse.StartLine}, errors.New("the row has not as many cells as the first line")}
	}
	return &InputError{Position{s.name, parse.StartLine}, fmt.Errorf("line %d, column %d: %w", parse.Line, parse.Column, parse.Err)}
}

// event maps a row.
func (s *CSVSource) event(cells []string) (Event, error) {
	for _, cell := range cells {
		if !utf8.ValidString(cell) {
			return Event{}, fmt.Errorf("cell %q is not UTF-8", clip(cell))
		}
	}
	at, err := s.o.TimeLayout.Parse(strings.TrimSpace(cells[s.time]), s.o.Zone)
	if err != nil {
		return Event{}, fmt.Errorf("column %q: %w", s.o.TimeColumn, err)
	}
	e := Event{Source: s.o.Source, Type: s.o.Type, Subject: s.o.Subject, Time: at, Row: s.row, Name: s.name}
	switch {
	case s.subject >= 0:
		if e.Subject = cells[s.subject]; e.Subject == "" {
			return Event{}, fmt.Errorf("column %q: the subject is empty", s.o.SubjectColumn)
		}
	case s.o.SpreadSubjects > 0:
		e.Subject = fmt.Sprintf("%s-%03d", s.o.SubjectPrefix, s.row%int64(s.o.SpreadSubjects))
	}
	if s.id >= 0 {
		if e.ID = cells[s.id]; e.ID == "" {
			return Event{}, fmt.Errorf("column %q: the id is empty", s.o.IDColumn)
		}
	}
	e.Data = s.appendData(nil, cells)
	return e, nil
}

// appendData writes the data object; nil where no data is mapped.
func (s *CSVSource) appendData(dst []byte, cells []string) []byte {
	if len(s.data) == 0 {
		return nil
	}
	dst = append(dst, '{')
	for i, column := range s.data {
		cell := cells[column]
		if cell == "" {
			continue
		}
		if len(dst) > 1 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, s.o.Data[i].Name)
		dst = append(dst, ':')
		if number := strings.TrimSpace(cell); isNumber(number) {
			dst = append(dst, number...)
		} else {
			dst = appendString(dst, cell)
		}
	}
	return append(dst, '}')
}

// isNumber tells whether text is a JSON number.
func isNumber(text string) bool {
	if text == "" || (text[0] != '-' && (text[0] < '0' || text[0] > '9')) {
		return false
	}
	return json.Valid(bytes.TrimSpace([]byte(text)))
}
