package embedded

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unsafe"
)

const defaultDatabase = "default"

// baseSettings hold on every connection.
//
//   - The two caches are keyed by path and modification time, and request bodies reuse paths of the form
//     /proc/self/fd/N: a cached schema or row count would belong to another request.
//   - file() reads the columns that the body has; the engine's default takes the names of the target table and fills
//     missing columns with default values.
//   - max_query_size is the engine's limit on SQL text; its default of 256 KiB is less than a long IN list.
//   - max_execution_time is in seconds; a request may set its own.
//   - async_insert off: an insert is answered when its rows are stored, on every engine version.
var baseSettings = map[string]string{
	"schema_inference_use_cache_for_file":                   "0",
	"use_cache_for_count_from_files":                        "0",
	"use_structure_from_insertion_table_in_table_functions": "0",
	"max_query_size":     "67108864",
	"max_execution_time": "600",
	"async_insert":       "0",
}

// markSetting carries the connection's own mark, by which KILL QUERY finds what it is running.
const markSetting = "log_comment"

// conn is one engine connection. It runs one statement at a time and keeps settings and the current database from
// one to the next, so both are compared with what the next request wants. Not safe for concurrent use.
type conn struct {
	lib      *library
	path     string // the engine's data path
	mark     string
	handle   *unsafe.Pointer
	database string
	settings map[string]string
	dirty    bool // state unknown: open anew before the next statement
}

// openConn opens a further connection to the engine already booted on path.
func openConn(lib *library, path, mark string) (*conn, error) {
	c := &conn{lib: lib, path: path, mark: mark}
	if err := c.reopen(); err != nil {
		return nil, err
	}
	return c, nil
}

// reopen replaces the engine's side of the connection; it takes about 0.2 ms.
func (c *conn) reopen() error {
	c.close()
	handle, err := c.lib.open("--path=" + c.path)
	if err != nil {
		return err
	}
	c.handle, c.dirty = handle, false
	c.database, c.settings = defaultDatabase, map[string]string{}
	return c.change(map[string]string{markSetting: c.mark})
}

func (c *conn) close() {
	if c.handle != nil {
		c.lib.closeConn(c.handle)
		c.handle = nil
	}
}

// prepare gives the connection the settings and the database of a request. Settings that an earlier request made and
// this one does not name are taken back by opening the connection anew: SET … = DEFAULT would restore the engine's
// default, not this library's.
func (c *conn) prepare(database string, settings map[string]string) error {
	stale := c.dirty || c.handle == nil
	for name := range c.settings {
		_, wanted := settings[name]
		_, base := baseSettings[name]
		stale = stale || !wanted && !base && name != markSetting
	}
	if stale {
		if err := c.reopen(); err != nil {
			return err
		}
	}
	if err := c.change(baseSettings, settings); err != nil {
		c.dirty = true
		return err
	}
	if database == "" {
		database = defaultDatabase
	}
	if database == c.database {
		return nil
	}
	if err := c.exec("USE " + quoteName(database)); err != nil {
		return err
	}
	c.database = database
	return nil
}

// change makes the settings that differ from the connection's; later maps win.
func (c *conn) change(layers ...map[string]string) error {
	want := map[string]string{}
	for _, layer := range layers {
		maps.Copy(want, layer)
	}
	var assignments []string
	for name, value := range want {
		if have, ok := c.settings[name]; !ok || have != value {
			assignments = append(assignments, name+" = "+quoteString(value))
		}
	}
	if len(assignments) == 0 {
		return nil
	}
	slices.Sort(assignments)
	if err := c.exec("SET " + strings.Join(assignments, ", ")); err != nil {
		return err
	}
	maps.Copy(c.settings, want)
	return nil
}

// query runs a statement and holds its whole answer. The caller closes the result.
func (c *conn) query(sql, format string) (result, error) {
	res := result{c.lib, c.lib.query(*c.handle, sql, uint64(len(sql)), format, uint64(len(format)))}
	if err := res.err(); err != nil {
		if res.ptr != nil {
			res.close()
		}
		return result{}, err
	}
	return res, nil
}

func (c *conn) exec(sql string) error {
	res, err := c.query(sql, "Null")
	if err != nil {
		return err
	}
	res.close()
	return nil
}

// lines runs a statement of one string column and returns its rows.
func (c *conn) lines(sql string) ([]string, error) {
	res, err := c.query(sql, "TSVRaw")
	if err != nil {
		return nil, err
	}
	defer res.close()
	text := strings.TrimSuffix(string(res.bytes()), "\n")
	if text == "" {
		return nil, nil
	}
	return strings.Split(text, "\n"), nil
}

// count returns the number of rows of a table expression.
func (c *conn) count(from string) (uint64, error) {
	lines, err := c.lines("SELECT count() FROM " + from)
	if err != nil || len(lines) != 1 {
		return 0, errors.Join(errors.New("count rows"), err)
	}
	n, err := strconv.ParseUint(lines[0], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("count rows: %w", err)
	}
	return n, nil
}

// stream is a SELECT under way. Its memory is bounded by the block in hand.
type stream struct {
	c    *conn
	ptr  unsafe.Pointer
	done bool
}

func (c *conn) stream(sql, format string) (*stream, error) {
	res := result{c.lib, c.lib.streamQuery(*c.handle, sql, uint64(len(sql)), format, uint64(len(format)))}
	if err := res.err(); err != nil {
		if res.ptr != nil {
			res.close()
		}
		return nil, err
	}
	return &stream{c: c, ptr: res.ptr}, nil
}

// next calls use with the next block's bytes, which are valid during the call only. It reports false at the end of
// the answer.
func (s *stream) next(use func([]byte) error) (bool, error) {
	res := result{s.c.lib, s.c.lib.streamFetch(*s.c.handle, s.ptr)}
	if res.ptr == nil {
		s.done = true
		return false, res.err()
	}
	defer res.close()
	if err := res.err(); err != nil {
		s.done = true
		return false, err
	}
	block := res.bytes()
	if len(block) == 0 {
		s.done = true
		return false, nil
	}
	return true, use(block)
}

// close ends the query if it is still running.
func (s *stream) close() {
	if !s.done {
		s.c.lib.streamCancel(*s.c.handle, s.ptr)
	}
	s.c.lib.destroyResult(s.ptr)
}

// killSQL asks the engine to stop what the connection with this mark is running.
func killSQL(mark string) string {
	return fmt.Sprintf("KILL QUERY WHERE Settings['%s'] = %s ASYNC", markSetting, quoteString(mark))
}
