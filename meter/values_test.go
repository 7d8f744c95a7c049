package meter_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
)

func newCatalog(tb testing.TB, meters ...meter.Meter) *meter.Catalog {
	tb.Helper()
	for i := range meters {
		meters[i].EventType = cmpOr(meters[i].EventType, "t")
		meters[i].Scale = meter.NewQuantity(1, 0)
	}
	c, err := meter.NewCatalog(meters)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func cmpOr(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func dimension(name, path string) meter.Dimension {
	return meter.Dimension{Name: name, Path: meter.MustParsePath(path)}
}

// TestExtractor_Check has a case for each way in which a value can be bad, and the forms that are good.
func TestExtractor_Check(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", meter.MaxAttribute+1)
	sum := newCatalog(t, meter.Meter{Slug: "sum", Aggregation: meter.Sum, Value: meter.MustParsePath("$.u.n"), GroupBy: []meter.Dimension{dimension("d", "$.d")}})
	unique := newCatalog(t, meter.Meter{Slug: "unique", Aggregation: meter.UniqueCount, Value: meter.MustParsePath("$.u['n']")})
	count := newCatalog(t, meter.Meter{Slug: "count", Aggregation: meter.Count})
	at := newCatalog(t, meter.Meter{Slug: "at", Aggregation: meter.Max, Value: meter.MustParsePath("$.l[1]")})
	tests := map[string]struct {
		catalog *meter.Catalog
		data    string
		reason  meter.Reason // "" is good
		field   string
	}{
		"number":                {sum, `{"u":{"n":1.5}}`, "", ""},
		"text of a number":      {sum, `{"u":{"n":"1.5"}}`, "", ""},
		"escaped text":          {sum, `{"u":{"n":"\u0031.5"}}`, "", ""},
		"escaped name":          {sum, `{"u":{"\u006e":1}}`, "", ""},
		"zero":                  {sum, `{"u":{"n":0}}`, "", ""},
		"among others":          {sum, ` { "a" : [ { "u" : { "n" : true } } ] , "u" : { "x" : "}" , "n" : 1 } } `, "", ""},
		"name in a text":        {sum, `{"a":"\"n\":\\","u":{"n":1}}`, "", ""},
		"good dimension":        {sum, `{"u":{"n":1},"d":"` + long[1:] + `"}`, "", ""},
		"bool dimension":        {sum, `{"u":{"n":1},"d":true}`, "", ""},
		"null dimension":        {sum, `{"u":{"n":1},"d":null}`, "", ""},
		"no data":               {sum, ``, meter.ReasonValueMissing, "$.u.n"},
		"data is a number":      {sum, `1`, meter.ReasonValueMissing, "$.u.n"},
		"data is an array":      {sum, `[{"u":{"n":1}}]`, meter.ReasonValueMissing, "$.u.n"},
		"empty object":          {sum, `{}`, meter.ReasonValueMissing, "$.u.n"},
		"absent":                {sum, `{"u":{"m":1},"n":1}`, meter.ReasonValueMissing, "$.u.n"},
		"parent is no object":   {sum, `{"u":1}`, meter.ReasonValueMissing, "$.u.n"},
		"null":                  {sum, `{"u":{"n":null}}`, meter.ReasonValueMissing, "$.u.n"},
		"empty text":            {sum, `{"u":{"n":""}}`, meter.ReasonValueMissing, "$.u.n"},
		"true":                  {sum, `{"u":{"n":true}}`, meter.ReasonValueType, "$.u.n"},
		"false":                 {sum, `{"u":{"n":false}}`, meter.ReasonValueType, "$.u.n"},
		"object":                {sum, `{"u":{"n":{}}}`, meter.ReasonValueType, "$.u.n"},
		"array":                 {sum, `{"u":{"n":[1]}}`, meter.ReasonValueType, "$.u.n"},
		"NaN":                   {sum, `{"u":{"n":"NaN"}}`, meter.ReasonValueNumber, "$.u.n"},
		"Infinity":              {sum, `{"u":{"n":"Infinity"}}`, meter.ReasonValueNumber, "$.u.n"},
		"comma":                 {sum, `{"u":{"n":"1,5"}}`, meter.ReasonValueNumber, "$.u.n"},
		"space":                 {sum, `{"u":{"n":" 1"}}`, meter.ReasonValueNumber, "$.u.n"},
		"negative":              {sum, `{"u":{"n":-1}}`, meter.ReasonValueNegative, "$.u.n"},
		"huge":                  {sum, `{"u":{"n":1e15}}`, meter.ReasonValueTooLarge, "$.u.n"},
		"huge exponent":         {sum, `{"u":{"n":1e400}}`, meter.ReasonValueTooLarge, "$.u.n"},
		"fine":                  {sum, `{"u":{"n":1e-19}}`, meter.ReasonValueTooFine, "$.u.n"},
		"object dimension":      {sum, `{"u":{"n":1},"d":{}}`, meter.ReasonDimension, "$.d"},
		"array dimension":       {sum, `{"u":{"n":1},"d":[]}`, meter.ReasonDimension, "$.d"},
		"long dimension":        {sum, `{"u":{"n":1},"d":"` + long + `"}`, meter.ReasonDimension, "$.d"},
		"unique text":           {unique, `{"u":{"n":"user-1"}}`, "", ""},
		"unique number":         {unique, `{"u":{"n":-1e999}}`, "", ""},
		"unique long":           {unique, `{"u":{"n":"` + long + `"}}`, meter.ReasonValueTooLong, "$.u['n']"},
		"unique empty":          {unique, `{"u":{"n":""}}`, meter.ReasonValueMissing, "$.u['n']"},
		"unique null":           {unique, `{"u":{"n":null}}`, meter.ReasonValueMissing, "$.u['n']"},
		"unique bool":           {unique, `{"u":{"n":true}}`, meter.ReasonValueType, "$.u['n']"},
		"count needs nothing":   {count, ``, "", ""},
		"second element":        {at, `{"l":["x",2,[]]}`, "", ""},
		"element missing":       {at, `{"l":[1]}`, meter.ReasonValueMissing, "$.l[1]"},
		"index into an object":  {at, `{"l":{"1":2}}`, meter.ReasonValueMissing, "$.l[1]"},
		"number as last member": {sum, `{"d":"x","u":{"n":12}}`, "", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			metered, p := tt.catalog.NewExtractor().Check(&meter.Event{Type: []byte("t"), Data: []byte(tt.data)})
			if !metered {
				t.Fatal("the event has a meter")
			}
			if tt.reason == "" {
				if p != nil {
					t.Fatal(p)
				}
				return
			}
			if p == nil || p.Reason != tt.reason || p.Field != tt.field || p.Meter != tt.catalog.Meters()[0].Slug {
				t.Fatalf("problem %+v, want %s at %s", p, tt.reason, tt.field)
			}
			if !strings.Contains(p.Detail, p.Meter) || !strings.Contains(p.Detail, p.Field) {
				t.Errorf("detail %q names neither meter nor path", p.Detail)
			}
			if values, problem := tt.catalog.Values(&meter.Event{Type: []byte("t"), Data: []byte(tt.data)}); len(values) != 0 || problem == nil {
				t.Errorf("Values = %v, %v", values, problem)
			}
		})
	}
}

func TestExtractor_unknownType(t *testing.T) {
	t.Parallel()
	c := newCatalog(t, meter.Meter{Slug: "a", Aggregation: meter.Count})
	x := c.NewExtractor()
	for _, typ := range []string{"t", "u", "", "t"} { // the cache of the last type must not mislead
		if metered, p := x.Check(&meter.Event{Type: []byte(typ)}); metered != (typ == "t") || p != nil {
			t.Errorf("type %q: metered %v, %v", typ, metered, p)
		}
		if c.ForType([]byte(typ)) != (typ == "t") {
			t.Errorf("ForType(%q)", typ)
		}
	}
}

func TestCatalog_Values(t *testing.T) {
	t.Parallel()
	path := meter.MustParsePath
	meters := []meter.Meter{
		{Slug: "sum", Aggregation: meter.Sum, Value: path("$.n"), GroupBy: []meter.Dimension{dimension("m", "$.model"), dimension("none", "$.none"), dimension("b", "$.flag")}},
		{Slug: "max", Aggregation: meter.Max, Value: path("$.n"), GroupBy: []meter.Dimension{dimension("m", "$.model"), dimension("none", "$.none"), dimension("b", "$.flag")}},
		{Slug: "count", Aggregation: meter.Count},
		{Slug: "who", Aggregation: meter.UniqueCount, Value: path("$.user"), GroupBy: []meter.Dimension{dimension("n", "$.n")}},
		{Slug: "other", EventType: "u", Aggregation: meter.Count},
	}
	c := newCatalog(t, meters...)
	ev := meter.Event{Type: []byte("t"), Data: []byte(`{"flag":true,"user":"a\"b","n":"1.50","model":"m\u002d1"}`)}
	values, problem := c.Values(&ev)
	if problem != nil {
		t.Fatal(problem)
	}
	var got []string
	for _, v := range values {
		var slugs []string
		for _, m := range c.Meters() {
			if m.Fingerprint() == v.Meter {
				slugs = append(slugs, m.Slug)
			}
		}
		got = append(got, fmt.Sprintf("%s %s %q %q", strings.Join(slugs, " "), v.Quantity, v.Text, v.Dimensions))
	}
	want := []string{
		`sum max 1.5 "" ["m-1" "" "true"]`, // one value serves both
		`count 1 "" []`,
		`who 0 "a\"b" ["1.50"]`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// One bad value leaves the others.
	ev.Data = []byte(`{"user":"x"}`)
	if values, problem := c.Values(&ev); len(values) != 2 || problem == nil || problem.Meter != "sum" {
		t.Errorf("%d values, problem %v", len(values), problem)
	}
}

func TestNewCatalog(t *testing.T) {
	t.Parallel()
	one := meter.NewQuantity(1, 0)
	good := meter.Meter{Slug: "a", EventType: "t", Aggregation: meter.Count, Scale: one}
	bad := meter.Meter{Slug: "B", EventType: "", Aggregation: meter.Count, Scale: one}
	_, err := meter.NewCatalog([]meter.Meter{good, bad, good})
	for _, want := range []string{"meter 2 (B): slug:", "event_type:", `meter 3: slug "a" is already that of meter 1`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %q", err, want)
		}
	}
	c, err := meter.NewCatalog(nil)
	if err != nil || len(c.Meters()) != 0 {
		t.Errorf("no meters: %v", err)
	}
	c, err = meter.NewCatalog([]meter.Meter{good})
	if err != nil {
		t.Fatal(err)
	}
	if m, ok := c.Meter("a"); !ok || m.Slug != "a" {
		t.Errorf("Meter(a) = %v, %v", m, ok)
	}
	if _, ok := c.Meter("b"); ok {
		t.Error("Meter(b) is there")
	}
}
