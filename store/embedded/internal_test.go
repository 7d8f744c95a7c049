package embedded

// Internal tests: the parsers of outside bytes and the tail have no exported form.

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAnalyze(t *testing.T) {
	t.Parallel()
	for sql, want := range map[string]statement{
		"SELECT 1":                            {kind: kindSelect},
		" /* x */ -- y\n select 1 ; ":         {kind: kindSelect},
		"(SELECT 1) UNION ALL SELECT 2":       {kind: kindSelect},
		"WITH 1 AS x SELECT x":                {kind: kindSelect},
		"SELECT ';', `;`, $a$;$a$ -- ;":       {kind: kindSelect},
		"SHOW TABLES":                         {kind: kindRead},
		"CREATE TABLE t (a UInt8) ENGINE = x": {kind: kindChange},
		"create temporary table t (a UInt8)":  {kind: kindSession},
		"SET a = 1":                           {kind: kindSession},
		"INSERT INTO t (a, b) FORMAT Native":  {kind: kindInsertBody, table: "t", insert: "INSERT INTO t (a, b) ", format: "Native", columns: []string{"a", "b"}},
		"insert into d.t format native;":      {kind: kindInsertBody, database: "d", table: "t", insert: "insert into d.t ", format: "native"},
		"INSERT INTO `d.x`.`t``y` (`a`, n.k) SETTINGS x = 'FORMAT' FORMAT Native": {
			kind: kindInsertBody, database: "d.x", table: "t`y", insert: "INSERT INTO `d.x`.`t``y` (`a`, n.k) SETTINGS x = 'FORMAT' ",
			format: "Native", columns: []string{"a", "n.k"},
		},
		"INSERT INTO TABLE values (format, select) VALUES (1, 'a;b')": {kind: kindInsertInline, table: "values", columns: []string{"format", "select"}},
		"INSERT INTO t (* EXCEPT (a)) FORMAT Native":                  {kind: kindInsertBody, table: "t", insert: "INSERT INTO t (* EXCEPT (a)) ", format: "Native"},
		"INSERT INTO t SELECT 1 FORMAT Null":                          {kind: kindInsertInline, table: "t"},
		"INSERT INTO FUNCTION file('x') SELECT 1":                     {kind: kindInsertInline},
		"INSERT INTO t (SELECT 1)":                                    {kind: kindInsertInline, table: "t"},
	} {
		got, err := analyze(sql)
		if err != nil {
			t.Errorf("analyze(%q): %v", sql, err)
			continue
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(statement{})); diff != "" {
			t.Errorf("analyze(%q) (-want +got):\n%s", sql, diff)
		}
	}
	for sql, code := range map[string]int{
		"": codeSyntax, " ; ": codeSyntax, "/* open": codeSyntax, "exit": codeSyntax, "\\q": codeSyntax, "\x00": codeSyntax,
		"`SELECT` 1": codeSyntax, "SELECT 1; SELECT 2": codeSyntax, "INSERT INTO t SELECT 1; DROP TABLE t": codeSyntax,
		"INSERT INTO t FORMAT TSV\n1": codeNotImplemented, "INSERT INTO t; DROP TABLE t": codeSyntax,
		"INSERT INTO t FORMAT Native; DROP TABLE t": codeNotImplemented,
	} {
		_, err := analyze(sql)
		var e *Error
		if !errors.As(err, &e) || e.Code != code {
			t.Errorf("analyze(%q) = %v, want code %d", sql, err, code)
		}
	}
}

func FuzzAnalyze(f *testing.F) {
	for _, seed := range []string{"SELECT 1", "INSERT INTO `a``b`.t (a, `b`, n.k) FORMAT Native", "$a$ $a$", "'\\", "/*", "INSERT INTO t ((", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		st, err := analyze(sql)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Code == 0 {
				t.Fatalf("analyze(%q): untyped error %v", sql, err)
			}
			return
		}
		if st.kind == kindUnknown || st.kind == kindInsertBody && !strings.HasPrefix(sql, st.insert) {
			t.Fatalf("analyze(%q) = %+v", sql, st)
		}
		again, err := analyze(sql)
		if err != nil || cmp.Diff(st, again, cmp.AllowUnexported(statement{})) != "" {
			t.Fatalf("analyze(%q) differs the second time: %+v, %v", sql, again, err)
		}
	})
}

func FuzzQuote(f *testing.F) {
	f.Add("a'b\\`c\n\x00")
	f.Fuzz(func(t *testing.T, s string) {
		// What is quoted must be one token, whatever is in it.
		for _, quoted := range []string{quoteString(s), quoteName(s)} {
			sc := scanner{text: quoted}
			if tok := sc.next(); tok.text != quoted || sc.next().kind != tokenEnd {
				t.Fatalf("%q is not one token: first is %q", quoted, tok.text)
			}
		}
		if got := unquote(quoteName(s)); got != s {
			t.Fatalf("unquote(quoteName(%q)) = %q", s, got)
		}
	})
}

func FuzzParseBlockHead(f *testing.F) {
	f.Add([]byte("\x01\x01\x02id\x06UInt32\x01\x00\x00\x00"))
	f.Add([]byte{0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		head, err := parseBlockHead(b)
		if err == nil && head.columns == 0 {
			t.Fatalf("parseBlockHead(%x) = %+v", b, head)
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	f.Add("database=d&max_threads=1&client_protocol_version=54483", "SELECT 1")
	f.Add("query=INSERT+INTO+t+FORMAT+Native", "\x01\x01")
	f.Add("%zz", "")
	f.Fuzz(func(t *testing.T, query, text string) {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/", strings.NewReader(text))
		r.URL.RawQuery = query
		req, err := parseRequest(r)
		if err != nil {
			if code, e := status(err); code < 400 || e.Code == 0 {
				t.Fatalf("status of %v = %d, %v", err, code, e)
			}
			return
		}
		for name := range req.settings {
			if !settingName.MatchString(name) {
				t.Fatalf("setting %q was let through", name)
			}
		}
	})
}

func TestParseError(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Error{
		"Code: 60. DB::Exception: x (UNKNOWN_TABLE)\n": {60, "DB::Exception: x (UNKNOWN_TABLE)"},
		"no code":            {codeUnknown, "no code"},
		"Code: 0. zero":      {codeUnknown, "zero"},
		"Code: 99999999999.": {codeUnknown, "Code: 99999999999."},
		"":                   {codeUnknown, ""},
		"Code: 1. \xff":      {1, "�"},
	} {
		if got := parseError(text); *got != want {
			t.Errorf("parseError(%q) = %+v, want %+v", text, *got, want)
		}
	}
}

func TestReadBody(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, size := range []int64{0, 1, bodyInMemory - 1, bodyInMemory, bodyInMemory + 12345} {
		b, err := readBody(io.LimitReader(pattern{}, size), dir, 1<<30)
		if err != nil {
			t.Fatalf("readBody of %d bytes: %v", size, err)
		}
		info, err := os.Stat(b.path())
		if err != nil || info.Size() != size || b.size != size {
			t.Errorf("file of %d bytes: %d, size %d, %v", size, info.Size(), b.size, err)
		}
		if n := min(size, 100); n > 0 {
			end := make([]byte, n)
			if _, err := b.file.ReadAt(end, size-n); err != nil || strings.Trim(string(end), "\n") != "" {
				t.Errorf("end of %d bytes = %q, %v", size, end, err)
			}
		}
		if err := b.close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := readBody(io.LimitReader(pattern{}, 11), dir, 10); err == nil || !strings.Contains(err.Error(), "larger than 10 bytes") {
		t.Errorf("readBody above the limit = %v", err)
	}
	broken := errors.New("broken")
	if _, err := readBody(io.MultiReader(strings.NewReader("x"), errReader{broken}), dir, 10); !errors.Is(err, broken) {
		t.Errorf("readBody of a broken body = %v, want %v", err, broken)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("files left: %v, %v", left, err)
	}
}

type pattern struct{}

func (pattern) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '\n'
	}
	return len(p), nil
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestTail(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	out := &tail{logger: slog.New(slog.NewTextHandler(&log, nil))}
	for i := range 2 * tailLines {
		fmt.Fprintf(out, "line %d\r\n", i)
	}
	fmt.Fprint(out, "part", "ial \xff", strings.Repeat("x", 3*tailLineBytes))
	lines := strings.Split(out.String(), "\n")
	if len(lines) != tailLines+1 || lines[0] != fmt.Sprintf("line %d", tailLines) || !strings.HasPrefix(lines[tailLines], "partial �xx") || len(lines[tailLines]) > tailLineBytes+2 {
		t.Errorf("tail = %d lines, first %q, last %.30q", len(lines), lines[0], lines[len(lines)-1])
	}
	if !strings.Contains(log.String(), "line=\"line 0\"") {
		t.Errorf("log = %.200s, want every line", log.String())
	}
}

func TestHelloEncode(t *testing.T) {
	t.Parallel()
	h := hello{"name", "26.5.1.1", "UTC"}
	plain, err := h.encode(0)
	if err != nil {
		t.Fatal(err)
	}
	if head, err := parseBlockHead(plain); err != nil || head != (blockHead{4, 1}) {
		t.Errorf("layout of revision 0 begins with %+v, %v", head, err)
	}
	withInfo, err := h.encode(54483)
	if err != nil || len(withInfo) <= len(plain) || withInfo[0] != 1 {
		t.Errorf("layout of revision 54483 = %x, %v, want block info first", withInfo, err)
	}
}

func TestHeaderValue(t *testing.T) {
	t.Parallel()
	if got := headerValue("a\r\nX: é\x00"); strings.ContainsAny(got, "\r\n\x00") {
		t.Errorf("headerValue = %q", got)
	}
}
