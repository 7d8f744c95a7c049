package demo_test

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/internal/demo"
)

func TestExpect_BuiltInTrace(t *testing.T) {
	t.Parallel()
	r, err := demo.OpenTrace()
	if err != nil {
		t.Fatal(err)
	}
	e, err := demo.Expect(r, 50)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for meter, q := range e.ByMeter {
		got[meter] = q.String()
	}
	// Summed from the file by hand, with awk.
	want := map[string]string{"requests": "8819", "prompt_tokens": "18059974", "generated_tokens": "245896", "longest_prompt": "720789"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sums by meter (-want +got):\n%s", diff)
	}
	if e.Events != 8819 || e.Records != 50*2*4 {
		t.Errorf("events, records = %d, %d, want 8819, 400", e.Events, e.Records)
	}
}

// TestTrace_IsTheOriginal compares the built-in copy with the file it was made from, where that is at hand.
func TestTrace_IsTheOriginal(t *testing.T) {
	t.Parallel()
	want, err := os.ReadFile("../../../shared/data/" + demo.TraceName)
	if err != nil {
		t.Skipf("the original is not beside this checkout: %v", err)
	}
	r, err := demo.OpenTrace()
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the built-in trace differs from the original")
	}
}

func TestExpect_SaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	const header = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
	tests := map[string]struct{ in, want string }{
		"empty file":  {"", "EOF"},
		"no rows":     {header, "no rows"},
		"no column":   {"TIMESTAMP,Tokens\n", `no column "ContextTokens"`},
		"bad time":    {header + "yesterday,1,2\n", "line 2"},
		"bad number":  {header + "2023-11-16 18:00:00.0,1,2\n2023-11-16 18:00:00.0,x,2\n", "line 3"},
		"not ordered": {header + "2023-11-16 19:00:00.0,1,2\n2023-11-16 18:59:59.0,1,2\n", "sort the file"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := demo.Expect(strings.NewReader(tt.in), 3); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Expect() = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestPlanReplay(t *testing.T) {
	t.Parallel()
	first := time.Date(2023, 11, 16, 18, 17, 3, 0, time.UTC)
	last := time.Date(2023, 11, 16, 19, 14, 19, 0, time.UTC)
	tests := map[string]struct{ now, wantStart, wantEnd time.Time }{
		"late in the hour":  {time.Date(2026, 1, 2, 15, 16, 0, 0, time.UTC), time.Date(2026, 1, 2, 13, 0, 0, 0, time.UTC), time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)},
		"early in the hour": {time.Date(2026, 1, 2, 15, 15, 59, 0, time.UTC), time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC), time.Date(2026, 1, 2, 14, 0, 0, 0, time.UTC)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := demo.PlanReplay(first, last, tt.now)
			if !got.Start.Equal(tt.wantStart) || !got.End.Equal(tt.wantEnd) {
				t.Errorf("PlanReplay() = %v to %v, want %v to %v", got.Start, got.End, tt.wantStart, tt.wantEnd)
			}
			if d := last.Add(got.Shift); !d.Before(got.End) || got.Shift%time.Hour != 0 {
				t.Errorf("shift %v moves the last event to %v, not into the last hour", got.Shift, d)
			}
		})
	}
}
