package embedded

import "strings"

// statementKind is how the bridge has to run a statement.
type statementKind int

const (
	kindUnknown      statementKind = iota // no statement the engine would run: refused
	kindSelect                            // streamed in blocks
	kindInsertBody                        // INSERT … FORMAT x: the rows are the request's body
	kindInsertInline                      // INSERT … VALUES or INSERT … SELECT
	kindRead                              // SHOW, DESCRIBE …: small answer, taken whole
	kindChange                            // DDL and other statements that change something
	kindSession                           // changes the connection itself (SET, USE, temporary tables)
)

// statement is what the bridge knows of one SQL text. It is found by its words alone; the engine does the parsing.
type statement struct {
	kind statementKind
	// For inserts: the target as written, unquoted; database is "" when the text does not name it.
	database, table string
	// For kindInsertBody: the text before FORMAT, and the format's name.
	insert, format string
	// For inserts: the column list, unquoted; nil when there is none or it is more than names.
	columns []string
}

// words that begin a statement, by kind. Words the engine treats as commands of its interactive client ("exit") are
// missing on purpose: it would answer success without doing anything.
var statementKinds = map[string]statementKind{
	"SELECT": kindSelect, "WITH": kindSelect, "FROM": kindSelect, "(": kindSelect,
	"SHOW": kindRead, "DESCRIBE": kindRead, "DESC": kindRead, "EXISTS": kindRead, "EXPLAIN": kindRead, "CHECK": kindRead,
	"CREATE": kindChange, "DROP": kindChange, "ALTER": kindChange, "RENAME": kindChange, "EXCHANGE": kindChange,
	"TRUNCATE": kindChange, "OPTIMIZE": kindChange, "ATTACH": kindChange, "DETACH": kindChange, "SYSTEM": kindChange,
	"KILL": kindChange, "DELETE": kindChange, "UPDATE": kindChange, "UNDROP": kindChange, "BACKUP": kindChange,
	"RESTORE": kindChange, "REPLACE": kindChange, "GRANT": kindChange, "REVOKE": kindChange,
	"SET": kindSession, "USE": kindSession,
}

// analyze finds the kind of a statement. It refuses what the engine would misunderstand silently: several
// statements in one text, an empty text, and rows placed in the text after FORMAT.
func analyze(sql string) (statement, error) {
	sc := scanner{text: sql}
	first := sc.next()
	if first.kind == tokenEnd {
		return statement{}, bridgeError(codeSyntax, "Empty query. (SYNTAX_ERROR)")
	}
	word := strings.ToUpper(first.text)
	if word == "INSERT" && first.kind == tokenWord {
		return analyzeInsert(sql, &sc)
	}
	kind := statementKinds[word]
	if kind == kindUnknown || first.kind == tokenQuoted {
		return statement{}, bridgeError(codeSyntax, "Syntax error: no statement begins with %.40q. (SYNTAX_ERROR)", first.text)
	}
	st := statement{kind: kind}
	for tok := sc.next(); tok.kind != tokenEnd; tok = sc.next() {
		if tok.isPunct(';') {
			if err := expectEnd(&sc); err != nil {
				return statement{}, err
			}
			break
		}
		if kind == kindChange && tok.isWord("TEMPORARY") {
			st.kind = kindSession
		}
	}
	return st, nil
}

func analyzeInsert(sql string, sc *scanner) (statement, error) {
	tok := sc.next()
	if tok.isWord("INTO") {
		tok = sc.next()
	}
	if tok.isWord("TABLE") {
		tok = sc.next()
	}
	st := statement{kind: kindInsertInline}
	if !tok.isWord("FUNCTION") {
		st.table = tok.name()
		tok = sc.next()
		if tok.isPunct('.') {
			st.database, st.table = st.table, sc.next().name()
			tok = sc.next()
		}
	}
	if tok.isPunct('(') {
		st.columns = columnList(sc)
		tok = sc.next()
	}
	for ; tok.kind != tokenEnd; tok = sc.next() {
		switch {
		case tok.depth > 0:
		case tok.isPunct(';'):
			return st, expectEnd(sc)
		case tok.isWord("SELECT"), tok.isWord("WITH"):
			return st, expectSingle(sc)
		case tok.isWord("VALUES"):
			// The rows follow; the engine reads them to the end of the text.
			return st, nil
		case tok.isWord("FORMAT"):
			st.kind = kindInsertBody
			st.insert = sql[:tok.start]
			st.format = sc.next().name()
			if end := sc.next(); end.kind != tokenEnd && !end.isPunct(';') || expectEnd(sc) != nil {
				return statement{}, bridgeError(codeNotImplemented,
					"rows inside the text of INSERT … FORMAT are not supported: send the statement in the URL parameter query and the rows as body. (NOT_IMPLEMENTED)")
			}
			return st, nil
		}
	}
	return st, nil
}

// columnList reads the names up to the closing parenthesis. It is nil when the list is not plain names, such as
// (* EXCEPT (a)) or a SELECT in parentheses.
func columnList(sc *scanner) []string {
	var names []string
	plain, name := true, ""
	for tok := sc.next(); tok.kind != tokenEnd; tok = sc.next() {
		switch {
		case tok.isPunct(')') && tok.depth <= 1:
			if !plain || name == "" {
				return nil
			}
			return append(names, name)
		case tok.isPunct(',') && tok.depth == 1:
			plain = plain && name != ""
			names, name = append(names, name), ""
		case tok.isPunct('.') && name != "":
			name += "."
		case tok.name() != "" && (name == "" || strings.HasSuffix(name, ".")):
			name += tok.name()
		default:
			plain = false
		}
	}
	return nil
}

// expectSingle reads on to the end and refuses a second statement.
func expectSingle(sc *scanner) error {
	for tok := sc.next(); tok.kind != tokenEnd; tok = sc.next() {
		if tok.isPunct(';') {
			return expectEnd(sc)
		}
	}
	return nil
}

// expectEnd refuses anything but further semicolons up to the end of the text.
func expectEnd(sc *scanner) error {
	for tok := sc.next(); tok.kind != tokenEnd; tok = sc.next() {
		if !tok.isPunct(';') {
			return bridgeError(codeSyntax, "Syntax error (Multi-statements are not allowed): second statement begins with %.40q. (SYNTAX_ERROR)", tok.text)
		}
	}
	return nil
}

type tokenKind int

const (
	tokenEnd tokenKind = iota
	tokenWord
	tokenQuoted // `x` or "x": an identifier
	tokenString // 'x' or $tag$x$tag$
	tokenPunct
)

type token struct {
	kind  tokenKind
	text  string
	start int // offset in the text
	depth int // open parentheses before it
}

func (t token) isWord(word string) bool {
	return t.kind == tokenWord && strings.EqualFold(t.text, word)
}

func (t token) isPunct(c byte) bool { return t.kind == tokenPunct && t.text[0] == c }

// name is the identifier a token stands for, "" when it is none.
func (t token) name() string {
	switch t.kind {
	case tokenWord:
		return t.text
	case tokenQuoted:
		return unquote(t.text)
	default:
		return ""
	}
}

// scanner splits SQL into tokens, leaving out space and comments. It accepts any bytes: what is not closed reaches to
// the end of the text.
type scanner struct {
	text  string
	pos   int
	depth int
}

func (s *scanner) next() token {
	s.skipSpace()
	start, depth := s.pos, s.depth
	if start >= len(s.text) {
		return token{kind: tokenEnd, start: len(s.text), depth: depth}
	}
	kind := tokenPunct
	switch c := s.text[start]; {
	case c == '\'':
		kind = tokenString
		s.skipQuoted(c)
	case c == '`' || c == '"':
		kind = tokenQuoted
		s.skipQuoted(c)
	case c == '$' && s.skipHeredoc():
		kind = tokenString
	case isWordByte(c):
		kind = tokenWord
		for s.pos < len(s.text) && isWordByte(s.text[s.pos]) {
			s.pos++
		}
	default:
		s.pos++
		switch c {
		case '(':
			s.depth++
		case ')':
			s.depth = max(0, s.depth-1)
		}
	}
	return token{kind: kind, text: s.text[start:s.pos], start: start, depth: depth}
}

func isWordByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

// skipQuoted moves behind the closing quote; a backslash or a doubled quote keeps the text open.
func (s *scanner) skipQuoted(quote byte) {
	for s.pos++; s.pos < len(s.text); s.pos++ {
		switch s.text[s.pos] {
		case '\\':
			s.pos++
		case quote:
			if s.pos+1 >= len(s.text) || s.text[s.pos+1] != quote {
				s.pos++
				return
			}
			s.pos++
		}
	}
	s.pos = len(s.text)
}

// skipHeredoc moves behind $tag$ … $tag$ and reports whether there was one.
func (s *scanner) skipHeredoc() bool {
	rest := s.text[s.pos:]
	end := 1
	for end < len(rest) && isWordByte(rest[end]) {
		end++
	}
	if end >= len(rest) || rest[end] != '$' {
		return false
	}
	tag := rest[:end+1]
	closing := strings.Index(rest[len(tag):], tag)
	if closing < 0 {
		return false
	}
	s.pos += len(tag) + closing + len(tag)
	return true
}

func (s *scanner) skipSpace() {
	for s.pos < len(s.text) {
		rest := s.text[s.pos:]
		switch {
		case strings.ContainsRune(" \t\r\n\f\v", rune(rest[0])):
			s.pos++
		case strings.HasPrefix(rest, "--"), strings.HasPrefix(rest, "#!"), strings.HasPrefix(rest, "# "):
			s.skipTo(rest, "\n")
		case strings.HasPrefix(rest, "/*"):
			s.skipTo(rest, "*/")
		default:
			return
		}
	}
}

func (s *scanner) skipTo(rest, end string) {
	i := strings.Index(rest, end)
	if i < 0 {
		s.pos = len(s.text)
		return
	}
	s.pos += i + len(end)
}

// unquote removes the quotes of `x` or "x" and resolves doubled quotes and backslashes.
func unquote(text string) string {
	if len(text) < 2 {
		return ""
	}
	quote := text[0]
	body := strings.TrimSuffix(text[1:], string(quote))
	var b strings.Builder
	for i := 0; i < len(body); i++ {
		if (body[i] == '\\' || body[i] == quote) && i+1 < len(body) {
			i++
		}
		b.WriteByte(body[i])
	}
	return b.String()
}

// quoteString writes a ClickHouse string literal. NUL and newline bytes are escaped too, for logs and for the
// engine's inline parser.
func quoteString(s string) string {
	r := strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\n", `\n`, "\x00", `\0`)
	return "'" + r.Replace(s) + "'"
}

// quoteName writes a ClickHouse identifier.
func quoteName(s string) string {
	return "`" + strings.NewReplacer(`\`, `\\`, "`", "\\`").Replace(s) + "`"
}
