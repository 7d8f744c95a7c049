package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/internal/config"
)

// addConfigFlag adds --config, whose default is the environment variable METERD_CONFIG.
func addConfigFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("config", os.Getenv("METERD_CONFIG"), "configuration file (or METERD_CONFIG)")
}

// loadConfig loads the configuration for a command. Faults of the configuration are usage errors.
func loadConfig(path string) (config.Config, error) {
	if path == "" {
		return config.Config{}, &usageError{errors.New("no configuration file; use --config FILE or set METERD_CONFIG")}
	}
	cfg, err := config.Load(path, os.Environ())
	if err != nil {
		return config.Config{}, &usageError{fmt.Errorf("the configuration can't be used:\n%w", err)}
	}
	return cfg, nil
}

func newCheckConfigCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check-config",
		Short: "Check a configuration file and say what it means",
		Long: `Check a configuration file, its environment overrides and its secrets' files without starting anything.
Prints "ok" and a summary, or every fault on a line of its own and exits with code 2.`,
		Args: cobra.NoArgs,
	}
	path := addConfigFlag(cmd)
	show := cmd.Flags().Bool("print", false, "print the effective configuration as TOML, secrets elided")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := loadConfig(*path)
		if err != nil {
			return err
		}
		for _, warning := range cfg.Warnings() {
			fmt.Fprintf(cmd.ErrOrStderr(), "Warning: %s\n", warning)
		}
		if *show {
			return cfg.WriteTOML(cmd.OutOrStdout())
		}
		return writeSummary(cmd.OutOrStdout(), cfg)
	}
	return cmd
}

// writeSummary says in a few lines what the daemon would do.
func writeSummary(w io.Writer, cfg config.Config) error {
	var b strings.Builder
	b.WriteString("ok\n")
	scheme := "http"
	if cfg.Server.TLSCertFile != "" {
		scheme = "https"
	}
	fmt.Fprintf(&b, "api:       %s://%s, %d keys\n", scheme, cfg.Server.Listen, len(cfg.Server.Keys))
	fmt.Fprintf(&b, "data:      %s (spool up to %s)\n", cfg.DataDir, cfg.Spool.MaxBytes)
	if cfg.Store.Embedded {
		b.WriteString("store:     embedded engine\n")
	} else {
		fmt.Fprintf(&b, "store:     ClickHouse at %s, database %s\n", strings.Join(cfg.Store.Addrs, ", "), cfg.Store.Database)
	}
	b.WriteString("reporting: " + reportingSummary(cfg) + "\n")
	fmt.Fprintf(&b, "meters:    %d\n", len(cfg.Meters))
	for _, m := range cfg.Meters {
		use := "billed"
		if !m.Billed {
			use = "queried only"
		}
		value := m.Aggregation
		if m.Value != "" {
			value += " of " + m.Value
		}
		fmt.Fprintf(&b, "  %s: %s in events of type %q, %s\n", m.Slug, value, m.EventType, use)
	}
	if len(cfg.Mappings) > 0 {
		fmt.Fprintf(&b, "mappings:  %d\n", len(cfg.Mappings))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func reportingSummary(cfg config.Config) string {
	if !cfg.Reporting.Enabled {
		return "off"
	}
	where := "site " + cfg.KooGallery.Site
	if cfg.KooGallery.BaseURL != "" {
		where = cfg.KooGallery.BaseURL
	}
	return fmt.Sprintf("to %s, %s, seller %s", cfg.Reporting.Marketplace, where, cfg.Reporting.Seller)
}
