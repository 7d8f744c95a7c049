package sender

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// Secret is an API key. It prints as <secret>. The zero value is no key.
type Secret string

const secretText = "<secret>"

// Format prints "<secret>" for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, secretText) }

// String returns "<secret>".
func (Secret) String() string { return secretText }

// MarshalText returns "<secret>".
func (Secret) MarshalText() ([]byte, error) { return []byte(secretText), nil }

// LogValue returns "<secret>".
func (Secret) LogValue() slog.Value { return slog.StringValue(secretText) }

// check refuses what can't stand in a header, without repeating it.
func (s Secret) check() error {
	if strings.ContainsFunc(string(s), func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("key: must be printable ASCII without blanks and line breaks")
	}
	return nil
}
