package embedded

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/ebitengine/purego"
)

// library is the engine's C interface, reduced to the functions this package uses. The engine keeps its state per
// process: all connections opened through a library share one data path.
type library struct {
	setSignalHandlers func(enabled bool)
	connect           func(argc int32, argv unsafe.Pointer) *unsafe.Pointer
	closeConn         func(conn *unsafe.Pointer)
	query             func(conn unsafe.Pointer, sql string, sqlLen uint64, format string, formatLen uint64) unsafe.Pointer
	streamQuery       func(conn unsafe.Pointer, sql string, sqlLen uint64, format string, formatLen uint64) unsafe.Pointer
	streamFetch       func(conn, stream unsafe.Pointer) unsafe.Pointer
	streamCancel      func(conn, stream unsafe.Pointer)
	destroyResult     func(res unsafe.Pointer)
	resultBuffer      func(res unsafe.Pointer) unsafe.Pointer
	resultLength      func(res unsafe.Pointer) uint64
	resultRowsWritten func(res unsafe.Pointer) uint64
	resultError       func(res unsafe.Pointer) string
}

// openLibrary loads the shared library at path and binds its functions. The library is never unloaded: the engine
// leaves threads behind.
func openLibrary(path string) (*library, error) {
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("load engine library %s: %w", path, err)
	}
	lib := &library{}
	bindings := []struct {
		fn   any
		name string
	}{
		{&lib.setSignalHandlers, "chdb_set_signal_handlers_enabled"},
		{&lib.connect, "chdb_connect"},
		{&lib.closeConn, "chdb_close_conn"},
		{&lib.query, "chdb_query_n"},
		{&lib.streamQuery, "chdb_stream_query_n"},
		{&lib.streamFetch, "chdb_stream_fetch_result"},
		{&lib.streamCancel, "chdb_stream_cancel_query"},
		{&lib.destroyResult, "chdb_destroy_query_result"},
		{&lib.resultBuffer, "chdb_result_buffer"},
		{&lib.resultLength, "chdb_result_length"},
		{&lib.resultRowsWritten, "chdb_result_rows_written"},
		{&lib.resultError, "chdb_result_error"},
	}
	var missing []error
	for _, b := range bindings {
		addr, err := purego.Dlsym(handle, b.name)
		if err != nil {
			missing = append(missing, fmt.Errorf("symbol %s: %w", b.name, err))
			continue
		}
		purego.RegisterFunc(b.fn, addr)
	}
	if err := errors.Join(missing...); err != nil {
		return nil, fmt.Errorf("engine library %s is not libchdb %s: %w", path, Version, err)
	}
	// Must come before the first connection: the engine would replace the Go runtime's own handlers.
	lib.setSignalHandlers(false)
	return lib, nil
}

// open opens one engine connection. The first one of the process boots the engine with these arguments.
func (l *library) open(args ...string) (*unsafe.Pointer, error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	argv := make([]*byte, 0, len(args)+2)
	for _, arg := range append([]string{"clickhouse"}, args...) {
		b := append([]byte(arg), 0)
		pin.Pin(&b[0])
		argv = append(argv, &b[0])
	}
	argv = append(argv, nil)
	pin.Pin(&argv[0])
	handle := l.connect(int32(len(argv)-1), unsafe.Pointer(&argv[0])) //nolint:gosec // a handful of arguments
	if handle == nil || *handle == nil {
		return nil, errors.New("open engine connection: the engine refused; its message is on stderr")
	}
	return handle, nil
}

// result is one answer of the engine. It must be closed, after which its bytes are gone.
type result struct {
	lib *library
	ptr unsafe.Pointer
}

func (r result) close() { r.lib.destroyResult(r.ptr) }

// err returns the engine's exception, or nil.
func (r result) err() error {
	if r.ptr == nil {
		return &Error{Code: codeUnknown, Message: "engine returned no result"}
	}
	if text := r.lib.resultError(r.ptr); text != "" {
		return parseError(text)
	}
	return nil
}

// bytes is the answer in the engine's memory, valid until close.
func (r result) bytes() []byte {
	n := r.lib.resultLength(r.ptr)
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(r.lib.resultBuffer(r.ptr)), n) //nolint:gosec // G103: the engine gives address and length together
}

// rowsWritten counts rows the statement wrote, those of materialized views included.
func (r result) rowsWritten() uint64 { return r.lib.resultRowsWritten(r.ptr) }
