package koogallery

import (
	"fmt"
	"io"
	"log/slog"
)

// secretText is what a secret prints as.
const secretText = "<secret>"

// Secret is a key that prints as <secret> with every verb of fmt, in JSON, TOML and in logs. Convert it with string(s)
// where the key itself is needed. The zero value is "no key".
type Secret string

// String returns "<secret>".
func (Secret) String() string { return secretText }

// GoString returns "<secret>".
func (Secret) GoString() string { return secretText }

// MarshalText returns "<secret>".
func (Secret) MarshalText() ([]byte, error) { return []byte(secretText), nil }

// LogValue returns "<secret>".
func (Secret) LogValue() slog.Value { return slog.StringValue(secretText) }

// Format prints "<secret>" for every verb: String alone would leave verbs such as %d to print the key.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, secretText) }
