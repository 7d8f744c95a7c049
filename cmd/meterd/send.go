package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/internal/sender"
)

// envSendKey is the environment variable with the API key of meterd send.
const envSendKey = "METERD_KEY"

// sendFlags are the flags of meterd send.
type sendFlags struct {
	url, keyFile, caFile string
	format               string

	eventType, source      string
	subject, subjectPrefix string
	spread                 int
	time, timeLayout, zone string
	id                     string
	data                   []string
	delimiter              string

	shiftTo, shiftLastTo string
	limit, rate          int64
	batch, concurrency   int
	gzip                 bool
	timeout, retryFor    time.Duration
	dryRun, json, quiet  bool
}

func newSendCommand() *cobra.Command {
	var f sendFlags
	cmd := &cobra.Command{
		Use:   "send FILE…",
		Short: "Send usage events from files to a daemon",
		Long: `send reads usage events from files ("-" is standard input, .gz is unpacked) and posts them to a daemon in
batches. Files are CloudEvents in JSON (one object, an array, or NDJSON) or tables (CSV with a line of
column names, mapped by flags).

Everything can be sent again after an error or an interruption: events keep their ids, and the daemon
counts each once. The first event that can't be read or that the daemon refuses ends the command with
its file and line.

The API key comes from --key-file or ` + envSendKey + `.

Exit codes: 0 everything was accepted, 1 something failed, 2 wrong usage.`,
		Example: `  meterd send events.ndjson
  meterd send --type prompt --subject tenant --time at --data tokens=total_tokens usage.csv.gz
  meterd send --type vm.hour --spread-subjects 50 --subject-prefix vm --time TIMESTAMP --shift-last-to now trace.csv`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return &usageError{errors.New(`no file; name the files to send, or "-" for standard input`)}
			}
			return nil
		},
	}
	f.register(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return runSend(cmd, f, args) }
	return cmd
}

func (f *sendFlags) register(cmd *cobra.Command) {
	url := os.Getenv("METERD_URL")
	if url == "" {
		url = "http://127.0.0.1:8080"
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.StringVar(&f.url, "url", url, "address of the daemon (or METERD_URL)")
	fl.StringVar(&f.keyFile, "key-file", "", "file with the API key (or the key itself in "+envSendKey+")")
	fl.StringVar(&f.caFile, "ca-file", "", "PEM file of authorities trusted beside the system's")
	fl.StringVar(&f.format, "format", "auto", "auto (by extension or content), json or csv")

	fl.StringVar(&f.eventType, "type", "", "CSV: type of the events")
	fl.StringVar(&f.source, "source", "meterd-send", "CSV: source of the events; with the id it identifies an event")
	fl.StringVar(&f.subject, "subject", "", "CSV: column of the subject, or =TEXT for the same subject everywhere")
	fl.IntVar(&f.spread, "spread-subjects", 0, "CSV: give row n (from 0) the subject PREFIX-(n modulo this number)")
	fl.StringVar(&f.subjectPrefix, "subject-prefix", "instance", "CSV: PREFIX of --spread-subjects")
	fl.StringVar(&f.time, "time", "", "CSV: column of the time")
	fl.StringVar(&f.timeLayout, "time-layout", "auto", "CSV: rfc3339, datetime, unix, unix-ms, auto, or a layout such as 02.01.2006 15:04")
	fl.StringVar(&f.zone, "zone", "UTC", "CSV: time zone of times that name none, such as Asia/Shanghai")
	fl.StringVar(&f.id, "id", "auto", "CSV: column of unique ids; auto derives them from file name, row number and content")
	fl.StringArrayVar(&f.data, "data", nil, "CSV: name=COLUMN puts a column into the events' data (repeatable)")
	fl.StringVar(&f.delimiter, "delimiter", ",", `CSV: character between cells; \t for a tab`)

	fl.StringVar(&f.shiftTo, "shift-to", "", "move all times alike, the first event to this time (RFC 3339 or now)")
	fl.StringVar(&f.shiftLastTo, "shift-last-to", "", "move all times alike, the last event to this time; reads files twice")
	fl.Int64Var(&f.limit, "limit", 0, "send at most so many events (0: all)")
	fl.Int64Var(&f.rate, "rate", 0, "send at most so many events a second (0: as fast as accepted)")
	fl.IntVar(&f.batch, "batch", sender.DefaultBatch, "events in a request")
	fl.IntVar(&f.concurrency, "concurrency", sender.DefaultConcurrency, "requests at a time")
	fl.BoolVar(&f.gzip, "gzip", false, "compress requests")
	fl.DurationVar(&f.timeout, "timeout", sender.DefaultTimeout, "time for one request")
	fl.DurationVar(&f.retryFor, "retry-for", sender.DefaultRetryFor, "how long to repeat a batch before giving up")
	fl.BoolVar(&f.dryRun, "dry-run", false, "write the events to standard output as NDJSON instead of sending them")
	fl.BoolVar(&f.json, "json", false, "write the summary as JSON")
	fl.BoolVar(&f.quiet, "quiet", false, "show no progress")
}

// runSend executes the command.
func runSend(cmd *cobra.Command, f sendFlags, files []string) error {
	ctx := cmd.Context()
	stdin := cmd.InOrStdin()
	if slices.Contains(files, "-") {
		stdin = interruptible(ctx, stdin)
	}
	fileOptions, err := f.fileOptions(stdin)
	if err != nil {
		return &usageError{err}
	}
	options, err := f.options()
	if err != nil {
		return &usageError{err}
	}
	open := func() (*sender.FileSource, error) { return sender.NewFileSource(files, fileOptions) }
	input, err := open()
	if err != nil {
		return err
	}
	defer func() { _ = input.Close() }()
	src, err := f.shifted(ctx, input, open)
	if err != nil {
		return asUsage(err)
	}
	if f.dryRun {
		return asUsage(writeEvents(ctx, cmd.OutOrStdout(), src, f.limit))
	}
	status := newSendStatus(cmd.ErrOrStderr(), input, f.quiet)
	options.Logger = slog.New(slog.NewTextHandler(status, &slog.HandlerOptions{Level: slog.LevelWarn}))
	options.OnAccepted = func(_ sender.BatchInfo, sofar sender.Summary) { status.show(sofar) }
	if options.Key != "" && sender.PlainRemote(f.url) {
		fmt.Fprintln(status, "Warning: the API key goes to another machine over plain http; use https")
	}
	summary, err := sender.Send(ctx, options, src)
	status.clear()
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = errors.New("interrupted; the same command again sends the same events, and each counts once")
	}
	if werr := writeSendSummary(cmd.OutOrStdout(), summary, err, f.json); werr != nil {
		return errors.Join(err, werr)
	}
	return asUsage(err)
}

// interruptible returns a reader of r whose Read ends when ctx does: a terminal or a pipe may never give another byte. The
// goroutine ends with r or, if r never does, with the process.
func interruptible(ctx context.Context, r io.Reader) io.Reader {
	pr, pw := io.Pipe()
	context.AfterFunc(ctx, func() { _ = pw.CloseWithError(context.Cause(ctx)) })
	go func() {
		_, err := io.Copy(pw, r)
		_ = pw.CloseWithError(err)
	}()
	return pr
}

// asUsage makes mistakes in the mapping usage errors, although they show only when a table is read.
func asUsage(err error) error {
	if errors.Is(err, sender.ErrMapping) {
		return &usageError{err}
	}
	return err
}

// options are those of the sender, without hooks.
func (f sendFlags) options() (sender.Options, error) {
	key, err := f.key()
	if err != nil {
		return sender.Options{}, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.caFile != "" {
		pem, err := os.ReadFile(f.caFile)
		if err != nil {
			return sender.Options{}, fmt.Errorf("--ca-file: %w", err)
		}
		if config.RootCAs, err = x509.SystemCertPool(); err != nil {
			config.RootCAs = x509.NewCertPool()
		}
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return sender.Options{}, fmt.Errorf("--ca-file: no PEM certificate in %s", f.caFile)
		}
	}
	o := sender.Options{
		URL: f.url, Key: key, Client: sender.NewHTTPClient(config), Batch: f.batch, Concurrency: f.concurrency,
		Gzip: f.gzip, Limit: f.limit, Rate: f.rate, Timeout: f.timeout, RetryFor: f.retryFor, Now: time.Now,
	}
	return o, o.Validate()
}

func (f sendFlags) key() (sender.Secret, error) {
	if f.keyFile == "" {
		return sender.Secret(os.Getenv(envSendKey)), nil
	}
	key, err := os.ReadFile(f.keyFile)
	if err != nil {
		return "", fmt.Errorf("--key-file: %w", err)
	}
	if text := strings.TrimSpace(string(key)); text != "" {
		return sender.Secret(text), nil
	}
	return "", fmt.Errorf("--key-file: %s is empty", f.keyFile)
}

// fileOptions says how to read the files. Flags for tables are checked only if one of them is used: JSON needs none.
func (f sendFlags) fileOptions(stdin io.Reader) (sender.FileOptions, error) {
	o := sender.FileOptions{Format: sender.Format(f.format), Stdin: stdin}
	var errs []error
	if !slices.Contains([]sender.Format{sender.FormatAuto, sender.FormatJSON, sender.FormatCSV}, o.Format) {
		errs = append(errs, fmt.Errorf("format %q: must be auto, json or csv", f.format))
	}
	fault := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	layout, err := sender.ParseTimeLayout(f.timeLayout)
	fault(err)
	zone, err := time.LoadLocation(f.zone)
	if err != nil {
		fault(fmt.Errorf("zone %q: %w", f.zone, err))
	}
	o.CSV = sender.CSVOptions{
		Type: f.eventType, Source: f.source, SpreadSubjects: f.spread, TimeColumn: f.time, TimeLayout: layout, Zone: zone,
	}
	if constant, ok := strings.CutPrefix(f.subject, "="); ok {
		o.CSV.Subject = constant
	} else {
		o.CSV.SubjectColumn = f.subject
	}
	if f.spread != 0 {
		o.CSV.SubjectPrefix = f.subjectPrefix
	}
	if f.id != "auto" {
		o.CSV.IDColumn = f.id
	}
	for _, d := range f.data {
		name, column, _ := strings.Cut(d, "=")
		o.CSV.Data = append(o.CSV.Data, sender.DataColumn{Name: name, Column: column})
	}
	delimiter := strings.ReplaceAll(f.delimiter, `\t`, "\t")
	comma, size := utf8.DecodeRuneInString(delimiter)
	if size == 0 || size != len(delimiter) {
		fault(fmt.Errorf("delimiter %q: must be one character", f.delimiter))
	}
	o.CSV.Comma = comma
	if f.eventType != "" || f.time != "" || f.subject != "" || f.spread != 0 || len(f.data) > 0 || o.Format == sender.FormatCSV {
		fault(o.CSV.Validate())
	}
	if f.shiftTo != "" && f.shiftLastTo != "" {
		fault(errors.New("--shift-to and --shift-last-to can't be used together"))
	}
	return o, errors.Join(errs...)
}

// shifted applies --shift-to or --shift-last-to.
func (f sendFlags) shifted(
	ctx context.Context, src *sender.FileSource, open func() (*sender.FileSource, error),
) (sender.Source, error) {
	switch {
	case f.shiftTo != "":
		to, err := parseShift(f.shiftTo)
		if err != nil {
			return nil, &usageError{fmt.Errorf("--shift-to: %w", err)}
		}
		return sender.ShiftFirstTo(src, to), nil
	case f.shiftLastTo != "":
		to, err := parseShift(f.shiftLastTo)
		if err != nil {
			return nil, &usageError{fmt.Errorf("--shift-last-to: %w", err)}
		}
		if _, size := src.Progress(); size < 0 {
			return nil, &usageError{errors.New("--shift-last-to reads the input twice, so it needs files, not a stream")}
		}
		again, err := open()
		if err != nil {
			return nil, err
		}
		last, err := sender.LastTime(ctx, again, f.limit)
		if err = errors.Join(err, again.Close()); err != nil {
			return nil, fmt.Errorf("find the last time: %w", err)
		}
		return sender.ShiftBy(src, to.Sub(last)), nil
	default:
		return src, nil
	}
}

func parseShift(text string) (time.Time, error) {
	if text == "now" {
		return time.Now().UTC(), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q must be now or a time like 2026-01-02T15:04:05Z", text)
	}
	return at, nil
}

// writeEvents is --dry-run.
func writeEvents(ctx context.Context, w io.Writer, src sender.Source, limit int64) error {
	bw := bufio.NewWriter(w)
	var line []byte
	for n := int64(0); (limit == 0 || n < limit) && ctx.Err() == nil; n++ {
		e, err := src.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			line, err = e.AppendJSON(line[:0])
		}
		if err != nil {
			return errors.Join(err, bw.Flush())
		}
		if _, err := bw.Write(append(sender.OneLine(line), '\n')); err != nil {
			return fmt.Errorf("write events: %w", err)
		}
	}
	return bw.Flush()
}
