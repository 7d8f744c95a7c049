package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/telemetry"
)

func newServeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the daemon: take events, close hours, report to the marketplace",
		Long: `Run the daemon until SIGTERM or SIGINT. It then stops accepting, finishes what it has begun, flushes the spool
into ClickHouse as far as that is reachable, and exits; a second signal ends it at once, which loses nothing that was
acknowledged.

When it is ready to take events it prints one line of JSON to standard output with the addresses it listens on. Logs go
to standard error.`,
		Args: cobra.NoArgs,
	}
	path := addConfigFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := loadConfig(*path)
		if err != nil {
			return err
		}
		log, err := telemetry.NewLogger(cmd.ErrOrStderr(), cfg.Telemetry.LogLevel, cfg.Telemetry.LogFormat)
		if err != nil {
			return &usageError{err}
		}
		for _, warning := range cfg.Warnings() {
			log.Warn("configuration", "warning", warning)
		}
		if os.Getenv("GOMEMLIMIT") == "" {
			debug.SetMemoryLimit(memoryGoal(cfg))
		}
		clock, err := newMachineClock()
		if err != nil {
			return err
		}
		d, err := newDaemon(cmd.Context(), daemonOptions{Config: cfg, Clock: clock, Logger: log, Monotonic: clock.Monotonic})
		if err != nil {
			return err
		}
		if err := announce(cmd.OutOrStdout(), d); err != nil {
			return err
		}
		return d.Run(cmd.Context())
	}
	return cmd
}

// memoryGoal is how much memory, in bytes, the daemon uses before the collector works harder to give some back. It is no
// bound. Batches on their way into ClickHouse fill nearly all of it: with the default configuration about 300 MB, which would
// grow to twice that between two collections, and a closing daemon shall stay below 512 MB.
func memoryGoal(cfg config.Config) int64 {
	const (
		base     = 140 << 20
		perEvent = 1400 // bytes of an event in a batch
		usual    = 200_000
	)
	return base + perEvent*max(usual, int64(cfg.Loader.BatchEvents)*int64(cfg.Loader.Inserters))
}

// announcement is the line that tells scripts and tests where the daemon listens.
type announcement struct {
	API       string `json:"api"`
	Telemetry string `json:"telemetry,omitempty"`
	Version   string `json:"version"`
}

// announce prints the addresses. The listeners are open by then: a client that connects now is answered once Run serves.
func announce(w io.Writer, d *daemon) error {
	line, err := json.Marshal(announcement{API: d.apiURL(), Telemetry: d.metricsURL(), Version: buildVersion()})
	if err != nil {
		return fmt.Errorf("encode announcement: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s\n", line)
	return err
}
