package sandbox

import (
	"strconv"
	"strings"
)

// Usage values are counted in ten-thousandths: the field is a Double(12,4), read as 12 digits of which 4 follow the
// point (KooGallery usage push, section 1.3).
const (
	unitsPerOne = 10_000
	maxUnits    = 999_999_999_999
	maxDecimals = 4
)

// looksLikeNumber reports whether text is a plain decimal: an optional minus, digits, and optionally a point with
// digits after it. No exponent, sign plus, blank or thousands separator.
func looksLikeNumber(text string) bool {
	text = strings.TrimPrefix(text, "-")
	whole, frac, hasPoint := strings.Cut(text, ".")
	return allDigits(whole) && (!hasPoint || allDigits(frac))
}

// allDigits reports whether text is one or more ASCII digits.
func allDigits(text string) bool {
	if text == "" {
		return false
	}
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return false
		}
	}
	return true
}

// parseUnits reads a usage value exactly. It is false for anything that may not be billed: not a plain decimal, zero
// or less, more than 4 decimals, above 99999999.9999.
func parseUnits(text string) (units int64, ok bool) {
	if !looksLikeNumber(text) || text[0] == '-' {
		return 0, false
	}
	whole, frac, _ := strings.Cut(text, ".")
	if len(frac) > maxDecimals {
		return 0, false
	}
	whole = strings.TrimLeft(whole, "0")
	digits := whole + frac + strings.Repeat("0", maxDecimals-len(frac))
	if len(digits) > 12 {
		return 0, false
	}
	units, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || units <= 0 || units > maxUnits {
		return 0, false
	}
	return units, true
}

// formatUnits prints a count of ten-thousandths as the shortest exact decimal: 990000 is "99", 1250 is "0.125".
func formatUnits(units int64) string {
	text := strconv.FormatInt(units/unitsPerOne, 10)
	frac := units % unitsPerOne
	if frac == 0 {
		return text
	}
	digits := strconv.FormatInt(unitsPerOne+frac, 10)[1:]
	return text + "." + strings.TrimRight(digits, "0")
}
