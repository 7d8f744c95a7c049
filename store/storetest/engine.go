package storetest

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/meterd/meterd/store/embedded"
)

// Main runs a package's tests. Packages that call [StartEngine] need it in their TestMain, because the engine's child
// process is the test binary itself:
//
//	func TestMain(m *testing.M) { storetest.Main(m) }
func Main(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == engineRole {
		if err := serveEngine(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "Error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const engineRole = "storetest-engine"

// serveEngine is the child process.
func serveEngine(args []string) error {
	opts := embedded.ServeOptions{Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	flags := flag.NewFlagSet(engineRole, flag.ContinueOnError)
	flags.StringVar(&opts.DataDir, "data-dir", "", "")
	flags.StringVar(&opts.Socket, "socket", "", "")
	flags.StringVar(&opts.Library, "library", "", "")
	flags.IntVar(&opts.Connections, "connections", 0, "")
	flags.Int64Var(&opts.MemoryLimit, "memory-limit", 0, "")
	flags.Int64Var(&opts.MaxInsertBytes, "max-insert-bytes", 0, "")
	flags.BoolVar(&opts.NoFsync, "no-fsync", false, "")
	flags.DurationVar(&opts.LockTimeout, "lock-timeout", 0, "")
	flags.DurationVar(&opts.DrainTimeout, "drain-timeout", 0, "")
	lifeline := flags.Bool("lifeline", false, "")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("engine of a test: %w", err)
	}
	if *lifeline {
		opts.Lifeline = io.Reader(os.Stdin)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return embedded.Serve(ctx, opts)
}

// StartEngine starts the embedded engine on a directory of its own and closes it when the test ends. The test binary
// must call [Main].
func StartEngine(tb testing.TB, opts embedded.Options) *embedded.Engine {
	tb.Helper()
	library, err := embedded.FindLibrary(opts.Library)
	if err != nil {
		skipOrFail(tb, err)
	}
	opts.Library, opts.Args = library, []string{engineRole}
	if opts.DataDir == "" {
		opts.DataDir = filepath.Join(tb.TempDir(), "engine")
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.NewTextHandler(testWriter{tb}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	engine, err := embedded.Start(tb.Context(), opts)
	if err != nil {
		tb.Fatalf("start embedded engine: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := engine.Close(ctx); err != nil {
			tb.Errorf("close embedded engine: %v", err)
		}
	})
	return engine
}

// KillEngine kills the engine's process, as a crash would, and waits until the next one answers.
func KillEngine(tb testing.TB, engine *embedded.Engine) {
	tb.Helper()
	pid := engine.PID()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		tb.Fatalf("kill embedded engine: %v", err)
	}
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for engine.PID() == pid || engine.PID() == 0 || engine.Ready(ctx) != nil {
		select {
		case <-ctx.Done():
			tb.Fatalf("embedded engine does not come back: %v", engine.LastError())
		case <-ticker.C:
		}
	}
}

// testWriter writes to a test's log.
type testWriter struct{ tb testing.TB }

// Write logs p.
func (w testWriter) Write(p []byte) (int, error) {
	w.tb.Logf("%s", p)
	return len(p), nil
}
