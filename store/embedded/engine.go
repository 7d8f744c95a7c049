package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Options configure the parent side. DataDir is required.
type Options struct {
	// Executable is the program that serves the engine; "" means this one. It is run as
	// "Executable Args… --data-dir D --socket S --library L --connections N …".
	Executable string
	// Args come before the flags; nil means {"engine"}.
	Args []string
	// DataDir is where the engine keeps its data. Created when missing, for this user alone.
	DataDir string
	// Socket is the unix socket; "" means engine.sock in DataDir.
	Socket string
	// Library is the path of libchdb.so; "" means FindLibrary("").
	Library string
	// Connections, MemoryLimit, MaxInsertBytes and NoFsync are as in ServeOptions.
	Connections    int
	MemoryLimit    int64
	MaxInsertBytes int64
	NoFsync        bool
	// StartTimeout bounds Start's wait for the first answer; 0 means 90 s (a cold start may read 559 MB).
	StartTimeout time.Duration
	// BackoffMin and BackoffMax bound the pause before a crashed child is started again; 0 means 100 ms and 30 s.
	BackoffMin, BackoffMax time.Duration
	// Logger receives starts, crashes and the child's output; nil discards them.
	Logger *slog.Logger
}

// ErrClosed is returned by an Engine after Close.
var ErrClosed = errors.New("embedded engine is closed")

const (
	readyPoll      = 20 * time.Millisecond
	healthyAfter   = time.Minute      // a child that lived so long starts the backoff anew
	probeInterval  = 15 * time.Second // between health probes of a running child
	probeTimeout   = 20 * time.Second
	probeFailures  = 4 // unanswered in a row before the child counts as hung
	closeKillAfter = 10 * time.Second
)

// Engine is a supervised child process. Its methods are safe for concurrent use.
type Engine struct {
	opts   Options
	logger *slog.Logger
	client *http.Client

	cancel context.CancelFunc // ends the supervisor
	done   chan struct{}      // closed when the supervisor ended

	mu       sync.Mutex
	child    *child
	closed   bool
	restarts uint64
	lastErr  error
}

// Start starts the child and waits until it answers a query. The error of a child that ends before its first answer
// contains the end of its output. After Start returned, the child is started again whenever it ends, with a jittered
// pause, until Close. ctx bounds Start alone.
func Start(ctx context.Context, options Options) (*Engine, error) {
	opts, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(opts.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	e := &Engine{opts: opts, logger: opts.Logger, done: make(chan struct{})}
	e.client = &http.Client{Transport: &http.Transport{DialContext: e.DialContext, MaxIdleConns: 1, IdleConnTimeout: time.Minute}}
	first, err := e.spawn()
	if err != nil {
		return nil, err
	}
	ctx, cancelWait := context.WithTimeout(ctx, opts.StartTimeout)
	defer cancelWait()
	if err := e.awaitFirst(ctx, first); err != nil {
		first.stop(ctx, closeKillAfter)
		return nil, err
	}
	// The supervisor outlives ctx; Close cancels it.
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e.cancel = cancel
	go e.supervise(life, first)
	return e, nil
}

func (o Options) withDefaults() (Options, error) {
	if o.DataDir == "" {
		return o, errors.New("embedded engine: no data directory given")
	}
	var err error
	if o.DataDir, err = filepath.Abs(o.DataDir); err != nil {
		return o, fmt.Errorf("data directory: %w", err)
	}
	if o.Socket == "" {
		o.Socket = socketPath(o.DataDir)
	}
	if o.Executable == "" {
		if o.Executable, err = os.Executable(); err != nil {
			return o, fmt.Errorf("find own executable: %w", err)
		}
	}
	if o.Args == nil {
		o.Args = []string{"engine"}
	}
	if o.Library, err = FindLibrary(o.Library); err != nil {
		return o, err
	}
	if o.StartTimeout <= 0 {
		o.StartTimeout = 90 * time.Second
	}
	if o.BackoffMin <= 0 {
		o.BackoffMin = 100 * time.Millisecond
	}
	if o.BackoffMax <= 0 {
		o.BackoffMax = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// arguments is the child's command line.
func (o Options) arguments() []string {
	args := append([]string(nil), o.Args...)
	args = append(args, "--data-dir", o.DataDir, "--socket", o.Socket, "--library", o.Library, "--lifeline")
	if o.Connections > 0 {
		args = append(args, "--connections", strconv.Itoa(o.Connections))
	}
	if o.MemoryLimit > 0 {
		args = append(args, "--memory-limit", strconv.FormatInt(o.MemoryLimit, 10))
	}
	if o.MaxInsertBytes > 0 {
		args = append(args, "--max-insert-bytes", strconv.FormatInt(o.MaxInsertBytes, 10))
	}
	if o.NoFsync {
		args = append(args, "--no-fsync")
	}
	return args
}

// spawn starts a child and makes it the current one.
func (e *Engine) spawn() (*child, error) {
	c, err := startChild(e.opts, e.logger)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	e.child = c
	e.mu.Unlock()
	return c, nil
}

func (e *Engine) awaitFirst(ctx context.Context, c *child) error {
	err := e.await(ctx, c)
	switch {
	case err == nil:
		e.logger.Info("engine started", "pid", c.pid(), "socket", e.opts.Socket)
		return nil
	case c.ended():
		return fmt.Errorf("start embedded engine: %w", c.failure())
	default:
		return fmt.Errorf("start embedded engine: no answer yet: %w\n%s", err, c.output.String())
	}
}

// await polls until the child answers, it ends, or ctx does.
func (e *Engine) await(ctx context.Context, c *child) error {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		select {
		case <-c.exited:
			return c.failure()
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if err := e.Ready(ctx); err == nil {
			return nil
		}
	}
}

// supervise runs until Close: it watches the child and starts another whenever it ends.
func (e *Engine) supervise(ctx context.Context, c *child) {
	defer close(e.done)
	backoff := e.opts.BackoffMin
	for {
		started := time.Now() //nolint:forbidigo // the age of a process, not domain time
		e.watch(ctx, c)
		if ctx.Err() != nil {
			return
		}
		err := c.failure()
		if time.Since(started) > healthyAfter {
			backoff = e.opts.BackoffMin
		}
		for {
			e.noteRestart(err)
			e.logger.Error("engine ended, starting it again", "err", err, "restarts", e.Restarts(), "pause", backoff.String())
			if !pause(ctx, jitter(backoff)) {
				return
			}
			backoff = min(2*backoff, e.opts.BackoffMax)
			if c, err = e.spawn(); err == nil {
				break
			}
		}
	}
}

// watch returns when the child has ended: by itself, killed as hung, or with ctx.
func (e *Engine) watch(ctx context.Context, c *child) {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for failures := 0; ; {
		select {
		case <-c.exited:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		probe, cancel := context.WithTimeout(ctx, probeTimeout)
		err := e.ping(probe)
		cancel()
		switch {
		case err == nil:
			failures = 0
		case ctx.Err() == nil:
			failures++
			e.logger.Warn("engine does not answer", "err", err, "failures", failures)
		}
		if failures >= probeFailures {
			c.kill()
			<-c.exited
			return
		}
	}
}

func (e *Engine) noteRestart(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.restarts++
	e.lastErr = err
}

// jitter spreads a pause over ±50 %.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d) //nolint:gosec // no secret depends on it
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Socket is the path of the engine's unix socket.
func (e *Engine) Socket() string { return e.opts.Socket }

// DialContext connects to the engine whatever network and address are: it has the form of http.Transport's field.
// While the engine restarts it returns an error at once.
func (e *Engine) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	return e.Dial(ctx, "")
}

// Dial is DialContext in the form of clickhouse-go's Options.DialContext.
func (e *Engine) Dial(ctx context.Context, _ string) (net.Conn, error) {
	e.mu.Lock()
	closed := e.closed
	e.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	return dialSocket(ctx, e.opts.Socket)
}

// Ready returns nil when the engine answers a query now.
func (e *Engine) Ready(ctx context.Context) error {
	return e.ask(ctx, http.MethodPost, "/", "SELECT 1")
}

// ping asks without waiting for a free connection of the engine.
func (e *Engine) ping(ctx context.Context) error { return e.ask(ctx, http.MethodGet, "/ping", "") }

func (e *Engine) ask(ctx context.Context, method, path, text string) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, strings.NewReader(text))
	if err != nil {
		return fmt.Errorf("ask embedded engine: %w", err)
	}
	res, err := e.client.Do(req)
	if err != nil {
		return fmt.Errorf("ask embedded engine: %w", err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return fmt.Errorf("ask embedded engine: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("ask embedded engine: status %d: %s", res.StatusCode, strings.TrimSpace(string(answer)))
	}
	return nil
}

// Restarts counts how often the child had to be started again since Start.
func (e *Engine) Restarts() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.restarts
}

// LastError is why the child ended last, with the end of its output; nil when it never did.
func (e *Engine) LastError() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lastErr
}

// PID is the current child's process ID, 0 while there is none.
func (e *Engine) PID() int {
	e.mu.Lock()
	c := e.child
	e.mu.Unlock()
	if c == nil || c.ended() {
		return 0
	}
	return c.pid()
}

// Close ends the supervision and stops the child: SIGTERM first, so that it finishes running statements, and SIGKILL
// when ctx ends before it does. It returns when the child is gone. A second call only waits for that.
func (e *Engine) Close(ctx context.Context) error {
	e.cancel()
	<-e.done
	e.mu.Lock()
	c, again := e.child, e.closed
	e.closed = true
	e.mu.Unlock()
	if again {
		<-c.exited
		return nil
	}
	err := c.terminate(ctx)
	e.client.CloseIdleConnections()
	return err
}
