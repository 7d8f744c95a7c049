package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/reporter"
)

// maxActRecords is how many records one act is about.
const maxActRecords = 1000

func newBillsRetryCommand() *cobra.Command {
	return newRecordsActCommand("retry", reporter.StatePending, "Send rejected, held or expired records, under the same numbers",
		`Send records that delivery gave up on, or send them again, under the same numbers: for after the reason was mended, for example
a product that the marketplace didn't know. For records that failed in the marketplace's own books see meterd bills resend.`,
		"Send them?")
}

func newBillsWriteOffCommand() *cobra.Command {
	return newRecordsActCommand("write-off", reporter.StateWrittenOff, "Give records up on purpose",
		`Give records up on purpose: their amounts are counted as written off and never billed.`, "Write them off?")
}

func newBillsUnbillableCommand() *cobra.Command {
	return newRecordsActCommand("unbillable", reporter.StateUnbillable, "Mark records that the marketplace's rules leave no way to bill",
		`Mark records that the marketplace's rules leave no way to bill, for example of an instance that was released. Their amounts are
counted as unbillable.`, "Mark them?")
}

func newRecordsActCommand(use string, to reporter.State, short, long, question string) *cobra.Command {
	var f actFlags
	cmd := &cobra.Command{
		Use:     use + " SN…",
		Short:   short,
		Long:    long + actHelp + clientHelp,
		Example: "  meterd bills " + use + ` 0123456789abcdef0123456789abcdef --reason "agreed with the marketplace, ticket 4711"`,
		Args:    recordNumbers,
	}
	f.register(cmd, outputText, outputJSON)
	cmd.RunE = func(cmd *cobra.Command, sns []string) error {
		client, err := f.begin(cmd)
		if err != nil {
			return err
		}
		ok, err := f.confirmRecords(cmd, client, sns, question)
		if err != nil || !ok {
			return err
		}
		request := struct {
			actRequest

			SNs []string `json:"sns"`
			To  string   `json:"to"`
		}{f.request(), sns, to.String()}
		var raw json.RawMessage
		if err := client.postJSON(cmd.Context(), recordsPath+":act", request, &raw); err != nil {
			return err
		}
		if f.output == outputJSON {
			return writeJSONValue(cmd.OutOrStdout(), raw)
		}
		var answer struct {
			Records []billRecord `json:"records"`
		}
		if err := json.Unmarshal(raw, &answer); err != nil {
			return fmt.Errorf("it was done, but the answer can't be read: %w", err)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s now %s\n", plural(len(answer.Records), "record is", "records are"), to)
		return err
	}
	return cmd
}

// recordNumbers checks arguments that are numbers of records.
func recordNumbers(_ *cobra.Command, sns []string) error {
	if len(sns) == 0 || len(sns) > maxActRecords {
		return &usageError{fmt.Errorf("give from 1 to %d numbers of bill records (got %d)", maxActRecords, len(sns))}
	}
	for i, sn := range sns {
		if sn == "" || slices.Contains(sns[:i], sn) {
			return &usageError{fmt.Errorf("SN: %q is empty or occurs more than once", sn)}
		}
	}
	return nil
}

// confirmRecords shows the records as they are and asks.
func (f *actFlags) confirmRecords(cmd *cobra.Command, client *apiClient, sns []string, question string) (bool, error) {
	shown := cmd.OutOrStdout()
	if f.output == outputJSON {
		shown = cmd.ErrOrStderr()
	}
	rows := newTable(shown, "HOUR", "INSTANCE", "METER", "BILLED", "STATE", "CODE", "SN", "MESSAGE")
	for _, sn := range sns {
		var r billRecord
		if err := client.getJSON(cmd.Context(), recordsPath+"/"+url.PathEscape(sn), nil, &r); err != nil {
			return false, fmt.Errorf("nothing was done: record %s: %w", printable(sn), err)
		}
		rows.row(showWindow(r.WindowStart, r.WindowEnd), r.InstanceID, r.Meter, r.Billed, r.State, r.Code, r.SN, r.Message)
	}
	if err := rows.flush(); err != nil {
		return false, err
	}
	return f.confirm(cmd, question)
}

// failure is what the marketplace's own books say about a record.
type failure struct {
	SN      string `json:"sn"`
	Code    string `json:"code"`
	Message string `json:"message,omitempty"`
}

// resendFlags are the flags of meterd bills resend.
type resendFlags struct {
	actFlags

	failed []string
	file   string
}

func newBillsResendCommand() *cobra.Command {
	var f resendFlags
	cmd := &cobra.Command{
		Use:   "resend [SN…]",
		Short: "Report failed records again, under new numbers",
		Long: `Report records again, under new numbers, that the marketplace's own books show as failed. The old ones become replaced
and are linked with the new ones. Success in answer to a push only means received: what failed later shows in the seller's
pages of the marketplace. Records that are accepted here need the failure from there, by --failed or --failures.` + actHelp + clientHelp,
		Example: `  meterd bills resend 0123456789abcdef0123456789abcdef --reason "rejected by the marketplace"
  meterd bills resend --failed 0123456789abcdef0123456789abcdef=005 --reason "failed by the seller's pages"
  meterd bills resend --failures failed.csv --reason "failed by the seller's pages"`,
		Args: func(*cobra.Command, []string) error { return nil },
	}
	f.register(cmd, outputText, outputJSON)
	cmd.Flags().StringArrayVar(&f.failed, "failed", nil, "SN=CODE: the marketplace's books say that it failed with this code (repeatable)")
	cmd.Flags().StringVar(&f.file, "failures", "", "CSV file with columns sn, code and, if you like, message")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return runResend(cmd, f, args) }
	return cmd
}

func runResend(cmd *cobra.Command, f resendFlags, sns []string) error {
	failures, err := f.failures()
	for _, x := range failures {
		if !slices.Contains(sns, x.SN) {
			sns = append(sns, x.SN)
		}
	}
	if err == nil {
		err = recordNumbers(cmd, sns)
	}
	client, err := f.begin(cmd, err)
	if err != nil {
		return err
	}
	ok, err := f.confirmRecords(cmd, client, sns, "Report them again under new numbers?")
	if err != nil || !ok {
		return err
	}
	request := struct {
		actRequest

		SNs      []string  `json:"sns"`
		Failures []failure `json:"failures,omitempty"`
	}{f.request(), sns, failures}
	raw, err := client.book(cmd, recordsPath+":resend", request, f.output != outputJSON)
	if err != nil || f.output != outputJSON {
		return err
	}
	return writeJSONValue(cmd.OutOrStdout(), raw)
}

// failures reads the flags and the file.
func (f *resendFlags) failures() ([]failure, error) {
	var list []failure
	for _, text := range f.failed {
		sn, code, ok := strings.Cut(text, "=")
		if !ok || sn == "" || code == "" {
			return nil, fmt.Errorf("--failed: must be SN=CODE (got %q)", text)
		}
		list = append(list, failure{SN: sn, Code: code})
	}
	if f.file == "" {
		return list, nil
	}
	file, err := os.Open(f.file)
	if err != nil {
		return nil, fmt.Errorf("--failures: %w", err)
	}
	defer file.Close()
	more, err := readFailures(file)
	if err != nil {
		return nil, fmt.Errorf("--failures: %s: %w", f.file, err)
	}
	return append(list, more...), nil
}

// readFailures reads a table of failures.
func readFailures(r io.Reader) ([]failure, error) {
	table := csv.NewReader(r)
	heading, err := table.Read()
	if err != nil {
		return nil, fmt.Errorf("read the column names: %w", err)
	}
	sn, code, message := slices.Index(heading, "sn"), slices.Index(heading, "code"), slices.Index(heading, "message")
	if sn < 0 || code < 0 {
		return nil, errors.New("needs the columns sn and code in its first line")
	}
	var list []failure
	for {
		row, err := table.Read()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		line, _ := table.FieldPos(0)
		x := failure{SN: strings.TrimSpace(row[sn]), Code: strings.TrimSpace(row[code])}
		if message >= 0 {
			x.Message = strings.TrimSpace(row[message])
		}
		if x.SN == "" || x.Code == "" {
			return nil, errors.New("line " + strconv.Itoa(line) + ": sn or code is empty")
		}
		list = append(list, x)
	}
}
