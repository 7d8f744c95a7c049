package sender_test

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/meterd/meterd/internal/sender"
)

// collect reads a source to its end.
func collect(t rapid.TB, src sender.Source) ([]sender.Event, error) {
	t.Helper()
	var events []sender.Event
	for {
		e, err := src.Next()
		if errors.Is(err, io.EOF) {
			return events, nil
		}
		if err != nil {
			return events, err
		}
		events = append(events, e)
	}
}

// lines encodes events, one a line.
func lines(t rapid.TB, events []sender.Event) string {
	t.Helper()
	var b strings.Builder
	for i := range events {
		text, err := events[i].AppendJSON(nil)
		if err != nil {
			t.Fatalf("AppendJSON: %v", err)
		}
		b.Write(append(sender.OneLine(text), '\n'))
	}
	return b.String()
}

// wireEvent is what a daemon reads of an event.
type wireEvent struct {
	SpecVersion string          `json:"specversion"`
	ID          string          `json:"id"`
	Source      string          `json:"source"`
	Type        string          `json:"type"`
	Subject     string          `json:"subject"`
	Time        time.Time       `json:"time"`
	Data        json.RawMessage `json:"data"`
}

// request is what the server saw of a request.
type request struct {
	header http.Header
	path   string
	body   string // as transmitted
	events []wireEvent
}

// daemon is a server that keeps the requests and the events that a daemon would count: each id once.
type daemon struct {
	*httptest.Server
	mu       sync.Mutex
	requests []request
	counted  map[string]wireEvent
	answer   func(n int, w http.ResponseWriter) bool // n counts from 1; true lets the events count
}

// newDaemon answers 204 if answer is nil.
func newDaemon(t *testing.T, answer func(n int, w http.ResponseWriter) bool) *daemon {
	t.Helper()
	d := &daemon{counted: map[string]wireEvent{}, answer: answer}
	d.Server = httptest.NewServer(http.HandlerFunc(d.serve))
	t.Cleanup(d.Close)
	return d
}

func (d *daemon) serve(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	body := io.Reader(strings.NewReader(string(raw)))
	if r.Header.Get("Content-Encoding") == "gzip" {
		if body, err = gzip.NewReader(body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	var events []wireEvent
	if err := json.NewDecoder(body).Decode(&events); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	d.mu.Lock()
	d.requests = append(d.requests, request{r.Header.Clone(), r.URL.Path, string(raw), events})
	n := len(d.requests)
	d.mu.Unlock()
	if d.answer == nil || d.answer(n, w) {
		d.mu.Lock()
		for _, e := range events {
			d.counted[e.ID] = e
		}
		d.mu.Unlock()
		if d.answer == nil {
			w.WriteHeader(http.StatusNoContent)
		}
	}
}

func (d *daemon) request(i int) request {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.requests[i]
}

func (d *daemon) counts() (requests, events int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.requests), len(d.counted)
}

// options send to the daemon without waiting long.
func (d *daemon) options() sender.Options {
	return sender.Options{URL: d.URL, Now: time.Now, RetryMin: time.Millisecond, RetryMax: 2 * time.Millisecond}
}

// table is a CSV of n rows and its mapping.
func table(n int) (string, sender.CSVOptions) {
	var b strings.Builder
	b.WriteString("at,tokens\n")
	for i := range n {
		b.WriteString(time.Unix(1_700_000_000+int64(i), 0).UTC().Format(time.RFC3339) + ",12\n")
	}
	return b.String(), sender.CSVOptions{
		Type: "prompt", Source: "test", TimeColumn: "at", SpreadSubjects: 3, SubjectPrefix: "vm",
		Data: []sender.DataColumn{{Name: "tokens", Column: "tokens"}},
	}
}

func tableSource(t *testing.T, n int) sender.Source {
	t.Helper()
	text, o := table(n)
	src, err := sender.NewCSVSource(strings.NewReader(text), "table.csv", o)
	if err != nil {
		t.Fatal(err)
	}
	return src
}
