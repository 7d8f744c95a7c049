package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

const (
	deadLettersPath = "api/v1/dead-letters"
	// replayChunk is how many letters one request replays: few enough for the daemon's time of a request.
	replayChunk = 200
)

// deadLetter is a refused event in the API's answers.
type deadLetter struct {
	ID           uint64          `json:"id"`
	ReceivedAt   time.Time       `json:"received_at"`
	Reason       string          `json:"reason"`
	Field        string          `json:"field"`
	Meter        string          `json:"meter"`
	Detail       string          `json:"detail"`
	Acknowledged bool            `json:"acknowledged"`
	Event        json.RawMessage `json:"event"`
	Raw          []byte          `json:"raw"`
	Truncated    bool            `json:"truncated"`
}

// replayResult is what became of one replayed letter.
type replayResult struct {
	ID     uint64 `json:"id"`
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
	Field  string `json:"field,omitempty"`
	Meter  string `json:"meter,omitempty"`
	Detail string `json:"detail,omitempty"`
}

func newDeadLettersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dead-letters",
		Short: "Look at refused events of a running daemon and send them again",
		Long: `Look at the events that a running daemon refused, and send them through intake again after the reason was
mended, for example after a meter was declared.`,
		Args: noSubcommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDeadLettersListCommand(), newDeadLettersShowCommand(), newDeadLettersReplayCommand())
	return cmd
}

func newDeadLettersListCommand() *cobra.Command {
	var f clientFlags
	var after uint64
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List refused events, oldest first",
		Long:  "List refused events, oldest first. ACKED says that the sender was told that the event is taken." + clientHelp,
		Args:  cobra.NoArgs,
	}
	f.register(cmd, listTimeout, "table", outputJSON)
	cmd.Flags().IntVar(&limit, "limit", 100, "list at most so many (1 to 1000)")
	cmd.Flags().Uint64Var(&after, "after", 0, "go on behind this id")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if limit < 1 || limit > 1000 {
			return &usageError{fmt.Errorf("--limit: must be from 1 to 1000 (got %d)", limit)}
		}
		client, err := f.client(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		page, raw, err := client.deadLetters(cmd, after, limit)
		if err != nil {
			return err
		}
		if f.output == outputJSON {
			return writeJSONValue(cmd.OutOrStdout(), raw)
		}
		return writeDeadLetters(cmd.OutOrStdout(), cmd.ErrOrStderr(), page)
	}
	return cmd
}

// deadLetterPage is a page of refused events.
type deadLetterPage struct {
	DeadLetters []deadLetter `json:"dead_letters"`
	Next        uint64       `json:"next"` // goes on behind this id; 0 if there is nothing more
}

func (c *apiClient) deadLetters(cmd *cobra.Command, after uint64, limit int) (page deadLetterPage, raw json.RawMessage, err error) {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if after > 0 {
		query.Set("after", strconv.FormatUint(after, 10))
	}
	if err := c.getJSON(cmd.Context(), deadLettersPath, query, &raw); err != nil {
		return page, nil, err
	}
	if err := json.Unmarshal(raw, &page); err != nil {
		return page, nil, fmt.Errorf("the answer can't be read: %w", err)
	}
	return page, raw, nil
}

func writeDeadLetters(stdout, stderr io.Writer, page deadLetterPage) error {
	if len(page.DeadLetters) == 0 {
		_, err := fmt.Fprintln(stdout, "no refused events are kept")
		return err
	}
	t := newTable(stdout, "ID", "RECEIVED", "REASON", "FIELD", "METER", "ACKED", "DETAIL")
	for _, l := range page.DeadLetters {
		acked := "no"
		if l.Acknowledged {
			acked = "yes"
		}
		t.row(strconv.FormatUint(l.ID, 10), showTime(l.ReceivedAt), l.Reason, l.Field, l.Meter, acked, l.Detail)
	}
	if page.Next > 0 {
		fmt.Fprintf(stderr, "There are more: --after %d\n", page.Next)
	}
	return t.flush()
}

func newDeadLettersShowCommand() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show one refused event as it was sent",
		Long:  "Show one refused event as it was sent, and why it was refused." + clientHelp,
		Args:  exactArgs("ID"),
	}
	f.register(cmd, listTimeout, outputText, outputJSON)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ids, err := parseIDs(args)
		if err != nil {
			return &usageError{err}
		}
		client, err := f.client(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		page, raw, err := client.deadLetters(cmd, ids[0]-1, 1)
		if err != nil {
			return err
		}
		if len(page.DeadLetters) != 1 || page.DeadLetters[0].ID != ids[0] {
			return fmt.Errorf("there is no dead letter %d; meterd dead-letters list shows what there is", ids[0])
		}
		if f.output == outputJSON {
			var letters struct {
				DeadLetters []json.RawMessage `json:"dead_letters"`
			}
			if err := json.Unmarshal(raw, &letters); err != nil {
				return fmt.Errorf("the answer can't be read: %w", err)
			}
			return writeJSONValue(cmd.OutOrStdout(), letters.DeadLetters[0])
		}
		return writeDeadLetter(cmd.OutOrStdout(), page.DeadLetters[0])
	}
	return cmd
}

func writeDeadLetter(w io.Writer, l deadLetter) error {
	fmt.Fprintf(w, "dead letter %d\n", l.ID)
	t := newTable(w)
	t.row("  received", showTime(l.ReceivedAt))
	t.row("  reason", l.Reason)
	t.row("  field", l.Field)
	t.row("  meter", l.Meter)
	t.row("  detail", l.Detail)
	t.row("  acknowledged", strconv.FormatBool(l.Acknowledged))
	if err := t.flush(); err != nil {
		return err
	}
	heading := "\nevent"
	if l.Truncated {
		heading += " (only its beginning was kept)"
	}
	fmt.Fprintln(w, heading)
	if l.Event != nil {
		return writeJSONValue(w, l.Event)
	}
	_, err := fmt.Fprintf(w, "%q\n", l.Raw)
	return err
}

func newDeadLettersReplayCommand() *cobra.Command {
	var f clientFlags
	var all bool
	var reason string
	cmd := &cobra.Command{
		Use:   "replay [ID…]",
		Short: "Send refused events through intake again",
		Long: `Send refused events through intake again, each for itself. What is taken now leaves the dead letters after it is
durable; what is refused again stays. An event counts once, however often it is replayed.` + clientHelp + `
With any event that was not taken the exit code is 1.`,
		Example: "  meterd dead-letters replay 17 18\n  meterd dead-letters replay --all --reason unknown_type",
	}
	f.register(cmd, listTimeout, "table", outputJSON)
	cmd.Flags().BoolVar(&all, "all", false, "replay every letter")
	cmd.Flags().StringVar(&reason, "reason", "", "with --all: only letters refused for this reason")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ids, err := parseIDs(args)
		switch {
		case err != nil:
		case all == (len(ids) > 0):
			err = errors.New("give either the ids of dead letters or --all")
		case reason != "" && !all:
			err = errors.New("--reason: is for --all")
		}
		if err != nil {
			return &usageError{err}
		}
		client, err := f.client(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		if all {
			if ids, err = allDeadLetters(cmd, client, reason); err != nil {
				return err
			}
		}
		return replay(cmd, client, ids, f.output == outputJSON)
	}
	return cmd
}

// parseIDs reads ids of dead letters.
func parseIDs(args []string) ([]uint64, error) {
	ids := make([]uint64, 0, len(args))
	for _, arg := range args {
		id, err := strconv.ParseUint(arg, 10, 64)
		if err != nil || id == 0 {
			return nil, fmt.Errorf("ID: must be the number of a dead letter (got %q)", arg)
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// allDeadLetters lists the ids of the letters that exist when it begins: those refused again meanwhile get new ones.
func allDeadLetters(cmd *cobra.Command, client *apiClient, reason string) ([]uint64, error) {
	var ids []uint64
	for after := uint64(0); ; {
		page, _, err := client.deadLetters(cmd, after, 1000)
		if err != nil {
			return nil, err
		}
		for _, l := range page.DeadLetters {
			if reason == "" || l.Reason == reason {
				ids = append(ids, l.ID)
			}
		}
		if page.Next <= after {
			return ids, nil
		}
		after = page.Next
	}
}

// replay sends the letters in chunks. What was done is printed also when a later chunk fails.
func replay(cmd *cobra.Command, client *apiClient, ids []uint64, asJSON bool) error {
	outcome := struct {
		Replayed int            `json:"replayed"`
		Results  []replayResult `json:"results"`
	}{Results: []replayResult{}}
	var failure error
	for chunk := range slices.Chunk(ids, replayChunk) {
		var answer struct {
			Replayed int            `json:"replayed"`
			Results  []replayResult `json:"results"`
		}
		request := struct {
			IDs []uint64 `json:"ids"`
		}{chunk}
		if failure = client.postJSON(cmd.Context(), deadLettersPath+":replay", request, &answer); failure != nil {
			break
		}
		outcome.Replayed += answer.Replayed
		outcome.Results = append(outcome.Results, answer.Results...)
	}
	if failure == nil && outcome.Replayed < len(ids) {
		failure = fmt.Errorf("%d of %s not taken", len(ids)-outcome.Replayed, plural(len(ids), "event was", "events were"))
	}
	if asJSON {
		return errors.Join(writeJSONValue(cmd.OutOrStdout(), outcome), failure)
	}
	if len(outcome.Results) == 0 && failure == nil {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "no refused events to replay")
		return err
	}
	t := newTable(cmd.OutOrStdout(), "ID", "STATUS", "REASON", "DETAIL")
	for _, r := range outcome.Results {
		detail := r.Detail
		if name := cmp.Or(r.Field, r.Meter); name != "" {
			detail = name + ": " + detail
		}
		t.row(strconv.FormatUint(r.ID, 10), r.Status, r.Reason, detail)
	}
	return errors.Join(t.flush(), failure)
}
