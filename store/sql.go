package store

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// quote makes a string literal of any bytes. Everything that a lexer of any version could stumble over (quotes,
// backslashes, control bytes, NUL) is written as \xHH; other bytes stand for themselves.
func quote(text string) string {
	const hexDigits = "0123456789abcdef"
	var b strings.Builder
	b.Grow(len(text) + 2)
	b.WriteByte('\'')
	for i := range len(text) {
		c := text[i]
		if c < 0x20 || c == 0x7f || c == '\'' || c == '\\' {
			b.WriteString(`\x`)
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
			continue
		}
		b.WriteByte(c)
	}
	b.WriteByte('\'')
	return b.String()
}

// quoteList is the inside of an IN list.
func quoteList[T ~string](texts []T) string {
	quoted := make([]string, len(texts))
	for i, text := range texts {
		quoted[i] = quote(string(text))
	}
	return strings.Join(quoted, ", ")
}

// sqlTime is a literal of type DateTime('UTC').
func sqlTime(t time.Time) string {
	return "toDateTime('" + t.UTC().Format("2006-01-02 15:04:05") + "', 'UTC')"
}

func sqlUint(n uint64) string { return "toUInt64(" + strconv.FormatUint(n, 10) + ")" }

func sqlUints(numbers []uint64) string {
	list := make([]string, len(numbers))
	for i, n := range numbers {
		list[i] = sqlUint(n)
	}
	return strings.Join(list, ", ")
}

// clauses are the conditions of a WHERE.
type clauses []string

func (c *clauses) add(condition string) { *c = append(*c, condition) }

func (c clauses) String() string { return strings.Join(c, " AND ") }

// joinUnique joins distinct literals of a list that has repetitions.
func joinUnique(literals []string) string {
	literals = slices.Clone(literals)
	slices.Sort(literals)
	return strings.Join(slices.Compact(literals), ", ")
}
