package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/meterd/meterd/internal/sender"
)

const (
	backfillPath = "api/v1/events:backfill"
	// backfillChunk and backfillChunkBytes bound one request, well below what a daemon takes by default.
	backfillChunk      = 5000
	backfillChunkBytes = 8 << 20
	// maxBackfillBytes bounds what is kept in memory between preview and commit.
	maxBackfillBytes = 512 << 20
)

func newBackfillCommand() *cobra.Command {
	var f actFlags
	cmd := &cobra.Command{
		Use:   "backfill FILE",
		Short: "Send events that are older than a running daemon ordinarily takes",
		Long: `Send usage events from a file of CloudEvents in JSON (one object, an array, or NDJSON; "-" is standard input, .gz is
unpacked) that are older than ingest.max_age, up to the age that the daemon takes in a backfill. Every event needs a time.
What they would change is shown before anything is sent: usage of hours that are billed already is booked by the meter's
policy for late usage. For tables, meterd send --dry-run writes events that this command takes.

An event counts once: the same file can be sent again after an error.` + actHelp + clientHelp,
		Example: `  meterd backfill january.ndjson --reason "collector was down on January 3rd"
  meterd send --dry-run --type prompt --subject tenant --time at usage.csv | meterd backfill - --reason "import" --yes`,
		Args: exactArgs("FILE"),
	}
	f.register(cmd, outputText, outputJSON)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return runBackfill(cmd, f, args[0]) }
	return cmd
}

// backfillRequest is one request of a backfill.
type backfillRequest struct {
	body  []byte // a JSON array
	token string
	first int // number of its first event, from 1
}

func runBackfill(cmd *cobra.Command, f actFlags, file string) error {
	client, err := f.begin(cmd)
	if err != nil {
		return err
	}
	in := cmd.InOrStdin()
	if file == "-" {
		if !f.yes && !f.dryRun {
			return &usageError{errors.New("with events on standard input nobody can be asked; give --yes or --dry-run")}
		}
		in = interruptible(cmd.Context(), in)
	}
	requests, err := readBackfill(file, in)
	if err != nil {
		return err
	}
	query := url.Values{"reason": {f.reason}}
	if f.behalf != "" {
		query.Set("on_behalf_of", f.behalf)
	}
	var sum effectSum
	for i := range requests {
		answer, err := client.backfill(cmd, query, &requests[i])
		if err != nil {
			return err
		}
		requests[i].token = answer.Token
		sum.add(answer.Effect)
	}
	asJSON := f.output == outputJSON
	shown := cmd.OutOrStdout()
	if asJSON {
		shown = cmd.ErrOrStderr()
	}
	if err := writeEffect(shown, "would be taken", sum.Effect); err != nil {
		return err
	}
	ok, err := f.confirm(cmd, "Take them?")
	if err != nil {
		return err
	}
	if ok {
		if err := commitBackfill(cmd, client, query, requests); err != nil {
			return err
		}
	}
	if asJSON {
		return writeJSONValue(cmd.OutOrStdout(), effectAnswer{Committed: ok, Effect: sum.Effect})
	}
	if ok {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "taken %s\n", plural(sum.Events, "event", "events"))
	}
	return err
}

// backfill makes one request: a preview, or the commit if the query has its token.
func (c *apiClient) backfill(cmd *cobra.Command, query url.Values, r *backfillRequest) (effectAnswer, error) {
	var answer effectAnswer
	err := c.do(cmd.Context(), http.MethodPost, backfillPath, query, "application/json", r.body, readJSONAnswer(backfillPath, &answer))
	if err != nil && r.first > 1 {
		err = fmt.Errorf("in the request that begins with event %d: %w", r.first, err)
	}
	return answer, err
}

// commitBackfill commits one request after the other. What an earlier run committed already is no error.
func commitBackfill(cmd *cobra.Command, client *apiClient, query url.Values, requests []backfillRequest) error {
	for i := range requests {
		query.Set("commit", requests[i].token)
		_, err := client.backfill(cmd, query, &requests[i])
		var p *problemError
		if errors.As(err, &p) && p.Effect != nil && p.Effect.Already == p.Effect.Events && len(p.Effect.Lines) == 0 {
			err = nil
		}
		if err != nil {
			done := ""
			if i > 0 {
				done = fmt.Sprintf(" (%s before it taken; the same command again goes on, and every event counts once)", plural(requests[i].first-1, "event was", "events were"))
			}
			return effectChanged(cmd, fmt.Errorf("%w%s", err, done))
		}
	}
	return nil
}

// readBackfill reads the file and cuts it into requests.
func readBackfill(file string, stdin io.Reader) ([]backfillRequest, error) {
	source, err := sender.NewFileSource([]string{file}, sender.FileOptions{Format: sender.FormatJSON, Stdin: stdin})
	if err != nil {
		return nil, &usageError{err}
	}
	defer func() { _ = source.Close() }()
	var requests []backfillRequest
	var chunk bytes.Buffer
	count, inChunk, size := 0, 0, 0
	finish := func() {
		if inChunk > 0 {
			chunk.WriteByte(']')
			requests = append(requests, backfillRequest{body: bytes.Clone(chunk.Bytes()), first: count - inChunk + 1})
			chunk.Reset()
			inChunk = 0
		}
	}
	for {
		event, err := source.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		text, err := event.AppendJSON(nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", event.Pos, err)
		}
		if !json.Valid(text) {
			return nil, fmt.Errorf("%s: is not JSON", event.Pos)
		}
		if inChunk == backfillChunk || chunk.Len()+len(text) > backfillChunkBytes {
			finish()
		}
		if inChunk == 0 {
			chunk.WriteByte('[')
		} else {
			chunk.WriteByte(',')
		}
		chunk.Write(text)
		inChunk++
		count++
		if size += len(text); size > maxBackfillBytes {
			return nil, fmt.Errorf("%s: more than %d MiB of events; split the file", event.Pos, maxBackfillBytes>>20)
		}
	}
	finish()
	if count == 0 {
		return nil, fmt.Errorf("%s holds no event", file)
	}
	return requests, nil
}
