// Package demo holds what `meterd demo` replays and what must come out: the trace, its columns and meters, and an
// independent sum of the file that the marketplace's books are compared with.
//
// The built-in trace is AzureLLMInferenceTrace_code.csv of the Azure Public Dataset (Azure LLM inference trace 2023, licence
// CC-BY 4.0), 8,819 real requests to an LLM inference service on 2023-11-16; see Patel et al., "Splitwise", ISCA 2024. It names
// no customer: rows are spread over instances by row number.
package demo

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"fmt"
	"io"
	"time"
)

//go:embed trace.csv.gz
var trace []byte

// TraceName is the file name of the built-in trace.
const TraceName = "AzureLLMInferenceTrace_code.csv"

// OpenTrace returns the built-in trace as CSV.
func OpenTrace() (io.Reader, error) {
	r, err := gzip.NewReader(bytes.NewReader(trace))
	if err != nil {
		return nil, fmt.Errorf("open built-in trace: %w", err)
	}
	return r, nil
}

// Columns and layout of the trace, and what its events are called.
const (
	TimeColumn      = "TIMESTAMP"
	PromptColumn    = "ContextTokens"
	GeneratedColumn = "GeneratedTokens"
	TimeLayout      = "2006-01-02 15:04:05.9999999"
	EventType       = "llm.request"
	EventSource     = "llm-gateway"
	SubjectPrefix   = "vm"
)

// Subject is the instance that a row belongs to, with rows counted from 0.
func Subject(row, instances int) string { return fmt.Sprintf("%s-%03d", SubjectPrefix, row%instances) }

// Replay says when the trace is replayed: Shift is added to every time of the file, so that the marketplace would still
// take its hours, and Hours are the first and the end of the last hour after the shift.
type Replay struct {
	Shift      time.Duration
	Start, End time.Time
}

// PlanReplay moves the file, by whole hours, so that its last hour has ended and its records are due and collected (minute
// 15 and some) before now.
func PlanReplay(first, last, now time.Time) Replay {
	const settled = 16 * time.Minute
	end := last.UTC().Truncate(time.Hour).Add(time.Hour)
	target := now.UTC().Add(-settled).Truncate(time.Hour)
	shift := target.Sub(end)
	return Replay{Shift: shift, Start: first.UTC().Truncate(time.Hour).Add(shift), End: target}
}
