package sender

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
)

// Format is the format of a file.
type Format string

// The formats.
const (
	FormatAuto Format = "auto" // by the file's extension, else by its first character; also the meaning of ""
	FormatJSON Format = "json" // CloudEvents: object, array or NDJSON
	FormatCSV  Format = "csv"
)

// FileOptions say how files are read.
type FileOptions struct {
	Format Format
	// CSV maps the tables; needed if there are any.
	CSV CSVOptions
	// Stdin is what the file name "-" stands for.
	Stdin io.Reader
}

// FileSource reads files one after the other. It opens a file when the one before it is read, and checks first that all
// exist. "-" is standard input; gzip is recognised by the extension .gz.
type FileSource struct {
	names  []string
	o      FileOptions
	src    Source
	close  func() error
	read   atomic.Int64
	size   int64
	closed bool
	tables map[string]bool // names of the tables opened
}

// NewFileSource returns a source of the events in the named files.
func NewFileSource(names []string, o FileOptions) (*FileSource, error) {
	switch o.Format {
	case "", FormatAuto, FormatJSON, FormatCSV:
	default:
		return nil, fmt.Errorf("format %q: must be auto, json or csv", o.Format)
	}
	s := &FileSource{names: names, o: o, tables: map[string]bool{}}
	var errs []error
	for _, name := range names {
		if name == "-" {
			s.size = -1
			if o.Stdin == nil {
				errs = append(errs, errors.New("standard input is not at hand"))
			}
			continue
		}
		info, err := os.Stat(name)
		switch {
		case err != nil:
			errs = append(errs, err)
		case info.IsDir():
			errs = append(errs, fmt.Errorf("%s is a directory", name))
		case !info.Mode().IsRegular():
			s.size = -1
		case s.size >= 0:
			s.size += info.Size()
		}
	}
	return s, errors.Join(errs...)
}

// Progress is how many bytes of the files were read and how many there are; total is -1 if that is not known.
func (s *FileSource) Progress() (read, total int64) { return s.read.Load(), s.size }

// Next implements [Source].
func (s *FileSource) Next() (Event, error) {
	for {
		if s.closed || (s.src == nil && len(s.names) == 0) {
			return Event{}, io.EOF
		}
		if s.src == nil {
			if err := s.open(); err != nil {
				return Event{}, err
			}
		}
		e, err := s.src.Next()
		if !errors.Is(err, io.EOF) {
			return e, err
		}
		s.src = nil
		if err := s.closeFile(); err != nil {
			return Event{}, err
		}
	}
}

// Close closes the file that is open.
func (s *FileSource) Close() error {
	s.closed = true
	return s.closeFile()
}

func (s *FileSource) closeFile() error {
	if s.close == nil {
		return nil
	}
	err := s.close()
	s.close = nil
	return err
}

// open opens the next file.
func (s *FileSource) open() error {
	path := s.names[0]
	s.names = s.names[1:]
	in := s.o.Stdin
	name := "stdin"
	if path != "-" {
		f, err := os.Open(path) //nolint:gosec // the user names the files to send
		if err != nil {
			return err
		}
		in, name, s.close = f, filepath.Base(path), f.Close
	}
	in = &countingReader{in, &s.read}
	if strings.EqualFold(filepath.Ext(name), ".gz") {
		zr, err := gzip.NewReader(in)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		in = zr
		name = name[:len(name)-len(".gz")]
	}
	src, err := s.source(in, name, path)
	if err != nil {
		return err
	}
	s.src = src
	return nil
}

// source picks the format. Derived ids depend on the base name without .gz, errors show the path as given.
func (s *FileSource) source(in io.Reader, name, path string) (Source, error) {
	format := s.o.Format
	if format == "" || format == FormatAuto {
		br := bufio.NewReader(in)
		format, in = guessFormat(br, name), br
	}
	if format == FormatJSON {
		return NewJSONSource(in, path), nil
	}
	if s.tables[name] && s.o.CSV.IDColumn == "" {
		return nil, fmt.Errorf("%s: an earlier file is named %s too, so their events could get the same ids; send them one by one"+
			" with different sources, or name a column of ids", path, name)
	}
	s.tables[name] = true
	src, err := NewCSVSource(in, name, s.o.CSV)
	if err != nil {
		return nil, inFile(err, path)
	}
	return sourceFunc(func() (Event, error) {
		e, err := src.Next()
		e.Pos.File = path
		return e, inFile(err, path)
	}), nil
}

// inFile makes an error name the path as given.
func inFile(err error, path string) error {
	if fault, ok := errors.AsType[*InputError](err); ok {
		fault.File = path
	}
	return err
}

func guessFormat(br *bufio.Reader, name string) Format {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".csv", ".tsv":
		return FormatCSV
	case ".json", ".ndjson", ".jsonl":
		return FormatJSON
	}
	head, _ := br.Peek(512) // whatever there is; reading reports errors
	head = bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")), " \t\r\n")
	if len(head) > 0 && (head[0] == '{' || head[0] == '[') {
		return FormatJSON
	}
	return FormatCSV
}

// countingReader counts what is read.
type countingReader struct {
	r io.Reader
	n *atomic.Int64
}

// Read implements io.Reader.
func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}
