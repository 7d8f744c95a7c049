package meter_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
)

// decodeJSON decodes a body with the limits that the tests use.
func decodeJSON(t *testing.T, body string) *meter.Batch {
	t.Helper()
	b := meter.NewBatch()
	t.Cleanup(b.Release)
	b.DecodeJSON([]byte(body), meter.DecodeOptions{MaxEvents: 4, MaxEventBytes: 4096})
	return b
}

// plain is an event in a form that test failures can show.
type plain struct {
	ID, Source, Type, Subject, Time, Data, Extensions string
}

func show(ev meter.Event) plain {
	p := plain{
		ID: string(ev.ID), Source: string(ev.Source), Type: string(ev.Type), Subject: string(ev.Subject),
		Data: string(ev.Data), Extensions: string(ev.Extensions), Time: "stamped",
	}
	if !ev.Stamped {
		p.Time = time.Unix(0, ev.Time).UTC().Format(time.RFC3339Nano)
	}
	return p
}

func showAll(events []meter.Event) []plain {
	var all []plain
	for _, ev := range events {
		all = append(all, show(ev))
	}
	return all
}

// event is a minimal event with members added in front.
func event(members string) string {
	if members != "" {
		members += ","
	}
	return `{` + members + `"id":"1","source":"s","type":"t","subject":"x"}`
}

var minimal = plain{ID: "1", Source: "s", Type: "t", Subject: "x", Time: "stamped"}

func TestBatch_DecodeJSON(t *testing.T) {
	t.Parallel()
	with := func(change func(*plain)) plain {
		p := minimal
		change(&p)
		return p
	}
	tests := map[string]struct {
		body string
		want []plain
	}{
		"minimal":          {event(""), []plain{minimal}},
		"array":            {"[" + event("") + "," + event("") + "]", []plain{minimal, minimal}},
		"empty array":      {" [ ] \n", nil},
		"white space":      {" \r\n\t[ " + event("") + " ,\n" + event("") + " ] ", []plain{minimal, minimal}},
		"specversion":      {event(`"specversion":"1.0"`), []plain{minimal}},
		"time":             {event(`"time":"2026-01-02T15:04:05Z"`), []plain{with(func(p *plain) { p.Time = "2026-01-02T15:04:05Z" })}},
		"time with offset": {event(`"time":"2026-01-02T15:04:05.25+05:30"`), []plain{with(func(p *plain) { p.Time = "2026-01-02T09:34:05.25Z" })}},
		"time at 1970":     {event(`"time":"1970-01-01T00:00:00Z"`), []plain{with(func(p *plain) { p.Time = "1970-01-01T00:00:00Z" })}},
		"null time":        {event(`"time":null`), []plain{minimal}},
		"data verbatim":    {event(`"data":{"n" : 1.50e1 }`), []plain{with(func(p *plain) { p.Data = `{"n" : 1.50e1 }` })}},
		"null data":        {event(`"data":null`), []plain{minimal}},
		"JSON type":        {event(`"datacontenttype":"application/json","data":1`), []plain{with(func(p *plain) { p.Data = "1" })}},
		"other JSON type": {
			event(`"datacontenttype":"application/x+JSON; charset=utf-8","data":1`),
			[]plain{with(func(p *plain) {
				p.Data, p.Extensions = "1", `{"datacontenttype":"application/x+JSON; charset=utf-8"}`
			})},
		},
		"foreign type without data": {
			event(`"datacontenttype":"text/\"plain"`),
			[]plain{with(func(p *plain) { p.Extensions = `{"datacontenttype":"text/\"plain"}` })},
		},
		"base64":           {event(`"data_base64":"eyJhIjoxfQ=="`), []plain{with(func(p *plain) { p.Data = `{"a":1}` })}},
		"extensions":       {event(`"region":"eu","n":1,"b":true,"dataschema":"x:y","gone":null`), []plain{with(func(p *plain) { p.Extensions = `{"region":"eu","n":1,"b":true,"dataschema":"x:y"}` })}},
		"escaped name":     {`{"\u0069d":"1","source":"s","type":"t","subject":"x"}`, []plain{minimal}},
		"escaped value":    {event(`"ext":"a\"b"`), []plain{with(func(p *plain) { p.Extensions = `{"ext":"a\"b"}` })}},
		"escapes":          {`{"id":"\ud83d\ude00\u00e9\/","source":"a b","type":"t","subject":"é用"}`, []plain{{ID: "😀é/", Source: "a b", Type: "t", Subject: "é用", Time: "stamped"}}},
		"similar names":    {event(`"data":{"a":1,"b":{"a":1},"aa":1,"abcdefghi":1,"abcdefghj":1}`), []plain{with(func(p *plain) { p.Data = `{"a":1,"b":{"a":1},"aa":1,"abcdefghi":1,"abcdefghj":1}` })}},
		"deepest":          {event(`"data":` + strings.Repeat("[", meter.MaxDepth-1) + strings.Repeat("]", meter.MaxDepth-1)), []plain{with(func(p *plain) { p.Data = strings.Repeat("[", meter.MaxDepth-1) + strings.Repeat("]", meter.MaxDepth-1) })}},
		"longest id":       {`{"id":"` + strings.Repeat("i", meter.MaxAttribute) + `","source":"s","type":"t","subject":"x"}`, []plain{with(func(p *plain) { p.ID = strings.Repeat("i", meter.MaxAttribute) })}},
		"control in data":  {event(`"data":"\u0000"`), []plain{with(func(p *plain) { p.Data = `"\u0000"` })}},
		"huge number kept": {event(`"data":1e999999`), []plain{with(func(p *plain) { p.Data = "1e999999" })}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := decodeJSON(t, tt.body)
			if len(b.Problems) > 0 || b.Broken {
				t.Fatalf("problems %+v, broken %v", b.Problems, b.Broken)
			}
			if diff := cmp.Diff(tt.want, showAll(b.Events)); diff != "" {
				t.Error(diff)
			}
			if b.Total != len(tt.want) {
				t.Errorf("Total = %d, want %d", b.Total, len(tt.want))
			}
		})
	}
}

func manyKeys(n int, last string) string {
	var s strings.Builder
	for i := range n {
		fmt.Fprintf(&s, `"key number %d":1,`, i)
	}
	return "{" + s.String() + last + "}"
}

// TestBatch_DecodeJSON_refuses has a case for each reason: what is refused, why, where, and that the event after it is
// still read where it can be.
func TestBatch_DecodeJSON_refuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", meter.MaxAttribute+1)
	tests := map[string]struct {
		event  string
		reason meter.Reason
		field  string
		offset int // within event, −1: anywhere
	}{
		"no id":                   {`{"source":"s","type":"t","subject":"x"}`, meter.ReasonMissing, "id", 0},
		"empty id":                {`{"id":"","source":"s","type":"t","subject":"x"}`, meter.ReasonMissing, "id", 0},
		"null source":             {`{"id":"1","source":null,"type":"t","subject":"x"}`, meter.ReasonMissing, "source", 0},
		"no type":                 {`{"id":"1","source":"s","subject":"x"}`, meter.ReasonMissing, "type", 0},
		"no subject":              {`{"id":"1","source":"s","type":"t"}`, meter.ReasonMissing, "subject", 0},
		"empty object":            {`{}`, meter.ReasonMissing, "id", 0},
		"number as id":            {`{"id":1,"source":"s","type":"t","subject":"x"}`, meter.ReasonWrongType, "id", 6},
		"object as time":          {event(`"time":{}`), meter.ReasonWrongType, "time", 8},
		"long id":                 {`{"id":"` + long + `","source":"s","type":"t","subject":"x"}`, meter.ReasonTooLong, "id", -1},
		"long subject":            {`{"subject":"` + long + `","source":"s","type":"t","id":"x"}`, meter.ReasonTooLong, "subject", -1},
		"newline in subject":      {`{"id":"1","source":"s","type":"t","subject":"a\nb"}`, meter.ReasonCharacters, "subject", -1},
		"DEL in id":               {"{\"id\":\"\x7f\",\"source\":\"s\",\"type\":\"t\",\"subject\":\"x\"}", meter.ReasonCharacters, "id", -1},
		"C1 in source":            {`{"id":"1","source":"\u0085","type":"t","subject":"x"}`, meter.ReasonCharacters, "source", -1},
		"unprintable subject":     {`{"id":"1","source":"s","type":"t","subject":"a\u202eb"}`, meter.ReasonCharacters, "subject", -1},
		"old specversion":         {event(`"specversion":"0.3"`), meter.ReasonSpecVersion, "specversion", -1},
		"specversion number":      {event(`"specversion":1.0`), meter.ReasonWrongType, "specversion", -1},
		"time without zone":       {event(`"time":"2026-01-02T15:04:05"`), meter.ReasonTime, "time", -1},
		"empty time":              {event(`"time":""`), meter.ReasonTime, "time", -1},
		"Unix time":               {event(`"time":1767366245`), meter.ReasonWrongType, "time", -1},
		"year 1969":               {event(`"time":"1969-12-31T23:59:59Z"`), meter.ReasonTime, "time", -1},
		"text data type":          {event(`"datacontenttype":"text/plain","data":"a"`), meter.ReasonContentType, "datacontenttype", -1},
		"text data type, base64":  {event(`"datacontenttype":"text/plain","data_base64":"YQ=="`), meter.ReasonContentType, "datacontenttype", -1},
		"bad base64":              {event(`"data_base64":"a"`), meter.ReasonData, "data_base64", -1},
		"base64 of no JSON":       {event(`"data_base64":"YQ=="`), meter.ReasonData, "data_base64", -1},
		"base64 of two values":    {event(`"data_base64":"MSAx"`), meter.ReasonData, "data_base64", -1},
		"base64 with duplicate":   {event(`"data_base64":"eyJhIjoxLCJhIjoyfQ=="`), meter.ReasonDuplicateKey, "data_base64", -1},
		"data twice":              {event(`"data":1,"data_base64":"MQ=="`), meter.ReasonData, "data_base64", -1},
		"duplicate attribute":     {event(`"id":"2"`), meter.ReasonDuplicateKey, "id", -1},
		"duplicate extension":     {event(`"a":1,"a":2`), meter.ReasonDuplicateKey, "", -1},
		"duplicate in data":       {event(`"data":{"n":1,"n":2}`), meter.ReasonDuplicateKey, "", -1},
		"duplicate deep in data":  {event(`"data":[{"b":{"n":1,"m":0,"n":1}}]`), meter.ReasonDuplicateKey, "", -1},
		"escaped duplicate":       {event(`"data":{"n":1,"\u006e":2}`), meter.ReasonDuplicateKey, "", -1},
		"duplicate of long names": {event(`"data":{"abcdefghi":1,"abcdefghi":2}`), meter.ReasonDuplicateKey, "", -1},
		"duplicate among many":    {event(`"data":` + manyKeys(40, `"key number 7":2`)), meter.ReasonDuplicateKey, "", -1},
		"object as extension":     {event(`"a":{}`), meter.ReasonWrongType, "a", -1},
		"array as extension":      {event(`"a":[]`), meter.ReasonWrongType, "a", -1},
		"name with underscore":    {event(`"a_b":1`), meter.ReasonAttributeName, `"a_b"`, -1},
		"empty name":              {event(`"":1`), meter.ReasonAttributeName, `""`, -1},
		"long name":               {event(`"` + strings.Repeat("a", 65) + `":1`), meter.ReasonAttributeName, `"` + strings.Repeat("a", 40) + `…"`, -1},
		"attribute in upper case": {event(`"Time":"2026-01-02T15:04:05Z"`), meter.ReasonAttributeName, `"Time"`, -1},
		"large event":             {event(`"data":"` + strings.Repeat("a", 4096) + `"`), meter.ReasonEventTooLarge, "", 0},
		"number":                  {"1", meter.ReasonNotAnObject, "", 0},
		"null":                    {"null", meter.ReasonNotAnObject, "", 0},
		"array":                   {"[" + event("") + "]", meter.ReasonNotAnObject, "", 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := decodeJSON(t, "["+tt.event+","+event("")+"]")
			if len(b.Problems) != 1 || len(b.Events) != 1 || b.Total != 2 || b.Broken {
				t.Fatalf("problems %+v, events %d of %d, broken %v", b.Problems, len(b.Events), b.Total, b.Broken)
			}
			p := b.Problems[0]
			if p.Index != 0 || p.Reason != tt.reason || p.Field != tt.field || p.Detail == "" {
				t.Errorf("problem %+v, want %s of %s at index 0", p, tt.reason, tt.field)
			}
			if tt.offset >= 0 && p.Offset != tt.offset+1 {
				t.Errorf("offset %d, want %d", p.Offset, tt.offset+1)
			}
			if got := string(b.RawProblem(0)); got != tt.event {
				t.Errorf("RawProblem = %s, want the event", got)
			}
			if b.Index(0) != 1 || string(b.Raw(0)) != event("") {
				t.Errorf("the good event: index %d, raw %s", b.Index(0), b.Raw(0))
			}
		})
	}
}

// TestBatch_DecodeJSON_syntax has the ways in which a body stops being JSON: everything before it stands.
func TestBatch_DecodeJSON_syntax(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		body   string // after "[", a good event and ","
		reason meter.Reason
		offset int // from there
	}{
		"end":                    {``, meter.ReasonMalformed, 0},
		"end in object":          {`{`, meter.ReasonMalformed, 1},
		"end in name":            {`{"a`, meter.ReasonMalformed, 3},
		"end after name":         {`{"a"`, meter.ReasonMalformed, 4},
		"end after value":        {`{"a":1`, meter.ReasonMalformed, 6},
		"no closing bracket":     {event(""), meter.ReasonMalformed, len(event(""))},
		"comma before bracket":   {`]`, meter.ReasonMalformed, 0},
		"comma before brace":     {`{"a":1,}]`, meter.ReasonMalformed, 7},
		"comma in data":          {`{"data":[1,]}]`, meter.ReasonMalformed, 11},
		"no comma":               {event("") + event("") + "]", meter.ReasonMalformed, len(event(""))},
		"name without quotes":    {`{a:1}]`, meter.ReasonMalformed, 1},
		"single quotes":          {`{'a':1}]`, meter.ReasonMalformed, 1},
		"comment":                {`/**/]`, meter.ReasonMalformed, 0},
		"NaN":                    {`{"data":NaN}]`, meter.ReasonMalformed, 8},
		"plus":                   {`{"data":+1}]`, meter.ReasonMalformed, 8},
		"leading zero":           {`{"data":01}]`, meter.ReasonMalformed, 9},
		"no digits":              {`{"data":-}]`, meter.ReasonMalformed, 9},
		"no fraction":            {`{"data":1.}]`, meter.ReasonMalformed, 10},
		"no integer":             {`{"data":.5}]`, meter.ReasonMalformed, 8},
		"no exponent":            {`{"data":1e}]`, meter.ReasonMalformed, 10},
		"no exponent digits":     {`{"data":1e+}]`, meter.ReasonMalformed, 11},
		"True":                   {`{"data":True}]`, meter.ReasonMalformed, 8},
		"tru":                    {`{"data":tru}]`, meter.ReasonMalformed, 8},
		"nul":                    {`{"id":nul}]`, meter.ReasonMalformed, 6},
		"raw control character":  {"{\"data\":\"a\nb\"}]", meter.ReasonMalformed, 10},
		"unknown escape":         {`{"data":"\x"}]`, meter.ReasonMalformed, 9},
		"short \\u":              {`{"data":"\u12"}]`, meter.ReasonMalformed, 9},
		"lone high surrogate":    {`{"data":"\ud800"}]`, meter.ReasonMalformed, 9},
		"lone low surrogate":     {`{"data":"\udc00"}]`, meter.ReasonMalformed, 9},
		"swapped surrogates":     {`{"data":"\udc00\ud800"}]`, meter.ReasonMalformed, 9},
		"invalid UTF-8":          {"{\"data\":\"\xff\"}]", meter.ReasonMalformed, 9},
		"overlong UTF-8":         {"{\"data\":\"\xc0\x80\"}]", meter.ReasonMalformed, 9},
		"surrogate in UTF-8":     {"{\"data\":\"\xed\xa0\x80\"}]", meter.ReasonMalformed, 9},
		"cut UTF-8":              {"{\"data\":\"\xe7\x94\"}]", meter.ReasonMalformed, 9},
		"too deep":               {`{"data":` + strings.Repeat("[", meter.MaxDepth) + strings.Repeat("]", meter.MaxDepth) + `}]`, meter.ReasonTooDeep, 8 + meter.MaxDepth - 1},
		"after the array":        {event("") + "]]", meter.ReasonMalformed, len(event("")) + 1},
		"second array":           {event("") + "] []", meter.ReasonMalformed, len(event("")) + 2},
		"too many":               {strings.Repeat(event("")+",", 3) + event("") + "]", meter.ReasonTooManyEvents, 3 * (len(event("")) + 1)},
		"NUL":                    {"\x00]", meter.ReasonMalformed, 0},
		"non-breaking space":     {"\u00a0" + event("") + "]", meter.ReasonMalformed, 0},
		"vertical tab as space":  {"\v" + event("") + "]", meter.ReasonMalformed, 0},
		"fault before the break": {`{"id":1,}]`, meter.ReasonMalformed, 8},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			prefix := "[" + event("") + ","
			b := decodeJSON(t, prefix+tt.body)
			if len(b.Problems) != 1 || !b.Broken || len(b.Events) == 0 {
				t.Fatalf("problems %+v, broken %v, %d events", b.Problems, b.Broken, len(b.Events))
			}
			p := b.Problems[0]
			if p.Reason != tt.reason || p.Offset != len(prefix)+tt.offset || p.Index != len(b.Events) || b.Total != len(b.Events)+1 {
				t.Errorf("problem %+v of %d, want %s at %d", p, b.Total, tt.reason, len(prefix)+tt.offset)
			}
			if !strings.Contains(p.Detail, strconv.Itoa(p.Offset)) {
				t.Errorf("detail %q doesn't give the offset %d", p.Detail, p.Offset)
			}
		})
	}
}

func TestBatch_DecodeJSON_single(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"empty body":       "",
		"white space":      " \n",
		"text":             `"a"`,
		"byte order mark":  "\ufeff" + event(""),
		"trailing garbage": event("") + "x",
		"two events":       event("") + event(""),
		"bad, two events":  "{}" + event(""),
		"HTML":             "<html>",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := decodeJSON(t, body)
			if len(b.Events) != 0 || len(b.Problems) != 1 || b.Total != 1 || b.Problems[0].Index != 0 {
				t.Errorf("events %d, total %d, problems %+v", len(b.Events), b.Total, b.Problems)
			}
			_ = b.RawProblem(0)
		})
	}
}

func TestBatch_DecodeLines(t *testing.T) {
	t.Parallel()
	b := meter.NewBatch()
	defer b.Release()
	body := "\n" + event("") + "\r\n  \n{\"id\":\n" + event("") + " x\n[]\n" + event(`"time":"2026-01-02T15:04:05Z"`)
	b.DecodeLines([]byte(body), meter.DecodeOptions{})
	if b.Total != 5 || len(b.Events) != 2 || b.Broken {
		t.Fatalf("total %d, events %d, broken %v", b.Total, len(b.Events), b.Broken)
	}
	if b.Index(0) != 0 || b.Index(1) != 4 {
		t.Errorf("indexes %d and %d, want 0 and 4", b.Index(0), b.Index(1))
	}
	var got []string
	for i, p := range b.Problems {
		got = append(got, fmt.Sprintf("%d %s %q", p.Index, p.Reason, b.RawProblem(i)))
	}
	want := []string{
		`1 malformed_json "{\"id\":"`,
		fmt.Sprintf("2 malformed_json %q", event("")+" x"),
		`3 not_an_object "[]"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	b.DecodeLines([]byte(strings.Repeat(event("")+"\n", 3)), meter.DecodeOptions{MaxEvents: 2})
	if len(b.Events) != 2 || len(b.Problems) != 1 || b.Problems[0].Reason != meter.ReasonTooManyEvents || !b.Broken {
		t.Errorf("beyond the limit: %d events, problems %+v, broken %v", len(b.Events), b.Problems, b.Broken)
	}
}

func TestBatch_DecodeBinary(t *testing.T) {
	t.Parallel()
	base := []meter.Attribute{{"ID", "1"}, {"Source", "s"}, {"type", "t"}, {"subject", "é"}, {"specversion", "1.0"}}
	with := func(more ...meter.Attribute) []meter.Attribute {
		return append(append([]meter.Attribute(nil), base...), more...)
	}
	good := map[string]struct {
		attributes []meter.Attribute
		data       string
		want       plain
	}{
		"minimal":    {base, "", plain{ID: "1", Source: "s", Type: "t", Subject: "é", Time: "stamped"}},
		"data":       {with(meter.Attribute{"datacontenttype", "application/json; charset=utf-8"}), " {\"n\":1}\n", plain{ID: "1", Source: "s", Type: "t", Subject: "é", Time: "stamped", Data: `{"n":1}`, Extensions: `{"datacontenttype":"application/json; charset=utf-8"}`}},
		"time":       {with(meter.Attribute{"time", "2026-01-02T15:04:05Z"}), "", plain{ID: "1", Source: "s", Type: "t", Subject: "é", Time: "2026-01-02T15:04:05Z"}},
		"extensions": {with(meter.Attribute{"region", `a"b`}, meter.Attribute{"n", "1"}), "", plain{ID: "1", Source: "s", Type: "t", Subject: "é", Time: "stamped", Extensions: `{"region":"a\"b","n":"1"}`}},
	}
	for name, tt := range good {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := meter.NewBatch()
			defer b.Release()
			b.DecodeBinary(tt.attributes, []byte(tt.data), meter.DecodeOptions{})
			if len(b.Problems) > 0 {
				t.Fatal(b.Problems)
			}
			if diff := cmp.Diff([]plain{tt.want}, showAll(b.Events)); diff != "" {
				t.Error(diff)
			}
			// The raw form can be replayed as structured JSON.
			again := decodeJSON(t, string(b.Raw(0)))
			if len(again.Problems) > 0 || string(again.Events[0].Data) != tt.want.Data || string(again.Events[0].ID) != tt.want.ID {
				t.Errorf("raw form %s: %+v", b.Raw(0), again.Problems)
			}
		})
	}
	bad := map[string]struct {
		attributes []meter.Attribute
		data       string
		reason     meter.Reason
	}{
		"nothing":       {nil, "", meter.ReasonMissing},
		"duplicate":     {with(meter.Attribute{"id", "2"}), "", meter.ReasonDuplicateKey},
		"not UTF-8":     {with(meter.Attribute{"region", "\xff"}), "", meter.ReasonCharacters},
		"control":       {[]meter.Attribute{{"id", "\x01"}}, "", meter.ReasonCharacters},
		"long":          {[]meter.Attribute{{"id", strings.Repeat("a", 1025)}}, "", meter.ReasonTooLong},
		"old":           {[]meter.Attribute{{"specversion", "0.3"}}, "", meter.ReasonSpecVersion},
		"time":          {with(meter.Attribute{"time", "now"}), "", meter.ReasonTime},
		"data header":   {with(meter.Attribute{"data", "1"}), "", meter.ReasonAttributeName},
		"odd name":      {with(meter.Attribute{"x-y", "1"}), "", meter.ReasonAttributeName},
		"text":          {with(meter.Attribute{"datacontenttype", "text/plain"}), "a", meter.ReasonContentType},
		"broken data":   {base, "{", meter.ReasonData},
		"trailing data": {base, "{} x", meter.ReasonData},
		"duplicate key": {base, `{"a":1,"a":1}`, meter.ReasonDuplicateKey},
		"too large":     {base, strings.Repeat(" ", 5000) + "1", meter.ReasonEventTooLarge},
		"too many":      {make([]meter.Attribute, 200), "", meter.ReasonTooManyAttributes},
	}
	for name, tt := range bad {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := meter.NewBatch()
			defer b.Release()
			b.DecodeBinary(tt.attributes, []byte(tt.data), meter.DecodeOptions{MaxEventBytes: 4096})
			if len(b.Problems) != 1 || b.Problems[0].Reason != tt.reason || b.Total != 1 || len(b.Events) != 0 {
				t.Fatalf("problems %+v, want %s", b.Problems, tt.reason)
			}
			_ = b.RawProblem(0)
		})
	}
}

// TestBatch_reuse makes sure that nothing of one request shows in the next.
func TestBatch_reuse(t *testing.T) {
	t.Parallel()
	b := meter.NewBatch()
	b.DecodeJSON([]byte("["+event(`"region":"eu","data":{"a":1},"time":"2026-01-02T15:04:05Z"`)+",1"), meter.DecodeOptions{})
	b.DecodeJSON([]byte(event("")), meter.DecodeOptions{})
	if diff := cmp.Diff([]plain{minimal}, showAll(b.Events)); diff != "" || len(b.Problems) != 0 || b.Total != 1 || b.Broken {
		t.Error(diff, b.Problems, b.Total, b.Broken)
	}
	b.Release()
}
