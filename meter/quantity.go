package meter

import (
	"errors"
	"fmt"
	"math/big"

	"github.com/shopspring/decimal"
)

// Limits of one quantity in an event. Sums of up to 100,000 such values stay within the store's Decimal(38,18); closing
// a window checks the actual bound, so that a larger sum is an error and never a wrapped number.
const (
	// QuantityScale is the number of decimals the store keeps.
	QuantityScale = 18
	// MaxEventIntegerDigits bounds the value of one event: it must be below 10^15.
	MaxEventIntegerDigits = 15
)

// Errors of [ParseQuantity].
var (
	ErrNotANumber       = errors.New("not a decimal number")
	ErrNegativeQuantity = errors.New("negative; usage can't be negative, void the original event instead")
	ErrQuantityTooLarge = errors.New("too large; the value of one event must be below 10^15, use a larger unit")
	ErrQuantityTooFine  = errors.New("more than 18 decimals; round the value before sending it")
)

// Quantity is an exact amount in a meter's unit. The zero value is 0 and ready to use. Quantities are values:
// operations return new ones.
type Quantity struct{ dec decimal.Decimal }

// NewQuantity returns the quantity n × 10^exp.
func NewQuantity(n int64, exp int32) Quantity { return Quantity{decimal.New(n, exp)} }

// QuantityFromDecimal wraps a decimal read from the store.
func QuantityFromDecimal(d decimal.Decimal) Quantity { return Quantity{d} }

// ParseQuantity parses a JSON number or its text, such as "12", "0.125" or "1.5e3". It reads at most
// [MaxEventIntegerDigits] digits before and [QuantityScale] digits after the point and refuses everything else with one
// of the errors above, whatever the exponent's size, without building large numbers.
func ParseQuantity(text []byte) (Quantity, error) {
	n, err := scanNumber(text)
	if err != nil {
		return Quantity{}, err
	}
	if n.small {
		return Quantity{decimal.New(n.mantissa, n.exponent)}, nil
	}
	return Quantity{decimal.NewFromBigInt(significantDigits(text, n.digits), n.exponent)}, nil
}

// significantDigits reads the first n digits of a number from its first digit that isn't 0, as one integer. The limits
// make n at most 33, however long the text is.
func significantDigits(text []byte, n int) *big.Int {
	digits := make([]byte, 0, MaxEventIntegerDigits+QuantityScale)
	for _, c := range text {
		if len(digits) == n {
			break
		}
		if c >= '0' && c <= '9' && (c != '0' || len(digits) > 0) {
			digits = append(digits, c)
		}
	}
	integer, _ := new(big.Int).SetString(string(digits), 10)
	return integer
}

// CheckQuantity reports whether [ParseQuantity] would accept text, without allocating on success.
func CheckQuantity(text []byte) error {
	_, err := scanNumber(text)
	return err
}

// MustParseQuantity is [ParseQuantity] for tests and constants.
func MustParseQuantity(text string) Quantity {
	q, err := ParseQuantity([]byte(text))
	if err != nil {
		panic(fmt.Sprintf("parse quantity %q: %v", text, err))
	}
	return q
}

// number is a scanned decimal number: value = mantissa × 10^exponent. Unless it is small, the mantissa is not computed but
// said to be the first digits of the text from the first that isn't 0.
type number struct {
	mantissa int64
	exponent int32
	small    bool // the mantissa fits an int64
	digits   int
}

// scanNumber validates the JSON number grammar and the limits in one pass.
func scanNumber(text []byte) (number, error) {
	i := 0
	negative := false
	if i < len(text) && text[i] == '-' {
		negative = true
		i++
	}
	start := i
	var mantissa uint64
	digits := 0        // significant digits seen, without leading zeros
	trailingZeros := 0 // zeros since the last non-zero digit
	point := -1        // digits after the point, -1 before it
	sawDigit := false
	for ; i < len(text); i++ {
		c := text[i]
		if c == '.' {
			if point >= 0 || !sawDigit {
				return number{}, notANumber(text)
			}
			point = 0
			continue
		}
		if c < '0' || c > '9' {
			break
		}
		sawDigit = true
		if point >= 0 {
			point++
		} else if i == start+1 && text[start] == '0' {
			return number{}, notANumber(text) // JSON forbids leading zeros
		}
		if c == '0' && digits == 0 {
			continue
		}
		digits++
		if c == '0' {
			trailingZeros++
		} else {
			trailingZeros = 0
		}
		if digits <= 18 {
			mantissa = mantissa*10 + uint64(c-'0')
		}
	}
	if !sawDigit || point == 0 {
		return number{}, notANumber(text)
	}
	exponent, err := scanExponent(text, i)
	if err != nil {
		return number{}, err
	}
	if digits == 0 {
		return number{small: true}, nil // zero, in whatever notation
	}
	if negative {
		return number{}, ErrNegativeQuantity
	}
	return boundNumber(mantissa, digits, trailingZeros, max(point, 0), exponent)
}

// scanExponent reads an optional exponent that ends the text. Its size is capped: anything beyond the cap is out of
// bounds anyway.
func scanExponent(text []byte, i int) (int, error) {
	if i == len(text) {
		return 0, nil
	}
	if text[i] != 'e' && text[i] != 'E' {
		return 0, notANumber(text)
	}
	i++
	sign := 1
	if i < len(text) && (text[i] == '+' || text[i] == '-') {
		if text[i] == '-' {
			sign = -1
		}
		i++
	}
	if i == len(text) {
		return 0, notANumber(text)
	}
	exponent := 0
	for ; i < len(text); i++ {
		if text[i] < '0' || text[i] > '9' {
			return 0, notANumber(text)
		}
		if exponent < 1_000_000 {
			exponent = exponent*10 + int(text[i]-'0')
		}
	}
	return sign * exponent, nil
}

// boundNumber applies the limits to digits × 10^(exponent-point).
func boundNumber(mantissa uint64, digits, trailingZeros, point, exponent int) (number, error) {
	scale := point - exponent // decimals after the point as written
	if digits-scale > MaxEventIntegerDigits {
		return number{}, ErrQuantityTooLarge
	}
	if scale-trailingZeros > QuantityScale {
		return number{}, ErrQuantityTooFine
	}
	if digits > 18 {
		return number{digits: digits - trailingZeros, exponent: int32(trailingZeros - scale)}, nil //nolint:gosec // bounded by the two checks above
	}
	return number{mantissa: int64(mantissa), exponent: int32(-scale), small: true}, nil //nolint:gosec // at most 18 digits; |scale| is bounded by the two checks above
}

func notANumber(text []byte) error {
	return fmt.Errorf("%w: %q", ErrNotANumber, truncateForError(text))
}

// truncateForError keeps error texts short whatever the input.
func truncateForError(text []byte) []byte {
	const limit = 40
	if len(text) > limit {
		return append(append([]byte(nil), text[:limit]...), "…"...)
	}
	return text
}

// Add returns q + other.
func (q Quantity) Add(other Quantity) Quantity { return Quantity{q.dec.Add(other.dec)} }

// Sub returns q − other.
func (q Quantity) Sub(other Quantity) Quantity { return Quantity{q.dec.Sub(other.dec)} }

// Mul returns q × other, exactly.
func (q Quantity) Mul(other Quantity) Quantity { return Quantity{q.dec.Mul(other.dec)} }

// DivTruncate returns q ÷ divisor truncated toward zero to scale decimals, and what is left: q − result × divisor.
// The divisor must not be zero.
func (q Quantity) DivTruncate(divisor Quantity, scale int32) (quotient, rest Quantity) {
	d, r := q.dec.QuoRem(divisor.dec, scale)
	return Quantity{d}, Quantity{r}
}

// Cmp compares q and other: −1, 0 or +1.
func (q Quantity) Cmp(other Quantity) int { return q.dec.Cmp(other.dec) }

// Equal reports whether q and other are the same amount, whatever their notation (1.0 equals 1).
func (q Quantity) Equal(other Quantity) bool { return q.dec.Equal(other.dec) }

// IsZero reports whether q is 0.
func (q Quantity) IsZero() bool { return q.dec.IsZero() }

// Sign is −1, 0 or +1.
func (q Quantity) Sign() int { return q.dec.Sign() }

// Decimal returns the decimal for the store's driver.
func (q Quantity) Decimal() decimal.Decimal { return q.dec }

// String is plain decimal notation without exponent or trailing zeros, such as "0.125".
func (q Quantity) String() string { return q.dec.String() }

// MarshalText writes [Quantity.String]: in JSON a quantity is a string, never a number.
func (q Quantity) MarshalText() ([]byte, error) { return []byte(q.String()), nil }

// UnmarshalText reads any decimal text, negative amounts included: ledger lines can be negative.
func (q *Quantity) UnmarshalText(text []byte) error {
	d, err := decimal.NewFromString(string(text))
	if err != nil {
		return notANumber(text)
	}
	q.dec = d
	return nil
}
