package config

import (
	"encoding"
	"fmt"
	"reflect"
	"sort"
	"strconv"
	"strings"
)

// field is one key of the configuration: a leaf of the struct.
type field struct {
	key   string
	value reflect.Value
	tag   reflect.StructTag
}

// forEachField calls visit for every key below v, which must be a settable struct. Lists of tables are one field.
func forEachField(v reflect.Value, prefix string, visit func(field)) {
	for i := range v.NumField() {
		declared := v.Type().Field(i)
		name := declared.Tag.Get("toml")
		if name == "" || name == "-" {
			continue
		}
		key := joinKey(prefix, name)
		if declared.Type.Kind() == reflect.Struct {
			forEachField(v.Field(i), key, visit)
			continue
		}
		visit(field{key: key, value: v.Field(i), tag: declared.Tag})
	}
}

// forEachLeaf is forEachField, with the entries of lists of tables visited one by one.
func forEachLeaf(v reflect.Value, prefix string, visit func(field)) {
	forEachField(v, prefix, func(f field) {
		if !f.isTableList() {
			visit(f)
			return
		}
		for i := range f.value.Len() {
			forEachLeaf(f.value.Index(i), entryKey(f.key, i), visit)
		}
	})
}

// entryKey is the key of an entry of a list of tables, such as meters[2].
func entryKey(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }

// isTableList reports whether the field is a list of tables, such as meters.
func (f field) isTableList() bool {
	return f.value.Kind() == reflect.Slice && f.value.Type().Elem().Kind() == reflect.Struct
}

func joinKey(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}

// decodeTable sets the fields of a struct from a TOML table and collects every fault.
func decodeTable(values map[string]any, v reflect.Value, prefix string, faults *Faults) {
	known := map[string]int{}
	var names []string
	for i := range v.NumField() {
		if name := v.Type().Field(i).Tag.Get("toml"); name != "" && name != "-" {
			known[name] = i
			names = append(names, name)
		}
	}
	for _, name := range sortedKeys(values) {
		key := joinKey(prefix, name)
		i, ok := known[name]
		if !ok {
			faults.add(key, unknownKey(prefix, name, names))
			continue
		}
		decodeValue(values[name], v.Field(i), key, faults)
	}
}

// decodeValue sets one field, table or list from its TOML value.
func decodeValue(raw any, v reflect.Value, key string, faults *Faults) {
	switch {
	case v.Kind() == reflect.Struct:
		table, ok := raw.(map[string]any)
		if !ok {
			faults.add(key, fmt.Sprintf("must be a table [%s] (got %s)", key, describe(raw)))
			return
		}
		decodeTable(table, v, key, faults)
	case (field{value: v}).isTableList():
		decodeTableList(raw, v, key, faults)
	default:
		if err := setValue(v, raw); err != nil {
			faults.add(key, err.Error())
		}
	}
}

// decodeTableList decodes [[key]] entries, each on top of its own defaults.
func decodeTableList(raw any, v reflect.Value, key string, faults *Faults) {
	list, ok := raw.([]any)
	if !ok {
		faults.add(key, fmt.Sprintf("must be a list of tables, each begun with [[%s]] (got %s)", key, describe(raw)))
		return
	}
	entries := reflect.MakeSlice(v.Type(), len(list), len(list))
	for i, item := range list {
		if d, ok := reflect.TypeAssert[interface{ setDefaults() }](entries.Index(i).Addr()); ok {
			d.setDefaults()
		}
		decodeValue(item, entries.Index(i), entryKey(key, i), faults)
	}
	v.Set(entries)
}

// setValue sets a leaf from a decoded TOML value.
func setValue(v reflect.Value, raw any) error {
	if u, ok := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr()); ok {
		switch x := raw.(type) {
		case string:
			return u.UnmarshalText([]byte(x))
		case int64:
			if v.Type() == reflect.TypeFor[Size]() {
				return u.UnmarshalText(strconv.AppendInt(nil, x, 10))
			}
		}
		example := "5m"
		if v.Type() == reflect.TypeFor[Size]() {
			example = "64KiB"
		}
		return fmt.Errorf("must be a text in quotes such as %q (got %s)", example, describe(raw))
	}
	switch v.Kind() {
	case reflect.String:
		return setString(v, raw)
	case reflect.Bool:
		if x, ok := raw.(bool); ok {
			v.SetBool(x)
			return nil
		}
		return fmt.Errorf("must be true or false (got %s)", describe(raw))
	case reflect.Int:
		if x, ok := raw.(int64); ok {
			v.SetInt(x)
			return nil
		}
		return fmt.Errorf("must be a whole number without quotes (got %s)", describe(raw))
	case reflect.Float64:
		switch x := raw.(type) {
		case float64:
			v.SetFloat(x)
			return nil
		case int64:
			v.SetFloat(float64(x))
			return nil
		}
		return fmt.Errorf("must be a number without quotes (got %s)", describe(raw))
	case reflect.Slice:
		return setStrings(v, raw)
	case reflect.Map:
		return setStringMap(v, raw)
	default:
		return fmt.Errorf("can't be set from %s", describe(raw))
	}
}

// setString takes a text, or a whole number where a text is wanted (scale = 1000). A floating point number is refused:
// its text isn't known to be exact.
func setString(v reflect.Value, raw any) error {
	switch x := raw.(type) {
	case string:
		v.SetString(x)
		return nil
	case int64:
		v.SetString(strconv.FormatInt(x, 10))
		return nil
	}
	return fmt.Errorf("must be a text in quotes (got %s)", describe(raw))
}

func setStrings(v reflect.Value, raw any) error {
	list, ok := raw.([]any)
	if !ok {
		return fmt.Errorf("must be a list of texts such as [\"a\", \"b\"] (got %s)", describe(raw))
	}
	var texts []string
	for _, item := range list {
		text, ok := item.(string)
		if !ok {
			return fmt.Errorf("must be a list of texts such as [\"a\", \"b\"] (got %s in it)", describe(item))
		}
		texts = append(texts, text)
	}
	v.Set(reflect.ValueOf(texts))
	return nil
}

func setStringMap(v reflect.Value, raw any) error {
	table, ok := raw.(map[string]any)
	if !ok {
		return fmt.Errorf("must be a table such as { model = \"$.model\" } (got %s)", describe(raw))
	}
	texts := make(map[string]string, len(table))
	for _, name := range sortedKeys(table) {
		text, ok := table[name].(string)
		if !ok {
			return fmt.Errorf("%s must be a text in quotes (got %s)", name, describe(table[name]))
		}
		texts[name] = text
	}
	v.Set(reflect.ValueOf(texts))
	return nil
}

// setText sets a leaf from the text of an environment variable.
func setText(v reflect.Value, text string) error {
	if u, ok := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr()); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.Bool:
		x, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("must be true or false (got %q)", text)
		}
		v.SetBool(x)
	case reflect.Int:
		x, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("must be a whole number (got %q)", text)
		}
		v.SetInt(int64(x))
	case reflect.Float64:
		x, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("must be a number (got %q)", text)
		}
		v.SetFloat(x)
	case reflect.Slice:
		var texts []string
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item != "" {
				texts = append(texts, item)
			}
		}
		v.Set(reflect.ValueOf(texts))
	default:
		v.SetString(text)
	}
	return nil
}

// describe names a TOML value for an error, in the file's own terms.
func describe(raw any) string {
	switch x := raw.(type) {
	case string:
		return strconv.Quote(shorten(x))
	case bool:
		return strconv.FormatBool(x)
	case int64:
		return strconv.FormatInt(x, 10)
	case float64:
		return "the number " + strconv.FormatFloat(x, 'g', -1, 64)
	case map[string]any:
		return "a table"
	case []any:
		return "a list"
	default:
		return "a date or time"
	}
}

// shorten bounds a text quoted in an error.
func shorten(text string) string {
	const limit = 80
	if len(text) > limit {
		return text[:limit] + "…"
	}
	return text
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
