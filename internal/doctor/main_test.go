package doctor_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/doctor"
	"github.com/meterd/meterd/store/embedded"
)

// TestMain turns the test binary into the engine that the check starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "engine" {
		if err := serveEngine(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "Error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func serveEngine(args []string) error {
	var o embedded.ServeOptions
	flags := flag.NewFlagSet("engine", flag.ContinueOnError)
	flags.StringVar(&o.DataDir, "data-dir", "", "")
	flags.StringVar(&o.Socket, "socket", "", "")
	flags.StringVar(&o.Library, "library", "", "")
	flags.IntVar(&o.Connections, "connections", 0, "")
	flags.Int64Var(&o.MemoryLimit, "memory-limit", 0, "")
	flags.Int64Var(&o.MaxInsertBytes, "max-insert-bytes", 0, "")
	flags.BoolVar(&o.NoFsync, "no-fsync", false, "")
	lifeline := flags.Bool("lifeline", false, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *lifeline {
		o.Lifeline = os.Stdin
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return embedded.Serve(ctx, o)
}

// testConfig is a configuration on a directory of the test, with nothing to reach on the network.
func testConfig(t *testing.T) config.Config {
	t.Helper()
	cfg := config.Default()
	cfg.DataDir = t.TempDir()
	if err := os.Chmod(cfg.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	cfg.Server.Listen, cfg.Telemetry.Listen = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Reporting.Enabled = false
	cfg.Spool.MaxBytes = 16 * config.MiB
	cfg.Ingest.DeadLetterMaxBytes = 1 * config.MiB
	// No engine, unless a test wants one: its check fails at once.
	cfg.Store.EngineLibrary = "/nonexistent/libchdb.so"
	return cfg
}

// examine runs the doctor and returns the findings of one check.
func examine(t *testing.T, o doctor.Options, check string) []doctor.Finding {
	t.Helper()
	if o.Now == nil {
		o.Now = time.Now
	}
	report, err := doctor.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(report.Findings, func(f doctor.Finding) bool { return f.Check != check })
}

// expect fails the test unless a finding of the status holds the text.
func expect(t *testing.T, findings []doctor.Finding, status doctor.Status, text string) {
	t.Helper()
	for _, f := range findings {
		if f.Status == status && strings.Contains(f.Found, text) {
			if status != doctor.OK && f.Advice == "" {
				t.Errorf("no advice with %+v", f)
			}
			return
		}
	}
	t.Errorf("no finding %q with %q in %+v", status, text, findings)
}
