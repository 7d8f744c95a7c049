package meter_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/meterd/meterd/meter"
)

func TestParseTime(t *testing.T) {
	t.Parallel()
	tests := map[string]string{ // input → as time.Parse would say; "" is refused
		"2026-01-02T15:04:05Z":                 "2026-01-02T15:04:05Z",
		"2026-01-02t15:04:05z":                 "2026-01-02T15:04:05Z",
		"2026-01-02T15:04:05.1Z":               "2026-01-02T15:04:05.1Z",
		"2026-01-02T15:04:05.123456789Z":       "2026-01-02T15:04:05.123456789Z",
		"2026-01-02T15:04:05.1234567899Z":      "2026-01-02T15:04:05.123456789Z",
		"2026-01-02T23:30:00-01:00":            "2026-01-03T00:30:00Z",
		"2026-01-02T00:30:00+23:59":            "2026-01-01T00:31:00Z",
		"2026-01-02T00:30:00-00:00":            "2026-01-02T00:30:00Z",
		"2024-02-29T00:00:00Z":                 "2024-02-29T00:00:00Z",
		"2000-02-29T00:00:00Z":                 "2000-02-29T00:00:00Z",
		"1970-01-01T00:00:00Z":                 "1970-01-01T00:00:00Z",
		"2261-12-31T23:59:59Z":                 "2261-12-31T23:59:59Z",
		"2016-12-31T23:59:60Z":                 "2016-12-31T23:59:59.999999999Z",
		"2017-01-01T07:59:60.5+08:00":          "2016-12-31T23:59:59.999999999Z",
		"2016-12-31T22:59:60Z":                 "",
		"2023-02-29T00:00:00Z":                 "",
		"2100-02-29T00:00:00Z":                 "",
		"2026-04-31T00:00:00Z":                 "",
		"2026-00-01T00:00:00Z":                 "",
		"2026-13-01T00:00:00Z":                 "",
		"2026-01-00T00:00:00Z":                 "",
		"2026-01-32T00:00:00Z":                 "",
		"2026-01-02T24:00:00Z":                 "",
		"2026-01-02T15:60:00Z":                 "",
		"2026-01-02T15:04:61Z":                 "",
		"2026-01-02 15:04:05Z":                 "",
		"2026-01-02T15:04:05":                  "",
		"2026-01-02T15:04Z":                    "",
		"2026-01-02T15:04:05.Z":                "",
		"2026-01-02T15:04:05,5Z":               "",
		"2026-01-02T15:04:05+0100":             "",
		"2026-01-02T15:04:05+24:00":            "",
		"2026-01-02T15:04:05+01:60":            "",
		"2026-01-02T15:04:05+1:000":            "",
		"2026-01-02T15:04:05ZZ":                "",
		"2026-1-2T15:04:05Z":                   "",
		"1970-01-01T00:00:00+00:01":            "",
		"1969-12-31T23:59:59Z":                 "",
		"2262-01-01T00:00:00Z":                 "",
		"20a6-01-02T15:04:05Z":                 "",
		"2026-01-02T15:04:0:Z":                 "",
		"Fri, 02 Jan 2026 15:04:05 GMT":        "",
		"":                                     "",
		strings.Repeat("9", 40):                "",
		"2026-01-02T15:04:05.000000000000000Z": "2026-01-02T15:04:05Z",
	}
	for in, want := range tests {
		got := ""
		if nanos, ok := meter.ParseTime([]byte(in)); ok {
			got = time.Unix(0, nanos).UTC().Format(time.RFC3339Nano)
		}
		if got != want {
			t.Errorf("ParseTime(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestParseTime_random(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		nanos := rapid.Int64Range(0, time.Date(2261, 12, 30, 0, 0, 0, 0, time.UTC).UnixNano()).Draw(t, "nanos")
		minutes := rapid.IntRange(-1439, 1439).Draw(t, "offset")
		at := time.Unix(0, nanos).In(time.FixedZone("", minutes*60))
		if at.Year() < 1970 {
			t.Skip("not written in a year we read")
		}
		text := at.Format(time.RFC3339Nano)
		if got, ok := meter.ParseTime([]byte(text)); !ok || got != nanos {
			t.Errorf("ParseTime(%s) = %d, %v, want %d", text, got, ok, nanos)
		}
	})
}

// FuzzParseTime compares with time.Parse, which is laxer.
func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"2026-01-02T15:04:05.5Z", "2026-01-02T15:04:05+05:30", "2016-12-31T23:59:60Z", "1970-01-01T00:00:00-00:01", "2024-02-29T00:00:00z"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, ok := meter.ParseTime(text)
		if !ok || (len(text) > 18 && string(text[17:19]) == "60") {
			return
		}
		want, err := time.Parse(time.RFC3339Nano, strings.ToUpper(string(text)))
		if err != nil || want.UnixNano() != got {
			t.Errorf("ParseTime(%q) = %d, time.Parse: %v, %v", text, got, want, err)
		}
	})
}
