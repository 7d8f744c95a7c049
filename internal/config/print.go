package config

import (
	"encoding"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
)

// WriteTOML writes the effective configuration in the file's format. Loading it again gives the same configuration, except
// for the secrets, which appear as comments that say only that they are set.
func (c Config) WriteTOML(w io.Writer) error {
	var b strings.Builder
	printTable(&b, reflect.ValueOf(&c).Elem(), "")
	_, err := io.WriteString(w, b.String())
	return err
}

// printTable writes the keys of a table, then its tables, then its lists of tables: the order TOML requires.
func printTable(b *strings.Builder, v reflect.Value, prefix string) {
	t := v.Type()
	var tables, lists []int
	for i := range t.NumField() {
		name := t.Field(i).Tag.Get("toml")
		switch {
		case t.Field(i).Type == reflect.TypeFor[Secret]():
			if !v.Field(i).IsZero() {
				fmt.Fprintf(b, "# %s: %s\n", snake(t.Field(i).Name), elided)
			}
		case name == "" || name == "-":
		case t.Field(i).Type.Kind() == reflect.Struct:
			tables = append(tables, i)
		case (field{value: v.Field(i)}).isTableList():
			lists = append(lists, i)
		default:
			fmt.Fprintf(b, "%s = %s\n", name, printValue(v.Field(i)))
		}
	}
	for _, i := range tables {
		key := joinKey(prefix, t.Field(i).Tag.Get("toml"))
		fmt.Fprintf(b, "\n[%s]\n", key)
		printTable(b, v.Field(i), key)
	}
	for _, i := range lists {
		key := joinKey(prefix, t.Field(i).Tag.Get("toml"))
		for j := range v.Field(i).Len() {
			fmt.Fprintf(b, "\n[[%s]]\n", key)
			printTable(b, v.Field(i).Index(j), key)
		}
	}
}

func printValue(v reflect.Value) string {
	if m, ok := reflect.TypeAssert[encoding.TextMarshaler](v); ok {
		text, err := m.MarshalText()
		if err != nil {
			return quoteTOML(err.Error())
		}
		return quoteTOML(string(text))
	}
	switch v.Kind() {
	case reflect.Bool:
		return strconv.FormatBool(v.Bool())
	case reflect.Int:
		return strconv.FormatInt(v.Int(), 10)
	case reflect.Float64:
		text := strconv.FormatFloat(v.Float(), 'f', -1, 64)
		if !strings.Contains(text, ".") {
			text += ".0"
		}
		return text
	case reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = quoteTOML(v.Index(i).String())
		}
		return "[" + strings.Join(items, ", ") + "]"
	case reflect.Map:
		texts := map[string]string{}
		for it := v.MapRange(); it.Next(); {
			texts[it.Key().String()] = it.Value().String()
		}
		items := make([]string, 0, len(texts))
		for _, name := range sortedKeys(texts) {
			items = append(items, quoteTOML(name)+" = "+quoteTOML(texts[name]))
		}
		return "{" + strings.Join(items, ", ") + "}"
	default:
		return quoteTOML(v.String())
	}
}

// quoteTOML writes a TOML basic string, whose escapes are fewer than Go's.
func quoteTOML(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// snake turns SellerKey into seller_key.
func snake(name string) string {
	var b strings.Builder
	for i, r := range name {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				b.WriteByte('_')
			}
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}
