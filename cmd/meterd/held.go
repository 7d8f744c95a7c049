package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const heldPath = "api/v1/held-usage"

// adjustment is an amount that didn't go the ordinary way, in the API's answers.
type adjustment struct {
	ID         string    `json:"id"`
	Booking    uint64    `json:"booking"`
	HourStart  time.Time `json:"hour_start"`
	HourEnd    time.Time `json:"hour_end"`
	Subject    string    `json:"subject"`
	Meter      string    `json:"meter"`
	InstanceID string    `json:"instance_id"`
	Quantity   string    `json:"quantity"`
	Open       string    `json:"open"`
	Into       string    `json:"into"`
	Of         string    `json:"of"`
	Record     string    `json:"record"`
	Reason     string    `json:"reason"`
	Actor      string    `json:"actor"`
	At         time.Time `json:"at"`
}

// booking is a booking in the API's answers.
type booking struct {
	Number      uint64     `json:"number"`
	Kind        string     `json:"kind"`
	WindowStart time.Time  `json:"window_start"`
	WindowEnd   time.Time  `json:"window_end"`
	At          time.Time  `json:"at"`
	Events      uint64     `json:"events"`
	Usages      uint64     `json:"usages"`
	Records     uint64     `json:"records"`
	Adjustments uint64     `json:"adjustments"`
	InstanceID  string     `json:"instance_id"`
	Actor       string     `json:"actor"`
	Reason      string     `json:"reason"`
	SettledAt   *time.Time `json:"settled_at"`
}

// summary says in a line what was booked.
func (b booking) summary() string {
	return fmt.Sprintf("booking %d (%s): %s, %s", b.Number, printable(b.Kind), plural(b.Records, "bill record", "bill records"),
		plural(b.Adjustments, "adjustment", "adjustments"))
}

func newHeldCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "held",
		Short: "Look at held usage of a running daemon, and decide about it",
		Long: `Look at held usage of a running daemon, and decide about it. Usage is held when it came after its hour was billed and
its meter's policy for late usage is hold, and when its instance was frozen. Approved, it is billed with the instance's next
record; written off, it never is.`,
		Args: noSubcommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newHeldListCommand(), newDecideCommand("approve", "approve", "Bill held usage with the next record", "Bill it?"),
		newDecideCommand("write-off", "write_off", "Give held usage up", "Write it off?"))
	return cmd
}

func newHeldListCommand() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List held usage that nobody decided about, oldest booking first",
		Long:  "List held usage that nobody decided about, oldest booking first." + clientHelp,
		Args:  cobra.NoArgs,
	}
	f.register(cmd, listTimeout, "table", outputJSON)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := f.client(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		held, raw, err := client.held(cmd)
		if err != nil {
			return err
		}
		if f.output == outputJSON {
			return writeJSONValue(cmd.OutOrStdout(), struct {
				Held []json.RawMessage `json:"held"`
			}{raw})
		}
		if len(held) == 0 {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "no usage is held")
			return err
		}
		return writeHeld(cmd.OutOrStdout(), held)
	}
	return cmd
}

// held lists all held usage.
func (c *apiClient) held(cmd *cobra.Command) (held []adjustment, raw []json.RawMessage, err error) {
	query := url.Values{"limit": {"1000"}}
	for {
		var page struct {
			Held []json.RawMessage `json:"held"`
			Next string            `json:"next"`
		}
		if err := c.getJSON(cmd.Context(), heldPath, query, &page); err != nil {
			return nil, nil, err
		}
		for _, text := range page.Held {
			var a adjustment
			if err := json.Unmarshal(text, &a); err != nil {
				return nil, nil, fmt.Errorf("the answer can't be read: %w", err)
			}
			held, raw = append(held, a), append(raw, text)
		}
		if page.Next == "" {
			return held, append([]json.RawMessage{}, raw...), nil
		}
		if page.Next == query.Get("after") {
			return nil, nil, fmt.Errorf("the daemon's pages don't go on: after %s comes the same again", printable(page.Next))
		}
		query.Set("after", page.Next)
	}
}

func writeHeld(w io.Writer, held []adjustment) error {
	t := newTable(w, "HOUR", "SUBJECT", "INSTANCE", "METER", "OPEN", "OF", "SINCE", "ID", "WHY")
	for _, a := range held {
		t.row(showWindow(a.HourStart, a.HourEnd), a.Subject, a.InstanceID, a.Meter, a.Open, a.Quantity, showTime(a.At), a.ID, a.Reason)
	}
	return t.flush()
}

// decideFlags are the flags of a decision.
type decideFlags struct {
	actFlags

	all            bool
	subject, meter string
}

func newDecideCommand(use, decision, short, question string) *cobra.Command {
	var f decideFlags
	cmd := &cobra.Command{
		Use:   use + " [ID…]",
		Short: short,
		Long: short + `, by the ids that meterd held list shows, or --all that is held at present. What is left of an amount is decided
about as a whole.` + actHelp + clientHelp,
		Example: "  meterd held " + use + ` 0123456789abcdef0123456789abcdef --reason "agreed with the customer"
  meterd held ` + use + ` --all --subject vm-1 --reason "agreed with the customer"`,
	}
	f.register(cmd, outputText, outputJSON)
	cmd.Flags().BoolVar(&f.all, "all", false, "everything that is held at present")
	cmd.Flags().StringVar(&f.subject, "subject", "", "with --all: only usage of this subject")
	cmd.Flags().StringVar(&f.meter, "meter", "", "with --all: only usage of this meter")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return runDecide(cmd, f, decision, question, args) }
	return cmd
}

// decideChunk is how many amounts one request is about.
const decideChunk = 1000

func runDecide(cmd *cobra.Command, f decideFlags, decision, question string, ids []string) error {
	var fault error
	if f.all == (len(ids) > 0) {
		fault = errors.New("give either ids of held usage or --all")
	} else if !f.all && (f.subject != "" || f.meter != "") {
		fault = errors.New("--subject, --meter: are for --all")
	}
	client, err := f.begin(cmd, fault)
	if err != nil {
		return err
	}
	held, _, err := client.held(cmd)
	if err != nil {
		return err
	}
	chosen, err := chooseHeld(held, f, ids)
	if err != nil {
		return err
	}
	if len(chosen) == 0 {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "no usage is held")
		return err
	}
	shown := cmd.OutOrStdout()
	if f.output == outputJSON {
		shown = cmd.ErrOrStderr()
	}
	if err := writeHeld(shown, chosen); err != nil {
		return err
	}
	ok, err := f.confirm(cmd, question)
	if err != nil || !ok {
		return err
	}
	var done struct {
		Bookings []json.RawMessage `json:"bookings"`
	}
	for len(chosen) > 0 {
		part := chosen[:min(len(chosen), decideChunk)]
		chosen = chosen[len(part):]
		request := struct {
			actRequest

			IDs      []string `json:"ids"`
			Decision string   `json:"decision"`
		}{actRequest: f.request(), Decision: decision}
		for _, a := range part {
			request.IDs = append(request.IDs, a.ID)
		}
		raw, err := client.book(cmd, heldPath+":decide", request, f.output != outputJSON)
		if err != nil {
			return err
		}
		done.Bookings = append(done.Bookings, raw)
	}
	if f.output == outputJSON {
		return writeJSONValue(cmd.OutOrStdout(), done)
	}
	return nil
}

// chooseHeld selects what is to be decided about; an id that isn't held is an error before anything is done.
func chooseHeld(held []adjustment, f decideFlags, ids []string) (chosen []adjustment, err error) {
	byID := map[string]adjustment{}
	for _, a := range held {
		byID[a.ID] = a
		if f.all && (f.subject == "" || a.Subject == f.subject) && (f.meter == "" || a.Meter == f.meter) {
			chosen = append(chosen, a)
		}
	}
	var missing []string
	for _, id := range ids {
		a, ok := byID[id]
		if !ok {
			missing = append(missing, strconv.Quote(printable(id)))
			continue
		}
		delete(byID, id)
		chosen = append(chosen, a)
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("not held, decided about already, or given twice: %s; meterd held list shows what is held", strings.Join(missing, ", "))
	}
	return chosen, nil
}

// book makes an act that ends in a booking, and says what was booked.
func (c *apiClient) book(cmd *cobra.Command, path string, request any, tell bool) (json.RawMessage, error) {
	var answer struct {
		Booking json.RawMessage `json:"booking"`
	}
	if err := c.postJSON(cmd.Context(), path, request, &answer); err != nil {
		return nil, err
	}
	var b booking
	if err := json.Unmarshal(answer.Booking, &b); err != nil {
		return nil, fmt.Errorf("it was done, but the answer can't be read: %w", err)
	}
	if tell {
		fmt.Fprintln(cmd.OutOrStdout(), b.summary())
	}
	return answer.Booking, nil
}
