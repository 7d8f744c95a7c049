package embedded_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/meterd/meterd/store/embedded"
)

// library finds the real engine. Without it the test is skipped, or fails when the run declares it required.
func library(tb testing.TB) string {
	tb.Helper()
	path, err := embedded.FindLibrary("")
	if err == nil {
		return path
	}
	if os.Getenv("METERD_REQUIRE_ENGINES") == "1" {
		tb.Fatalf("METERD_REQUIRE_ENGINES=1: %v", err)
	}
	tb.Skipf("no embedded engine: %v", err)
	return ""
}

// logBuffer collects log lines of several goroutines.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// start starts an engine whose child is this test binary and closes it at the end of the test.
func start(tb testing.TB, opts embedded.Options) *embedded.Engine {
	tb.Helper()
	opts.Library = library(tb)
	if opts.DataDir == "" {
		opts.DataDir = filepath.Join(tb.TempDir(), "data")
	}
	logs := &logBuffer{}
	opts.Logger = slog.New(slog.NewTextHandler(logs, nil))
	opts.BackoffMin = 10 * time.Millisecond
	engine, err := embedded.Start(context.Background(), opts)
	if err != nil {
		tb.Fatalf("Start: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := engine.Close(ctx); err != nil {
			tb.Errorf("Close: %v", err)
		}
		if tb.Failed() {
			tb.Logf("engine log:\n%s", logs)
		}
	})
	return engine
}

// open connects clickhouse-go to the engine.
func open(tb testing.TB, engine *embedded.Engine, database string) driver.Conn {
	tb.Helper()
	conn, err := clickhouse.Open(engine.ClientOptions(database))
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	tb.Cleanup(func() {
		if err := conn.Close(); err != nil {
			tb.Errorf("close connection: %v", err)
		}
	})
	return conn
}

// newDatabase gives a test a database of its own.
func newDatabase(tb testing.TB, engine *embedded.Engine) driver.Conn {
	tb.Helper()
	name := strings.NewReplacer("/", "_", "=", "_", "-", "_").Replace(tb.Name())
	mustExec(tb, open(tb, engine, ""), "CREATE DATABASE `"+name+"`")
	return open(tb, engine, name)
}

func mustExec(tb testing.TB, conn driver.Conn, sql string, args ...any) {
	tb.Helper()
	if err := conn.Exec(tb.Context(), sql, args...); err != nil {
		tb.Fatalf("exec %.80q: %v", sql, err)
	}
}

func queryOne[T any](tb testing.TB, conn driver.Conn, sql string, args ...any) T {
	tb.Helper()
	var v T
	if err := conn.QueryRow(tb.Context(), sql, args...).Scan(&v); err != nil {
		tb.Fatalf("query %.80q: %v", sql, err)
	}
	return v
}

// eventually polls until ok returns true.
func eventually(tb testing.TB, limit time.Duration, what string, ok func() bool) {
	tb.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			tb.Fatalf("not within %v: %s", limit, what)
		case <-tick.C:
		}
	}
}

// The tests of queries and inserts share one engine: each has a database of its own, and together they show that no
// request disturbs another. TestMain closes it.
var sharedEngine struct {
	once   sync.Once
	dir    string
	engine *embedded.Engine
	err    error
	logs   logBuffer
}

func shared(tb testing.TB) *embedded.Engine {
	tb.Helper()
	lib := library(tb)
	sharedEngine.once.Do(func() {
		if sharedEngine.dir, sharedEngine.err = os.MkdirTemp("", "meterd-engine-test"); sharedEngine.err != nil { //nolint:usetesting // outlives the first test that needs it
			return
		}
		sharedEngine.engine, sharedEngine.err = embedded.Start(context.Background(), embedded.Options{
			DataDir: sharedEngine.dir, Library: lib, Logger: slog.New(slog.NewTextHandler(&sharedEngine.logs, nil)),
		})
	})
	if sharedEngine.err != nil {
		tb.Fatalf("Start: %v", sharedEngine.err)
	}
	return sharedEngine.engine
}

// closeShared stops the shared engine; it is an error if any test made it crash.
func closeShared() error {
	if sharedEngine.engine == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	restarts := sharedEngine.engine.Restarts()
	err := errors.Join(sharedEngine.engine.Close(ctx), os.RemoveAll(sharedEngine.dir))
	if restarts != 0 {
		err = errors.Join(err, fmt.Errorf("restarted %d times:\n%s", restarts, sharedEngine.logs.String()))
	}
	return err
}
