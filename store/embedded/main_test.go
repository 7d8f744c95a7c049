package embedded_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/meterd/meterd/store/embedded"
)

// TestMain turns the test binary into the programs the tests start: "engine" is the child process, "daemon" a parent
// that starts one and then waits to be killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "engine" || os.Args[1] == "daemon") {
		if err := helperProcess(os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "Error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if err := closeShared(); err != nil {
		fmt.Fprintln(os.Stderr, "shared engine:", err)
		code = 1
	}
	os.Exit(code)
}

func helperProcess(role string, args []string) error {
	var opts embedded.ServeOptions
	flags := flag.NewFlagSet(role, flag.ContinueOnError)
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
		return err
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if role == "daemon" {
		engine, err := embedded.Start(ctx, embedded.Options{DataDir: opts.DataDir, Library: opts.Library, Logger: logger})
		if err != nil {
			return err
		}
		fmt.Println(engine.PID())
		select {} // until killed
	}
	opts.Logger = logger
	if *lifeline {
		opts.Lifeline = os.Stdin
	}
	return embedded.Serve(ctx, opts)
}
