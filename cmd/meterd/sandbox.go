package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/internal/sandbox"
)

// Names of the environment variables of meterd sandbox, and the key used without one. It is no secret on purpose.
const (
	envSandboxKey    = "METERD_SANDBOX_KEY"
	envSandboxSecret = "METERD_SANDBOX_SECRET_KEY" // #nosec G101 -- a variable's name.
	demoSandboxKey   = "sandbox-demo-key"
)

// sandboxFlags are the flags of meterd sandbox.
type sandboxFlags struct {
	listen, key, accessKey, secretKey string
	tolerance, validationDelay        time.Duration
	strict, atUpload, lateFormats     bool
	form, collection, zone            string
	faults                            []string
	state                             string
	stateSync, adminAnywhere, verbose bool
	maxRecords                        int
	tlsCert, tlsKey                   string
	selfSigned                        bool
}

func newSandboxCommand() *cobra.Command {
	var f sandboxFlags
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "Simulate the marketplace's usage-data API",
		Long: `sandbox answers usage pushes as the marketplace does: it checks signatures and limits, validates
the records in the background, collects them into bills at minute 15, and shows all of it on a page.
Point the daemon's marketplace address at it before going live. Nothing leaves this machine.

Secrets are better given by ` + envSandboxKey + ` and ` + envSandboxSecret + ` than by flags, which other users can see.

Faults (repeatable): --fault 'kind=http_status,status=503,count=3'
  kinds: latency, http_status, error_code, throttle, drop_request, drop_answer, slow_body, garbage,
         truncate, reject, abnormal_list
  names: kind, path, skip, count, probability, seed, delay, status, body, code, instance, nested, after`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runSandbox(cmd.Context(), f, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.listen, "listen", "127.0.0.1:8090", "address to listen on")
	flags.StringVar(&f.key, "key", "", "seller key (default $"+envSandboxKey+", else "+demoSandboxKey+")")
	flags.StringVar(&f.accessKey, "access-key", "", "access key of the old API (none: the old API refuses every call)")
	flags.StringVar(&f.secretKey, "secret-key", "", "secret of the access key (default $"+envSandboxSecret+")")
	flags.DurationVar(&f.tolerance, "tolerance", sandbox.DefaultTolerance, "how far ts may be from the clock")
	flags.DurationVar(&f.validationDelay, "validation-delay", sandbox.DefaultValidationDelay, "age at which a record is validated; negative: at once")
	flags.BoolVar(&f.strict, "strict", false, "instances that were not declared are unknown")
	flags.BoolVar(&f.atUpload, "instances-at-upload", false, "refuse unknown and foreign instances at upload instead of in the background")
	flags.BoolVar(&f.lateFormats, "formats-in-background", false, "leave malformed times and values to the background validation")
	flags.StringVar(&f.form, "signature-form", "any", "form of the body that must have been signed: any, raw or sorted")
	flags.StringVar(&f.collection, "collection", string(sandbox.CollectHourly), "billing cycle: hourly (minute 15) or daily (01:00)")
	flags.StringVar(&f.zone, "zone", "", "time zone of the daily collection (default UTC+8)")
	flags.StringArrayVar(&f.faults, "fault", nil, "inject a fault, such as kind=latency,delay=2s,count=3 (repeatable)")
	flags.StringVar(&f.state, "state", "", "file that keeps the records across restarts (default: memory only)")
	flags.BoolVar(&f.stateSync, "state-sync", false, "force the state file to disk before each answer")
	flags.IntVar(&f.maxRecords, "max-records", sandbox.DefaultMaxRecords, "records kept at most; calls above it are refused")
	flags.BoolVar(&f.adminAnywhere, "admin-anywhere", false, "open the page and /sandbox/ to other machines (there is no login)")
	flags.StringVar(&f.tlsCert, "tls-cert", "", "certificate file (PEM); serve HTTPS")
	flags.StringVar(&f.tlsKey, "tls-key", "", "key file (PEM) of the certificate")
	flags.BoolVar(&f.selfSigned, "self-signed", false, "serve HTTPS with a certificate that no client should accept")
	flags.BoolVar(&f.verbose, "verbose", false, "log accepted calls too")
	return cmd
}

// runSandbox serves until the context ends.
func runSandbox(ctx context.Context, f sandboxFlags, stdout, stderr io.Writer) error {
	clock, err := newMachineClock()
	if err != nil {
		return err
	}
	opts, err := f.options(clock.Now, stderr)
	if err != nil {
		return &usageError{err}
	}
	tlsConfig, err := f.tls(opts.Now)
	if err != nil {
		return &usageError{err}
	}
	sb, err := sandbox.New(opts)
	if err != nil {
		return fmt.Errorf("start sandbox: %w", err)
	}
	err = serveSandbox(ctx, f, sb, tlsConfig, opts.Logger, stdout)
	return errors.Join(err, sb.Close())
}

// options turns the flags into the sandbox's options.
func (f sandboxFlags) options(now func() time.Time, stderr io.Writer) (sandbox.Options, error) {
	level := slog.LevelInfo
	if f.verbose {
		level = slog.LevelDebug
	}
	opts := sandbox.Options{
		Now:                 now,
		Logger:              slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level})).With("component", "sandbox"),
		Key:                 firstOf(f.key, os.Getenv(envSandboxKey), demoSandboxKey),
		Tolerance:           f.tolerance,
		ValidationDelay:     f.validationDelay,
		Strict:              f.strict,
		InstancesAtUpload:   f.atUpload,
		FormatsInBackground: f.lateFormats,
		Collection:          sandbox.Collection(f.collection),
		MaxRecords:          f.maxRecords,
		StateFile:           f.state,
		SyncState:           f.stateSync,
		AdminAnywhere:       f.adminAnywhere,
	}
	var errs []error
	switch f.form {
	case "any":
	case string(sandbox.FormRaw), string(sandbox.FormSorted):
		opts.RequireForm = sandbox.SignatureForm(f.form)
	default:
		errs = append(errs, fmt.Errorf("--signature-form: must be any, raw or sorted (got %q)", f.form))
	}
	if f.collection != string(sandbox.CollectHourly) && f.collection != string(sandbox.CollectDaily) {
		errs = append(errs, fmt.Errorf("--collection: must be hourly or daily (got %q)", f.collection))
	}
	if f.tolerance <= 0 {
		errs = append(errs, fmt.Errorf("--tolerance: must be above 0 (got %s)", f.tolerance))
	}
	if f.maxRecords <= 0 {
		errs = append(errs, fmt.Errorf("--max-records: must be above 0 (got %d)", f.maxRecords))
	}
	secret := firstOf(f.secretKey, os.Getenv(envSandboxSecret))
	switch {
	case f.accessKey != "" && secret == "":
		errs = append(errs, errors.New("--access-key: give its secret with --secret-key or $"+envSandboxSecret))
	case f.accessKey != "":
		opts.AccessKeys = map[string]string{f.accessKey: secret}
	case f.secretKey != "":
		errs = append(errs, errors.New("--secret-key: give the access key with --access-key"))
	}
	if f.zone != "" {
		zone, err := time.LoadLocation(f.zone)
		if err != nil {
			errs = append(errs, fmt.Errorf("--zone: %w", err))
		}
		opts.Zone = zone
	}
	for _, text := range f.faults {
		fault, err := sandbox.ParseFault(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("--fault: %w", err))
		}
		opts.Faults = append(opts.Faults, fault)
	}
	return opts, errors.Join(errs...)
}

// tls gives the TLS configuration, nil for plain HTTP.
func (f sandboxFlags) tls(now func() time.Time) (*tls.Config, error) {
	var cert tls.Certificate
	var err error
	switch {
	case f.selfSigned && (f.tlsCert != "" || f.tlsKey != ""):
		return nil, errors.New("--self-signed: not together with --tls-cert and --tls-key")
	case f.selfSigned:
		cert, err = selfSignedCertificate(now())
	case f.tlsCert == "" && f.tlsKey == "":
		return nil, nil
	case f.tlsCert == "" || f.tlsKey == "":
		return nil, errors.New("--tls-cert and --tls-key must be given together")
	default:
		cert, err = tls.LoadX509KeyPair(f.tlsCert, f.tlsKey)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, nil
}

// selfSignedCertificate makes a certificate that nobody vouches for.
func selfSignedCertificate(now time.Time) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "meterd sandbox"},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// serveSandbox listens, says where, and stops gracefully when the context ends.
func serveSandbox(ctx context.Context, f sandboxFlags, sb *sandbox.Sandbox, tlsConfig *tls.Config, logger *slog.Logger, stdout io.Writer) error {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", f.listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	scheme := "http"
	if tlsConfig != nil {
		scheme = "https"
		listener = tls.NewListener(listener, tlsConfig)
	}
	server := &http.Server{
		Handler:           sb,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       15 * time.Minute, // An injected latency comes before the body is read.
		WriteTimeout:      30 * time.Minute,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
		// Requests that wait for an injected delay end with the command.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	printSandbox(stdout, f, scheme+"://"+listener.Addr().String())
	if addr, err := netip.ParseAddrPort(listener.Addr().String()); err == nil && !addr.Addr().IsLoopback() {
		logger.Warn("the sandbox listens beyond this machine", "listen", listener.Addr().String(), "admin_anywhere", f.adminAnywhere)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }() // Ends with Shutdown or Close below.
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		return errors.Join(fmt.Errorf("stop: %w", err), server.Close())
	}
	return nil
}

// printSandbox says where everything is. It never prints a key that somebody chose.
func printSandbox(w io.Writer, f sandboxFlags, base string) {
	key := "as given"
	if firstOf(f.key, os.Getenv(envSandboxKey)) == "" {
		key = demoSandboxKey + " (default)"
	}
	fmt.Fprintf(w, `marketplace sandbox
  page        %[1]s/
  new API     POST %[1]s%[2]s
  old API     POST %[1]s%[3]s
  records     %[1]s/sandbox/v1/records
  CSV         %[1]s/sandbox/v1/records.csv
  seller key  %[4]s
`, base, sandbox.PathNew, sandbox.PathOld, key)
}

// firstOf is the first text that is not empty.
func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}
