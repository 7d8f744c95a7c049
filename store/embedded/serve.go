package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// ServeOptions configure the child side. The zero value of every field but Library and DataDir is usable.
type ServeOptions struct {
	// Library is the path of libchdb.so. Required.
	Library string
	// DataDir holds the lock, the socket and the engine's data (subdirectory clickhouse). Created when missing.
	DataDir string
	// Socket is the unix socket to serve; "" means engine.sock in DataDir.
	Socket string
	// Connections is the number of statements that run at once; 0 means the larger of 4 and the number of CPUs.
	Connections int
	// MemoryLimit is the engine's limit in bytes; 0 means half of the memory of the machine or container.
	MemoryLimit int64
	// MaxInsertBytes bounds the body of one insert; 0 means 1 GiB.
	MaxInsertBytes int64
	// NoFsync gives up durability against power cuts, for sandboxes and benchmarks.
	NoFsync bool
	// LockTimeout is how long to wait for another engine to leave DataDir; 0 means 30 s.
	LockTimeout time.Duration
	// DrainTimeout is how long running statements may go on at the end; 0 means 20 s.
	DrainTimeout time.Duration
	// Lifeline, when not nil, ends Serve at its end of file: the parent keeps the other end open as long as it lives.
	Lifeline io.Reader
	// Logger receives the engine's own events; nil discards them.
	Logger *slog.Logger
}

func (o ServeOptions) withDefaults() (ServeOptions, error) {
	if o.Library == "" {
		return o, errors.New("embedded engine: no library given")
	}
	if o.DataDir == "" {
		return o, errors.New("embedded engine: no data directory given")
	}
	dir, err := filepath.Abs(o.DataDir)
	if err != nil {
		return o, fmt.Errorf("data directory: %w", err)
	}
	o.DataDir = dir
	if o.Socket == "" {
		o.Socket = socketPath(dir)
	}
	if o.Socket, err = filepath.Abs(o.Socket); err != nil {
		return o, fmt.Errorf("socket: %w", err)
	}
	if o.Connections <= 0 {
		o.Connections = max(4, runtime.NumCPU())
	}
	if o.MaxInsertBytes <= 0 {
		o.MaxInsertBytes = 1 << 30
	}
	if o.LockTimeout <= 0 {
		o.LockTimeout = 30 * time.Second
	}
	if o.DrainTimeout <= 0 {
		o.DrainTimeout = 20 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

func socketPath(dataDir string) string { return filepath.Join(dataDir, "engine.sock") }

// Serve loads the engine and answers requests until ctx ends or Lifeline does; then it lets running statements finish
// and closes the engine in order. It is meant to be the main work of a process of its own: it changes the process's
// umask, and the engine can be opened for one data directory only in the life of a process.
//
// A non-nil error that is not from starting means that the engine is in a state only a new process can mend; the
// caller must exit without waiting for anything.
func Serve(ctx context.Context, options ServeOptions) error {
	opts, err := options.withDefaults()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if opts.Lifeline != nil {
		// Ends with the process at the latest: a read of a pipe cannot be interrupted.
		go func() {
			_, _ = io.Copy(io.Discard, opts.Lifeline)
			cancel(errors.New("parent process is gone"))
		}()
	}
	unix.Umask(0o077)
	if err := os.MkdirAll(opts.DataDir, 0o700); err != nil {
		return fmt.Errorf("create data directory: %w", err)
	}
	lock, err := lockDir(ctx, opts.DataDir, opts.LockTimeout)
	if err != nil {
		return err
	}
	defer lock.Close()
	return serveLocked(ctx, cancel, opts)
}

func serveLocked(ctx context.Context, cancel context.CancelCauseFunc, opts ServeOptions) error {
	wedged := make(chan error, 1)
	fatal := func(err error) {
		select {
		case wedged <- err:
		default:
		}
		cancel(err)
	}
	h, err := bootEngine(ctx, opts, fatal)
	if err != nil {
		return err
	}
	listener, err := listenSocket(ctx, opts.Socket)
	if err != nil {
		return errors.Join(err, h.pool.close(ctx))
	}
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    4 << 20, // the statement and settings of an insert are in the URL
		ErrorLog:          slog.NewLogLogger(opts.Logger.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }() // ends with Shutdown or Close below
	opts.Logger.Info("engine ready", "socket", opts.Socket, "connections", opts.Connections)

	select {
	case err := <-failed:
		return errors.Join(fmt.Errorf("serve: %w", err), h.pool.close(ctx))
	case <-ctx.Done():
	}
	opts.Logger.Info("engine stopping", "cause", context.Cause(ctx).Error())
	select {
	case err := <-wedged:
		return errors.Join(err, server.Close())
	default:
	}
	return shutDown(context.WithoutCancel(ctx), server, h, opts)
}

// bootEngine loads the library, opens the data and the connections.
func bootEngine(ctx context.Context, opts ServeOptions, fatal func(error)) (*handler, error) {
	config, err := writeConfig(opts.DataDir, opts.MemoryLimit, opts.NoFsync)
	if err != nil {
		return nil, err
	}
	lib, err := openLibrary(opts.Library)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(opts.DataDir, "clickhouse")
	first, err := lib.open("--path="+path, "--config-file="+config)
	if err != nil {
		return nil, fmt.Errorf("boot engine on %s: %w", path, err)
	}
	// The engine lives as long as one connection is open; the pool's admin connection takes over.
	defer lib.closeConn(first)
	p, err := openPool(ctx, lib, path, opts.Connections, opts.Logger, fatal)
	if err != nil {
		return nil, fmt.Errorf("open engine connections: %w", err)
	}
	h := &handler{
		pool: p, durable: newDurability(path, opts.NoFsync), logger: opts.Logger,
		spoolDir: opts.DataDir, bodyLimit: opts.MaxInsertBytes, inserts: make(chan struct{}, opts.Connections),
	}
	if h.hello, err = readHello(p.admin); err != nil {
		return nil, errors.Join(err, p.close(ctx))
	}
	return h, nil
}

// closePatience is how long killed statements may take to let go of their connections at the end.
const closePatience = 15 * time.Second

// shutDown lets statements finish, kills those that take too long, and closes the engine.
func shutDown(ctx context.Context, server *http.Server, h *handler, opts ServeOptions) error {
	drain, cancel := context.WithTimeout(ctx, opts.DrainTimeout)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		opts.Logger.Warn("statements killed at shutdown", "waited", opts.DrainTimeout.String())
		if err := h.pool.killAll(); err != nil {
			opts.Logger.Warn("kill statements", "err", err)
		}
		if err := server.Close(); err != nil {
			opts.Logger.Warn("close server", "err", err)
		}
	}
	if err := os.Remove(opts.Socket); err != nil && !os.IsNotExist(err) {
		opts.Logger.Warn("remove socket", "err", err)
	}
	final, cancelFinal := context.WithTimeout(ctx, closePatience)
	defer cancelFinal()
	if err := h.pool.close(final); err != nil {
		return fmt.Errorf("close engine: %w", err)
	}
	opts.Logger.Info("engine stopped")
	return nil
}
