package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// maxPrintable bounds a text from outside in the output for people.
const maxPrintable = 500

// printable makes a text from outside fit for a terminal: on one line, bounded, without control characters.
func printable(text string) string { return strings.TrimSpace(onOneLine(text)) }

// onOneLine is printable with the blanks at both ends kept.
func onOneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	if runes := []rune(text); len(runes) > maxPrintable {
		text = string(runes[:maxPrintable]) + "…"
	}
	return text
}

// table writes aligned columns.
type table struct{ w *tabwriter.Writer }

// newTable begins a table; no columns: without a heading.
func newTable(w io.Writer, columns ...string) *table {
	t := &table{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	if len(columns) > 0 {
		t.row(columns...)
	}
	return t
}

// row adds a row. Empty cells are shown as a dash, so that columns can be counted.
func (t *table) row(cells ...string) {
	for i, cell := range cells {
		if cells[i] = onOneLine(cell); strings.TrimSpace(cell) == "" {
			cells[i] = "-"
		}
	}
	// The writer collects; an error shows in flush.
	_, _ = io.WriteString(t.w, strings.Join(cells, "\t")+"\n")
}

func (t *table) flush() error {
	if err := t.w.Flush(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// writeJSONValue writes a value as indented JSON.
func writeJSONValue(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// showTime is a time for people, in UTC; empty for the zero time.
func showTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.999Z07:00")
}

// showWindow is an interval for people, with the date of the end only if it is another one.
func showWindow(start, end time.Time) string {
	layout := "15:04Z"
	if start.UTC().Format(time.DateOnly) != end.UTC().Format(time.DateOnly) && end.Sub(start) > 24*time.Hour {
		layout = "2006-01-02 15:04Z"
	}
	return start.UTC().Format("2006-01-02 15:04") + " to " + end.UTC().Format(layout)
}

// plural counts things for people.
func plural[N int | uint64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
