package config

import (
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"
)

// Units of [Size].
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

// Size is a number of bytes, written "64KiB", "16MiB", "8GiB", "512B" or as a plain number of bytes.
type Size int64

var sizeUnits = []struct {
	name string
	size Size
}{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}, {"B", 1}}

// ParseSize reads a size. Decimal units such as MB are refused rather than guessed at.
func ParseSize(text string) (Size, error) {
	number, unit := strings.TrimSpace(text), Size(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, unit = strings.TrimSpace(rest), u.size
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/int64(unit) {
		return 0, fmt.Errorf("must be a size such as 512B, 64KiB, 16MiB or 8GiB (got %q)", text)
	}
	return Size(n) * unit, nil
}

// String writes the largest unit that divides the size.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s >= u.size && s%u.size == 0 {
			return strconv.FormatInt(int64(s/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// MarshalText writes [Size.String].
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what [ParseSize] reads.
func (s *Size) UnmarshalText(text []byte) error {
	parsed, err := ParseSize(string(text))
	if err != nil {
		return err
	}
	*s = parsed
	return nil
}

// Duration is a time.Duration, written "200ms", "30s", "5m" or "480h".
type Duration time.Duration

// Std is the duration as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String is time.Duration's notation without zero parts: "5m", not "5m0s".
func (d Duration) String() string {
	text := time.Duration(d).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// MarshalText writes [Duration.String].
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads Go's notation of durations.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("must be a duration such as 200ms, 30s, 5m or 480h (got %q)", text)
	}
	*d = Duration(parsed)
	return nil
}

const elided = "<secret>"

// Secret is a value that must not be shown: it prints "<secret>" however it is formatted, encoded or logged. Reveal
// gives the text to the one place that needs it. The zero value is "not set".
type Secret string

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }

// IsZero reports whether no secret is set.
func (s Secret) IsZero() bool { return s == "" }

// String returns "<secret>".
func (s Secret) String() string { return elided }

// GoString returns "<secret>".
func (s Secret) GoString() string { return elided }

// Format writes "<secret>" for every verb.
func (s Secret) Format(state fmt.State, _ rune) { _, _ = state.Write([]byte(elided)) }

// MarshalText returns "<secret>".
func (s Secret) MarshalText() ([]byte, error) { return []byte(elided), nil }

// LogValue returns "<secret>".
func (s Secret) LogValue() slog.Value { return slog.StringValue(elided) }
