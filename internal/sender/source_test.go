package sender_test

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/internal/sender"
)

var update = flag.Bool("update", false, "rewrite golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// TestCSVGolden pins the events of a table with everything in it; derived ids must not change between versions, or a file
// sent by one and repeated by the other would count twice.
func TestCSVGolden(t *testing.T) {
	t.Parallel()
	text := "\xef\xbb\xbfTIMESTAMP,who,tokens,model,note\r\n" +
		"2023-11-16 18:17:03.9799600,tenant-1,4808,gpt-x,\r\n" +
		"2023-11-16 18:17:04.0319600,tenant-2,0.10000000000000000001,007,\"two\r\nlines, \"\"quoted\"\"\"\r\n" +
		"1700158624,tenant-1,-1,<a&b>,1e3\r\n" +
		"1700158624123,tenant-1,\" 12 \",1.10,null\r\n" +
		"2023-11-16T19:17:04+01:00,Ünïcode,12abc,-,\"\"\r\n"
	o := sender.CSVOptions{
		Type: "prompt", Source: "gateway", SubjectColumn: "who", TimeColumn: "TIMESTAMP",
		Data: []sender.DataColumn{{Name: "tokens", Column: "tokens"}, {Name: "model", Column: "model"}, {Name: "note", Column: "note"}},
	}
	src, err := sender.NewCSVSource(strings.NewReader(text), "usage.csv", o)
	if err != nil {
		t.Fatal(err)
	}
	events, err := collect(t, src)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "csv.ndjson", lines(t, events))
	var at []int
	for _, e := range events {
		at = append(at, e.Pos.Line)
	}
	if diff := cmp.Diff([]int{2, 3, 5, 6, 7}, at); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestCSVSubjects(t *testing.T) {
	t.Parallel()
	const text = "at;who;key\n0;a;k1\n1;b;k2\n2;c;k3\n"
	base := sender.CSVOptions{Type: "t", Source: "s", TimeColumn: "at", Comma: ';'}
	for name, tt := range map[string]struct {
		change func(*sender.CSVOptions)
		want   []string
	}{
		"column":   {func(o *sender.CSVOptions) { o.SubjectColumn = "who" }, []string{"a", "b", "c"}},
		"constant": {func(o *sender.CSVOptions) { o.Subject = "one" }, []string{"one", "one", "one"}},
		"spread": {
			func(o *sender.CSVOptions) { o.SpreadSubjects, o.SubjectPrefix = 2, "vm" },
			[]string{"vm-000", "vm-001", "vm-000"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := base
			o.IDColumn = "key"
			tt.change(&o)
			src, err := sender.NewCSVSource(strings.NewReader(text), "x", o)
			if err != nil {
				t.Fatal(err)
			}
			events, err := collect(t, src)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for i, e := range events {
				got = append(got, e.Subject)
				if want := fmt.Sprintf("k%d", i+1); e.ID != want || e.Data != nil {
					t.Errorf("event %d: id %q, data %s", i, e.ID, e.Data)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("subjects (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCSVFaults(t *testing.T) {
	t.Parallel()
	good := func() sender.CSVOptions {
		return sender.CSVOptions{Type: "t", Source: "s", TimeColumn: "at", SubjectColumn: "who"}
	}
	for name, tt := range map[string]struct {
		text    string
		change  func(*sender.CSVOptions)
		want    string
		mapping bool
	}{
		"empty file":      {"", nil, "f.csv:1: the file is empty", false},
		"no column":       {"x,who\n", nil, `f.csv:1: the table can't be mapped: no column "at"; the columns are x, who`, true},
		"column twice":    {"at,who,at\n", nil, `column "at" occurs twice`, true},
		"too few":         {"at,who\n0,a\n1\n", nil, "f.csv:3: the row has not as many cells", false},
		"too many":        {"at,who\n0,a,b\n", nil, "f.csv:2: the row has not as many cells", false},
		"stray quote":     {"at,who\n0,a\n0,a\"b\n", nil, "f.csv:3: line 3, column 4: bare", false},
		"open quote":      {"at,who\n0,a\n\"0,a\n\n", nil, "f.csv:3: line 4", false},
		"after newlines":  {"at,who\n0,\"a\n\n\"\n1,\n", nil, `f.csv:5: column "who": the subject is empty`, false},
		"bad time":        {"at,who\nyesterday,a\n", nil, `f.csv:2: column "at": "yesterday" is not a time`, false},
		"no time":         {"at,who\n,a\n", nil, "the time is empty", false},
		"not utf-8":       {"at,who\n0,\xff\n", nil, "f.csv:2: cell", false},
		"no id":           {"at,who,id\n0,a,\n", func(o *sender.CSVOptions) { o.IDColumn = "id" }, "the id is empty", false},
		"huge row":        {"at,who\n0,a\n0,\"" + strings.Repeat("x", 3<<20), nil, "longer than 1048576 bytes", false},
		"no type":         {"at,who\n", func(o *sender.CSVOptions) { o.Type = "" }, "type: missing", true},
		"no source":       {"at,who\n", func(o *sender.CSVOptions) { o.Source = "" }, "source: missing", true},
		"no time column":  {"at,who\n", func(o *sender.CSVOptions) { o.TimeColumn = "" }, "time: missing", true},
		"no subject":      {"at,who\n", func(o *sender.CSVOptions) { o.SubjectColumn = "" }, "subject: give exactly one", true},
		"two subjects":    {"at,who\n", func(o *sender.CSVOptions) { o.Subject = "x" }, "subject: give exactly one", true},
		"no prefix":       {"at,who\n", func(o *sender.CSVOptions) { o.SubjectColumn, o.SpreadSubjects = "", 1 }, "subject-prefix: missing", true},
		"negative spread": {"at,who\n", func(o *sender.CSVOptions) { o.SubjectColumn, o.SpreadSubjects = "", -1 }, "must not be negative", true},
		"delimiter":       {"at,who\n", func(o *sender.CSVOptions) { o.Comma = '"' }, "delimiter: must not", true},
		"data":            {"at,who\n", func(o *sender.CSVOptions) { o.Data = []sender.DataColumn{{"a", ""}} }, "data: must be like", true},
		"data twice":      {"at,who\n", func(o *sender.CSVOptions) { o.Data = []sender.DataColumn{{"a", "at"}, {"a", "who"}} }, `data: "a" is given twice`, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := good()
			if tt.change != nil {
				tt.change(&o)
			}
			src, err := sender.NewCSVSource(strings.NewReader(tt.text), "f.csv", o)
			if err == nil {
				_, err = collect(t, src)
				if _, again := src.Next(); !errors.Is(again, err) {
					t.Errorf("the error is not final: %v, then %v", err, again)
				}
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error = %v, want %q", err, tt.want)
			}
			if errors.Is(err, sender.ErrMapping) != tt.mapping {
				t.Errorf("ErrMapping = %t, want %t", !tt.mapping, tt.mapping)
			}
		})
	}
}

func TestJSONSource(t *testing.T) {
	t.Parallel()
	event := func(id string) string {
		return `{"specversion":"1.0","id":"` + id + `","source":"s","type":"t","subject":"u"}`
	}
	for name, tt := range map[string]struct {
		text string
		want []string // "line id"
	}{
		"nothing":      {"", nil},
		"blanks":       {" \n\t\r\n", nil},
		"object":       {"\n\n" + event("a") + "\n", []string{"3 a"}},
		"bom":          {"\xef\xbb\xbf" + event("a"), []string{"1 a"}},
		"ndjson":       {event("a") + "\n" + event("b") + "\r\n\n" + event("c"), []string{"1 a", "2 b", "4 c"}},
		"concatenated": {event("a") + event("b"), []string{"1 a", "1 b"}},
		"empty array":  {"[ ]\n", nil},
		"array":        {"[" + event("a") + "\n,\n" + event("b") + "]", []string{"1 a", "3 b"}},
		"pretty array": {"\n[\n  {\n \"id\":\"a\",\n\"source\":\"s\"\n},\n  {\"id\":\"b\",\"source\":\"s\"}\n]\n", []string{"3 a", "7 b"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			events, err := collect(t, sender.NewJSONSource(strings.NewReader(tt.text), "f.json"))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range events {
				got = append(got, fmt.Sprint(e.Pos.Line, " ", e.ID))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

func TestJSONSourceFaults(t *testing.T) {
	t.Parallel()
	const good = `{"id":"a","source":"s"}`
	for name, tt := range map[string]struct{ text, want string }{
		"not json":       {good + "\n" + good + "\nnonsense\n", "f.json:3: the event that begins here is not valid JSON"},
		"cut":            {good + "\n{\"id\":", "f.json:2: the input ends inside an event"},
		"cut array":      {"[" + good + ",\n", "f.json:1: the input ends inside an event"},
		"open array":     {"[" + good, "f.json:1: the input ends"},
		"number":         {good + "\n12", "f.json:2: not a JSON object"},
		"array of array": {"[[" + good + "]]", "f.json:1: not a JSON object"},
		"array in lines": {good + "\n[" + good + "]", "f.json:2: not a JSON object"},
		"behind array":   {"[" + good + "]\n" + good, "something stands behind the array"},
		"no comma":       {"[" + good + "\n" + good + "]", "f.json:2: at or behind this line"},
		"no id":          {`{"source":"s"}`, "f.json:1: the event has no id"},
		"null id":        {`{"id":null,"source":"s"}`, "f.json:1: the event has no id"},
		"id in capitals": {`{"ID":"a","source":"s"}`, "f.json:1: the event has no id"},
		"no source":      {`{"id":"a"}`, "no source"},
		"id is a number": {`{"id":1,"source":"s"}`, "id must be a string"},
		"id twice":       {`{"id":"a","id":"b","source":"s"}`, `"id" occurs twice`},
		"time":           {`{"id":"a","source":"s","time":"today"}`, `time "today" is not RFC 3339`},
		"huge":           {`{"id":"` + strings.Repeat("x", 3<<20), "longer than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := sender.NewJSONSource(strings.NewReader(tt.text), "f.json")
			_, err := collect(t, src)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error = %v, want %q", err, tt.want)
			}
			if _, again := src.Next(); !errors.Is(again, err) {
				t.Errorf("the error is not final: %v, then %v", err, again)
			}
		})
	}
}

func TestTimeLayouts(t *testing.T) {
	t.Parallel()
	cet := time.FixedZone("CET", 3600)
	for name, tt := range map[string]struct {
		layout, text string
		zone         *time.Location
		want         string // "" for an error
	}{
		"auto datetime":        {"", "2023-11-16 18:17:03.9799600", nil, "2023-11-16T18:17:03.97996Z"},
		"auto without decimal": {"auto", "2023-11-16 18:17:03", cet, "2023-11-16T17:17:03Z"},
		"auto rfc3339":         {"auto", "2023-11-16T18:17:03.5+02:00", cet, "2023-11-16T16:17:03.5Z"},
		"auto unix":            {"auto", "1700158624", nil, "2023-11-16T18:17:04Z"},
		"auto unix decimals":   {"auto", "1700158624.123456789999", nil, "2023-11-16T18:17:04.123456789Z"},
		"auto unix ms":         {"auto", "1700158624123", nil, "2023-11-16T18:17:04.123Z"},
		"auto first seconds":   {"auto", "0", nil, "1970-01-01T00:00:00Z"},
		"unix ms decimals":     {"unix-ms", "1.5", nil, "1970-01-01T00:00:00.0015Z"},
		"unix of 12 digits":    {"unix", "170015862400", nil, "7357-08-03T04:26:40Z"},
		"go layout":            {"02.01.2006 15:04", "16.11.2023 18:17", cet, "2023-11-16T17:17:00Z"},
		"rfc3339 only":         {"rfc3339", "2023-11-16 18:17:03", nil, ""},
		"datetime only":        {"datetime", "2023-11-16T18:17:03Z", nil, ""},
		"unix only":            {"unix", "2023-11-16", nil, ""},
		"unix without whole":   {"unix", ".5", nil, ""},
		"unix ending in point": {"unix", "5.", nil, ""},
		"unix negative":        {"unix", "-5", nil, ""},
		"unix exponent":        {"unix", "1e9", nil, ""},
		"unix too large":       {"unix", "99999999999999999999", nil, ""},
		"year 10000":           {"unix", "999999999999", nil, ""},
		"year 1":               {"datetime", "0001-01-01 00:00:00", nil, ""},
		"empty":                {"", "", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := sender.ParseTimeLayout(tt.layout)
			if err != nil {
				t.Fatal(err)
			}
			got, err := l.Parse(tt.text, tt.zone)
			if (err != nil) != (tt.want == "") || (err == nil && got.Format(time.RFC3339Nano) != tt.want) {
				t.Errorf("Parse(%q) = %s, %v, want %q", tt.text, got.Format(time.RFC3339Nano), err, tt.want)
			}
		})
	}
	if _, err := sender.ParseTimeLayout("iso"); err == nil {
		t.Error("an unknown layout was taken")
	}
}

func TestShift(t *testing.T) {
	t.Parallel()
	const text = `{"id":"n","source":"s"}
{"id":"a", "time":"2026-01-01T10:00:00.25Z","source":"s","data":{"time":"x", "v":1.50}}
{"source":"s","time":"2026-01-01T09:00:00+01:00","id":"b"}
{"id":"c","source":"s","time":"2026-01-01T11:00:00Z"}
`
	source := func() sender.Source { return sender.NewJSONSource(strings.NewReader(text), "f") }
	to := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	events, err := collect(t, sender.ShiftFirstTo(source(), to))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"id":"n","source":"s"}
{"id":"a","time":"2026-03-01T00:00:00Z","source":"s","data":{"time":"x","v":1.50}}
{"source":"s","time":"2026-02-28T21:59:59.75Z","id":"b"}
{"id":"c","source":"s","time":"2026-03-01T00:59:59.75Z"}
`
	if diff := cmp.Diff(want, lines(t, events)); diff != "" {
		t.Errorf("first to (-want +got):\n%s", diff)
	}
	for limit, want := range map[int64]string{0: "2026-01-01T11:00:00Z", 3: "2026-01-01T08:00:00Z", 100: "2026-01-01T11:00:00Z"} {
		last, err := sender.LastTime(t.Context(), source(), limit)
		if err != nil || last.UTC().Format(time.RFC3339) != want {
			t.Errorf("LastTime(limit %d) = %s, %v, want %s", limit, last, err, want)
		}
	}
	if _, err := sender.LastTime(t.Context(), source(), 1); err == nil {
		t.Error("LastTime without times succeeded")
	}
	events, err = collect(t, sender.ShiftBy(source(), 0))
	if err != nil {
		t.Fatal(err)
	}
	if got := lines(t, events); !strings.Contains(got, `"time":"2026-01-01T09:00:00+01:00"`) {
		t.Errorf("a shift by nothing changed the events:\n%s", got)
	}
}

func TestFileSource(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, ".gz") {
			var b strings.Builder
			zw := gzip.NewWriter(&b)
			if _, err := zw.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			if err := zw.Close(); err != nil {
				t.Fatal(err)
			}
			text = b.String()
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	rows, o := table(3)
	const event = `{"id":"a","source":"s"}`
	plain, packed := write("a.csv", rows), write("b/a.csv.gz", rows)
	other := write("a/data", "  "+event)
	load := func(files []string, o sender.FileOptions) ([]sender.Event, error) {
		src, err := sender.NewFileSource(files, o)
		if err != nil {
			return nil, err
		}
		defer func() {
			if err := src.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}()
		return collect(t, src)
	}
	csv := sender.FileOptions{CSV: o, Stdin: strings.NewReader(event)}
	events, err := load([]string{plain, other, "-", write("e.ndjson.gz", event+event)}, csv)
	if err != nil || len(events) != 7 {
		t.Fatalf("%d events, %v, want 7", len(events), err)
	}
	if got, want := events[2].Pos.String(), plain+":4"; got != want {
		t.Errorf("position = %s, want %s", got, want)
	}
	unpacked, err := load([]string{packed}, csv)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(lines(t, events[:3]), lines(t, unpacked)); diff != "" {
		t.Errorf("ids depend on the directory or on gzip (-plain +packed):\n%s", diff)
	}
	bad := write("bad.csv", rows+"x,y\n")
	for name, tt := range map[string]struct {
		files []string
		o     sender.FileOptions
		want  string
	}{
		"missing":        {[]string{plain, filepath.Join(dir, "none"), filepath.Join(dir, "nope")}, csv, "nope"},
		"directory":      {[]string{dir}, csv, "is a directory"},
		"format":         {[]string{plain}, sender.FileOptions{Format: "xml"}, `format "xml"`},
		"no stdin":       {[]string{"-"}, sender.FileOptions{}, "standard input"},
		"no mapping":     {[]string{plain}, sender.FileOptions{}, "type: missing"},
		"same names":     {[]string{plain, packed}, csv, "an earlier file is named a.csv too"},
		"bad row":        {[]string{bad}, csv, bad + ":5: column"},
		"no columns":     {[]string{write("c.csv", "x\n")}, csv, filepath.Join(dir, "c.csv") + ":1: the table"},
		"not gzip":       {[]string{write("x.json", event), renamed(t, plain, dir+"/z.csv.gz")}, csv, "z.csv.gz: gzip"},
		"csv as json":    {[]string{plain}, sender.FileOptions{Format: sender.FormatJSON}, plain + ":1: the event"},
		"json as csv":    {[]string{other}, sender.FileOptions{Format: sender.FormatCSV, CSV: o}, "bare"},
		"stdin position": {[]string{"-"}, sender.FileOptions{Stdin: strings.NewReader("{")}, "-:1: the input ends"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := load(tt.files, tt.o); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error = %v, want %q", err, tt.want)
			}
		})
	}
}

func renamed(t *testing.T, from, to string) string {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestFileSourceProgress(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "e.json")
	if err := os.WriteFile(path, []byte(`{"id":"a","source":"s"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := sender.NewFileSource([]string{path}, sender.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if read, total := src.Progress(); read != 0 || total != 23 {
		t.Errorf("progress = %d of %d, want 0 of 23", read, total)
	}
	if _, err := collect(t, src); err != nil {
		t.Fatal(err)
	}
	if read, _ := src.Progress(); read != 23 {
		t.Errorf("read = %d, want 23", read)
	}
	src, err = sender.NewFileSource([]string{path, "-"}, sender.FileOptions{Stdin: strings.NewReader("")})
	if err != nil {
		t.Fatal(err)
	}
	if _, total := src.Progress(); total != -1 {
		t.Errorf("total = %d with standard input, want -1", total)
	}
}

// TestRerunProperty: whatever the table, sending it again gives the same bytes, no two rows share an id, and the events
// are what the table says.
func TestRerunProperty(t *testing.T) {
	t.Parallel()
	cell := rapid.StringMatching(`[ -~äß店]{0,12}`)
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 20).Draw(t, "rows")
		var b strings.Builder
		b.WriteString("at,v\n")
		cells := make([]string, n)
		same := rapid.Bool().Draw(t, "rows are alike")
		for i := range cells {
			if cells[i] = cell.Draw(t, "cell"); same {
				cells[i] = cells[0]
			}
			fmt.Fprintf(&b, "1700000000,\"%s\"\n", strings.ReplaceAll(cells[i], `"`, `""`))
		}
		o := sender.CSVOptions{
			Type: "t", Source: "s", TimeColumn: "at", Subject: "u", Data: []sender.DataColumn{{Name: "v", Column: "v"}},
		}
		encode := func() []string {
			src, err := sender.NewCSVSource(strings.NewReader(b.String()), "f.csv", o)
			if err != nil {
				t.Fatal(err)
			}
			events, err := collect(t, sender.ShiftFirstTo(src, time.Unix(1_800_000_000, 0)))
			if err != nil {
				t.Fatal(err)
			}
			return strings.Split(strings.TrimSuffix(lines(t, events), "\n"), "\n")
		}
		first := encode()
		if diff := cmp.Diff(first, encode()); diff != "" {
			t.Fatalf("a rerun differs:\n%s", diff)
		}
		ids := map[string]bool{}
		for i := range n {
			var e struct {
				ID   string
				Data map[string]any
			}
			if err := json.Unmarshal([]byte(first[i]), &e); err != nil {
				t.Fatal(err)
			}
			if ids[e.ID] || len(e.ID) != 32 {
				t.Fatalf("id %q twice or of wrong length", e.ID)
			}
			ids[e.ID] = true
			if text, ok := e.Data["v"].(string); ok && text != cells[i] {
				t.Fatalf("cell %q became %q", cells[i], text)
			}
			if _, ok := e.Data["v"]; ok == (cells[i] == "") {
				t.Fatalf("cell %q, data %v", cells[i], e.Data)
			}
		}
	})
}

func FuzzCSVSource(f *testing.F) {
	for _, seed := range []string{
		"at,who,v\n0,a,1\n", "\xef\xbb\xbfat,who,v\r\n\"0\",\"a\nb\",\r\n", "at,who,v\n\"", "at,who,v\n0,\xff,1", "at,who,v\n9e9,,\n",
		"at,who,v\n2023-11-16 18:17:03.97,x,-0\n", "at,at,who,v\n", "\n\n", "at,who,v\n0,a,1e999999999\n0,b,00\n",
	} {
		f.Add(seed)
	}
	o := sender.CSVOptions{
		Type: "t", Source: "s", TimeColumn: "at", SubjectColumn: "who", Data: []sender.DataColumn{{Name: "v", Column: "v"}},
	}
	f.Fuzz(func(t *testing.T, text string) {
		load := func() (string, string) {
			src, err := sender.NewCSVSource(strings.NewReader(text), "f.csv", o)
			if err != nil {
				return "", err.Error()
			}
			events, err := collect(t, src)
			return lines(t, events), fmt.Sprint(err)
		}
		got, fault := load()
		for line := range strings.Lines(got) {
			if !json.Valid([]byte(line)) {
				t.Errorf("not JSON: %s", line)
			}
		}
		again, fault2 := load()
		if got != again || fault != fault2 {
			t.Errorf("a rerun differs:\n%s%s\n%s%s", got, fault, again, fault2)
		}
	})
}

func FuzzJSONSource(f *testing.F) {
	for _, seed := range []string{
		`{"id":"a","source":"s"}`, `[{"id":"a","source":"s","time":"2026-01-01T00:00:00Z"},{"id":"b","source":"s"}]`, "[]", "[",
		"{}\n{}", `{"id":"a","source":"s"}` + "\n" + `{"id":"a","source":"s","data":{"x":[1,{"y":null}]}}`, "\xef\xbb\xbf[ ] x",
		`{"id":"\ud800","source":"\u0000","time":null}`,
	} {
		f.Add(seed)
	}
	to := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		plain, err := collect(t, sender.NewJSONSource(strings.NewReader(text), "f"))
		var fault *sender.InputError
		if err != nil && !errors.As(err, &fault) {
			t.Errorf("error without a position: %v", err)
		}
		encoded := lines(t, plain)
		again, err2 := collect(t, sender.NewJSONSource(strings.NewReader(encoded), "f"))
		if err2 != nil || lines(t, again) != encoded {
			t.Errorf("read again: %v\n%s\nwant\n%s", err2, lines(t, again), encoded)
		}
		shifted, err3 := collect(t, sender.ShiftFirstTo(sender.NewJSONSource(strings.NewReader(text), "f"), to))
		if len(shifted) != len(plain) || fmt.Sprint(err3) != fmt.Sprint(err) {
			t.Errorf("shifted: %d events, %v, want %d, %v", len(shifted), err3, len(plain), err)
		}
		for i := range shifted {
			one, err := shifted[i].AppendJSON(nil)
			if err != nil || !json.Valid(one) {
				t.Errorf("shifted event %s, %v", one, err)
			}
		}
	})
}
