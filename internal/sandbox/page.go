package sandbox

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// stylePath is where the page's style sheet lies.
const stylePath = "/sandbox.css"

// Rows on the page; the rest is in the CSV and JSON forms.
const (
	pageRecords   = 200
	pageInstances = 50
	pageBills     = 24
	pageCalls     = 50
	maxRefresh    = 3600
)

//go:embed web/page.html web/sandbox.css
var webFiles embed.FS

// page is the parsed page and its style sheet.
type page struct {
	tmpl  *template.Template
	style []byte
}

// newPage parses the embedded files.
func newPage() (*page, error) {
	funcs := template.FuncMap{
		"clock": func(t time.Time) string {
			if t.IsZero() {
				return ""
			}
			return t.UTC().Format("2006-01-02 15:04:05")
		},
		"meaning": recordCodeText,
	}
	tmpl, err := template.New("page.html").Funcs(funcs).ParseFS(webFiles, "web/page.html")
	if err != nil {
		return nil, fmt.Errorf("parse page: %w", err)
	}
	style, err := webFiles.ReadFile("web/sandbox.css")
	if err != nil {
		return nil, fmt.Errorf("read style sheet: %w", err)
	}
	return &page{tmpl: tmpl, style: style}, nil
}

// pageView is what the page shows.
type pageView struct {
	Summary   Summary
	Instances []InstanceSummary
	Bills     []BillSummary
	Records   []Record
	Matching  int
	Calls     []Call
	CallTotal int64
	Faults    []Fault
	Filter    struct{ State, Instance string }
	States    []State
	Query     template.URL // the filter as a query string, for the CSV link
	Refresh   int
	Cycle     Collection
	Strict    bool
}

// servePage shows the whole state; ?state= and ?instance= filter the records, ?refresh= reloads every so many seconds.
func (s *Sandbox) servePage(w http.ResponseWriter, r *http.Request, p *page) error {
	q := r.URL.Query()
	refresh := 0
	if text := q.Get("refresh"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxRefresh {
			return badRequest(fmt.Errorf("parameter refresh: must be 1 to %d seconds (got %s)", maxRefresh, quoteClip(text)))
		}
		refresh = n
	}
	q.Del("refresh")
	f, err := parseFilter(q, "state", "instance")
	if err != nil {
		return badRequest(err)
	}
	var buf bytes.Buffer
	if err := p.tmpl.Execute(&buf, s.view(f, refresh)); err != nil {
		return fmt.Errorf("render page: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write(buf.Bytes()) // The reader may be gone.
	return nil
}

// view gathers what the page shows.
func (s *Sandbox) view(f filter, refresh int) pageView {
	f.limit = pageRecords
	v := pageView{
		Summary: s.Summary(), Faults: s.Faults(), Refresh: refresh, Cycle: s.opts.Collection, Strict: s.opts.Strict,
		States: []State{StateReceived, StateValid, StateAbnormal, StateCollected},
	}
	v.Filter.State, v.Filter.Instance = string(f.state), f.instance
	v.Records, v.Matching = s.latest(f)
	v.Calls, v.CallTotal = s.calls.list()
	v.Calls = v.Calls[:min(len(v.Calls), pageCalls)]
	v.Instances = v.Summary.Instances[:min(len(v.Summary.Instances), pageInstances)]
	v.Bills = v.Summary.Bills[max(0, len(v.Summary.Bills)-pageBills):]
	if f.state != "" || f.instance != "" {
		q := url.Values{"state": {string(f.state)}, "instance": {f.instance}}
		v.Query = template.URL("?" + q.Encode()) // #nosec G203 -- encoded on the line itself.
	}
	return v
}

// serveStyle serves the style sheet.
func (p *page) serveStyle(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(p.style) // The reader may be gone.
	return nil
}
