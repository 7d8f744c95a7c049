package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// limitCommand makes this program the net/http limit, in a process of its own as the daemon is.
const limitCommand = "net-http-limit"

// serveLimit is a server that reads bodies and answers 204: what net/http itself can do here.
func serveLimit(ctx context.Context, stdout io.Writer) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // the client sees to it that everything arrives
		w.WriteHeader(http.StatusNoContent)
	})}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	fmt.Fprintf(stdout, "http://%s\n", listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// startLimit starts it and returns its URL.
func (b *bench) startLimit(ctx context.Context) (*child, string, error) {
	c, err := startChild("net/http server", b.self, nil, limitCommand)
	if err != nil {
		return nil, "", err
	}
	url, err := c.await(ctx, func(line string) (string, bool) { return line, strings.HasPrefix(line, "http://") })
	if err != nil {
		return nil, "", errors.Join(err, c.stop(time.Second))
	}
	return c, url, nil
}

// rawSegment is the size at which a new file is begun, as the spool does.
const rawSegment = 64 << 20

// appendAndSync appends pieces of a size to files, each followed by an fdatasync, and returns how many a second it could:
// what the disk takes from a single writer that waits.
func (b *bench) appendAndSync(ctx context.Context, size int, duration time.Duration) (perSecond float64, err error) {
	dir, err := os.MkdirTemp(b.work, "raw-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	piece := make([]byte, size)
	for i := range piece {
		piece[i] = byte(mix(uint64(i))) //nolint:gosec // bytes that nothing below the file system could compress
	}
	began := clockNow()
	n := 0
	for file := 0; time.Since(began) < duration; file++ {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		name := filepath.Join(dir, fmt.Sprintf("%04d", file))
		written, err := fillFile(name, piece, began.Add(duration))
		if err != nil {
			return 0, fmt.Errorf("append and sync: %w", err)
		}
		n += written
	}
	return float64(n) / time.Since(began).Seconds(), nil
}

// fillFile fills one file or stops when the time is over. It returns how often it synced.
func fillFile(name string, piece []byte, until time.Time) (n int, err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // below our own directory
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for size := 0; size == 0 || size+len(piece) <= rawSegment; size += len(piece) {
		if time.Until(until) <= 0 {
			return n, nil
		}
		if _, err := f.Write(piece); err != nil {
			return n, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
