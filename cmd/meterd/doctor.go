package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/doctor"
	"github.com/meterd/meterd/reporter/koogallery"
)

func newDoctorCommand() *cobra.Command {
	var output string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check this machine, ClickHouse, the clock and the marketplace",
		Long: `Check everything that meterd serve needs, before it runs or while it does: directories and disk, the spool, the
ClickHouse engine or server, the clock, keys, the marketplace's reachability, listeners and limits.

Nothing of the daemon's is changed, and no usage is sent: the marketplace sees one HEAD request without credentials. Run
it as the user that runs the daemon, on the same machine.

Each line is ok, warn or FAIL, with what was found and what to do about it. Secrets are never printed.

Exit codes: 0 no FAIL, 1 at least one FAIL, 2 wrong usage or configuration.`,
		Example: "  sudo -u meterd meterd doctor --config /etc/meterd/config.toml",
		Args:    cobra.NoArgs,
	}
	path := addConfigFlag(cmd)
	cmd.Flags().StringVarP(&output, "output", "o", outputText, "form of the output: text, json")
	cmd.Flags().DurationVar(&timeout, "timeout", doctor.DefaultTimeout, "time for each check; starting the engine has six times that")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if output != outputText && output != outputJSON {
			return &usageError{fmt.Errorf("--output: must be one of text, json (got %q)", output)}
		}
		if timeout <= 0 {
			return &usageError{fmt.Errorf("--timeout: must be above 0 (got %s)", timeout)}
		}
		cfg, err := loadConfig(*path)
		if err != nil {
			return err
		}
		return runDoctor(cmd, cfg, timeout, output == outputJSON)
	}
	return cmd
}

func runDoctor(cmd *cobra.Command, cfg config.Config, timeout time.Duration, asJSON bool) error {
	k := cfg.KooGallery
	addresses, err := koogallery.Options{
		Site: koogallery.Site(k.Site), BaseURL: k.BaseURL, AllowHTTP: k.AllowHTTP, Fallback: k.Fallback, API: koogallery.API(k.API),
	}.Addresses()
	if err != nil {
		return &usageError{err}
	}
	report, err := doctor.Run(cmd.Context(), doctor.Options{
		Config: cfg, Marketplace: addresses, Proxy: http.ProxyFromEnvironment,
		Timeout: timeout, EngineTimeout: 6 * timeout, Now: time.Now,
	})
	if err != nil {
		return err
	}
	if cmd.Context().Err() != nil {
		return errors.New("interrupted")
	}
	if asJSON {
		err = writeJSONValue(cmd.OutOrStdout(), struct {
			Version string `json:"version"`
			OK      bool   `json:"ok"`
			doctor.Report
		}{buildVersion(), report.Count(doctor.Fail) == 0, report})
	} else {
		err = writeReport(cmd.OutOrStdout(), report)
	}
	if n := report.Count(doctor.Fail); n > 0 {
		err = errors.Join(err, fmt.Errorf("%s failed", plural(n, "check", "checks")))
	}
	return err
}

// writeReport writes the findings for people, advice on a line of its own.
func writeReport(w io.Writer, report doctor.Report) error {
	var b strings.Builder
	for _, f := range report.Findings {
		verdict := string(f.Status)
		if f.Status == doctor.Fail {
			verdict = "FAIL"
		}
		fmt.Fprintf(&b, "%-4s  %-14s  %s\n", verdict, f.Check, printable(f.Found))
		if f.Advice != "" {
			fmt.Fprintf(&b, "%22s-> %s\n", "", printable(f.Advice))
		}
	}
	fmt.Fprintf(&b, "%d ok, %s, %d FAIL\n", report.Count(doctor.OK),
		plural(report.Count(doctor.Warn), "warning", "warnings"), report.Count(doctor.Fail))
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}
