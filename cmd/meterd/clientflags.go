package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/internal/sender"
)

// Environment variables of the commands that ask a running daemon. METERD_URL is that of meterd send.
const (
	envServer     = "METERD_SERVER"
	envClientKey  = "METERD_KEY"
	defaultServer = "http://127.0.0.1:8080"
)

// The forms of output.
const (
	outputText = "text"
	outputJSON = "json"
	outputCSV  = "csv"
)

// clientHelp ends the help of every command that asks a daemon.
const clientHelp = `

The daemon is named by --server or ` + envServer + `. The API key comes from --key-file or ` + envClientKey + `, never from a flag, which
other users of the machine could read; a daemon without keys serves its own machine.

Exit codes: 0 success, 1 failure at run time, 2 wrong usage.`

// clientFlags are the flags of every command that asks a daemon.
type clientFlags struct {
	server, keyFile, caFile string
	certFile, certKeyFile   string
	timeout                 time.Duration
	output                  string
	outputs                 []string
}

// register adds the flags. outputs are the possible forms of output, the first one is the default; none: no --output.
func (f *clientFlags) register(cmd *cobra.Command, timeout time.Duration, outputs ...string) {
	f.outputs = outputs
	server := cmp.Or(os.Getenv(envServer), os.Getenv("METERD_URL"), defaultServer)
	fl := cmd.Flags()
	fl.SortFlags = false
	if len(outputs) > 0 {
		fl.StringVarP(&f.output, "output", "o", outputs[0], "form of the output: "+strings.Join(outputs, ", "))
	}
	fl.StringVar(&f.server, "server", server, "address of the daemon (or "+envServer+")")
	fl.StringVar(&f.keyFile, "key-file", "", "file with the API key (or the key itself in "+envClientKey+")")
	fl.StringVar(&f.caFile, "ca-file", "", "PEM file of authorities trusted beside the system's")
	fl.StringVar(&f.certFile, "cert-file", "", "client certificate (PEM), for a daemon that wants one")
	fl.StringVar(&f.certKeyFile, "cert-key-file", "", "key (PEM) of the client certificate")
	fl.DurationVar(&f.timeout, "timeout", timeout, "time for one request")
}

// client checks the flags and makes the client. Faults are usage errors; a warning goes to stderr.
func (f *clientFlags) client(stderr io.Writer) (*apiClient, error) {
	base, err := serverURL(f.server)
	key, keyErr := readAPIKey(f.keyFile, os.Getenv(envClientKey))
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	roots, caErr := trustedRoots(f.caFile)
	config.RootCAs = roots
	faults := []error{err, keyErr, caErr}
	if f.certFile != "" || f.certKeyFile != "" {
		certificate, err := tls.LoadX509KeyPair(f.certFile, f.certKeyFile)
		if err != nil {
			faults = append(faults, fmt.Errorf("--cert-file, --cert-key-file: %w", err))
		}
		config.Certificates = []tls.Certificate{certificate}
	}
	if len(f.outputs) > 0 && !slices.Contains(f.outputs, f.output) {
		faults = append(faults, fmt.Errorf("--output: must be one of %s (got %q)", strings.Join(f.outputs, ", "), f.output))
	}
	if f.timeout <= 0 {
		faults = append(faults, fmt.Errorf("--timeout: must be above 0 (got %s)", f.timeout))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, &usageError{err}
	}
	if key != "" && sender.PlainRemote(f.server) {
		fmt.Fprintln(stderr, "Warning: the API key goes to another machine over plain http; use https")
	}
	return &apiClient{
		base: base, key: key, timeout: f.timeout,
		http: sender.NewHTTPClient(config),
	}, nil
}

// serverURL checks the address of a daemon. Faults don't repeat it: it may hold a password.
func serverURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("--server: not a URL; it must be like " + defaultServer)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("--server: must not hold a user, a query or a fragment")
	case (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "":
		return nil, errors.New("--server: must be like " + defaultServer)
	}
	return u, nil
}

// readAPIKey returns the key of a file, or else of the environment. Faults never repeat it.
func readAPIKey(file, environment string) (sender.Secret, error) {
	key, source := environment, envClientKey
	if file != "" {
		text, err := os.ReadFile(file) //nolint:gosec // the user chose the file
		if err != nil {
			return "", fmt.Errorf("--key-file: %w", err)
		}
		key, source = strings.TrimSpace(string(text)), "--key-file: "+file
		if key == "" {
			return "", fmt.Errorf("%s is empty", source)
		}
	}
	if strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%s: the key must be printable ASCII without blanks and line breaks", source)
	}
	return sender.Secret(key), nil
}

// trustedRoots returns the system's authorities and those of the file; nil means the system's alone.
func trustedRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil //nolint:nilnil // nil is the system's pool for package tls
	}
	pem, err := os.ReadFile(file) //nolint:gosec // the user chose the file
	if err != nil {
		return nil, fmt.Errorf("--ca-file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // no system store, as in a minimal container: the file alone
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--ca-file: no PEM certificate in %s", file)
	}
	return pool, nil
}
