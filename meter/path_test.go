package meter_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
)

func TestParsePath(t *testing.T) {
	t.Parallel()
	member := func(name string) meter.PathStep { return meter.PathStep{Name: name, Index: -1} }
	tests := map[string][]meter.PathStep{ // nil: refused
		"$.tokens":                     {member("tokens")},
		"$.usage.input_tokens":         {member("usage"), member("input_tokens")},
		"$['input tokens']":            {member("input tokens")},
		"$['a.b'].c":                   {member("a.b"), member("c")},
		"$.choices[0].n":               {member("choices"), {Index: 0}, member("n")},
		"$[10]":                        {{Index: 10}},
		"$.用量":                         {member("用量")},
		"$" + strings.Repeat(".a", 16): steps16(),
		"":                             nil,
		"$":                            nil,
		"tokens":                       nil,
		"$tokens":                      nil,
		"$.":                           nil,
		"$..a":                         nil,
		"$.a.":                         nil,
		"$.*":                          nil,
		"$.a[*]":                       nil,
		"$.a[-1]":                      nil,
		"$.a[+1]":                      nil,
		"$.a[01]":                      nil,
		"$.a[1:2]":                     nil,
		"$.a[?(@.b)]":                  nil,
		"$.a[":                         nil,
		"$.a[]":                        nil,
		"$.a[1000001]":                 nil,
		"$['']":                        nil,
		"$['a":                         nil,
		"$['a']b":                      nil,
		"$.a b":                        nil,
		"$.a]":                         nil,
		`$["a"]`:                       nil,
		"$" + strings.Repeat(".a", 17): nil,
	}
	for text, want := range tests {
		p, err := meter.ParsePath(text)
		if (err == nil) != (want != nil) {
			t.Errorf("ParsePath(%q): %v", text, err)
			continue
		}
		if err != nil {
			if !strings.Contains(err.Error(), "$.name") {
				t.Errorf("ParsePath(%q): %v doesn't show the form", text, err)
			}
			continue
		}
		if diff := cmp.Diff(want, p.Steps()); diff != "" {
			t.Errorf("ParsePath(%q): %s", text, diff)
		}
		if p.String() != text || p.IsZero() {
			t.Errorf("ParsePath(%q).String() = %q", text, p)
		}
	}
	if !(meter.Path{}).IsZero() {
		t.Error("the zero path names something")
	}
}

func steps16() []meter.PathStep {
	var all []meter.PathStep
	for range 16 {
		all = append(all, meter.PathStep{Name: "a", Index: -1})
	}
	return all
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"$.a", "$['a b'][0].c", "$..", "$[", "$.a[1", "$['"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := meter.ParsePath(text)
		if err != nil {
			return
		}
		if again, err := meter.ParsePath(p.String()); err != nil || cmp.Diff(p.Steps(), again.Steps()) != "" {
			t.Errorf("%q reads differently the second time: %v", text, err)
		}
		for _, s := range p.Steps() {
			if (s.Name == "") == (s.Index < 0) {
				t.Errorf("%q has the step %+v", text, s)
			}
		}
	})
}
