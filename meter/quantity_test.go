package meter_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/shopspring/decimal"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/meter"
)

func TestParseQuantity(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		text string
		want string
		err  error
	}{
		"zero":                 {"0", "0", nil},
		"negative zero":        {"-0.00e5", "0", nil},
		"integer":              {"12", "12", nil},
		"fraction":             {"0.125", "0.125", nil},
		"trailing zeros":       {"1.50", "1.5", nil},
		"exponent":             {"1.5e3", "1500", nil},
		"negative exponent":    {"15E-1", "1.5", nil},
		"largest":              {"999999999999999.999999999999999999", "999999999999999.999999999999999999", nil},
		"smallest":             {"0.000000000000000001", "0.000000000000000001", nil},
		"18 digits":            {"123456789012345.678", "123456789012345.678", nil},
		"19 digits":            {"123456789012345.6789", "123456789012345.6789", nil},
		"zeros past the scale": {"1.00000000000000000000000000", "1", nil},
		"long, small exponent": {"1" + strings.Repeat("0", 1000) + "e-1000", "1", nil},
		"long zero":            {"0." + strings.Repeat("0", 1000), "0", nil},
		"zero, huge exponent":  {"0e999999999999", "0", nil},
		"leading zeros after":  {"0.00000000000000000000000001e20", "0.000001", nil},
		"negative":             {"-1", "", meter.ErrNegativeQuantity},
		"tiny negative":        {"-0.1", "", meter.ErrNegativeQuantity},
		"10^15":                {"1000000000000000", "", meter.ErrQuantityTooLarge},
		"10^15 as exponent":    {"1e15", "", meter.ErrQuantityTooLarge},
		"huge exponent":        {"1e999999999999", "", meter.ErrQuantityTooLarge},
		"19 decimals":          {"0.0000000000000000001", "", meter.ErrQuantityTooFine},
		"tiny exponent":        {"1e-999999999999", "", meter.ErrQuantityTooFine},
		"empty":                {"", "", meter.ErrNotANumber},
		"NaN":                  {"NaN", "", meter.ErrNotANumber},
		"Infinity":             {"Infinity", "", meter.ErrNotANumber},
		"plus":                 {"+1", "", meter.ErrNotANumber},
		"leading zero":         {"01", "", meter.ErrNotANumber},
		"comma":                {"1,5", "", meter.ErrNotANumber},
		"two points":           {"1.2.3", "", meter.ErrNotANumber},
		"point first":          {".5", "", meter.ErrNotANumber},
		"point last":           {"5.", "", meter.ErrNotANumber},
		"minus alone":          {"-", "", meter.ErrNotANumber},
		"exponent alone":       {"e5", "", meter.ErrNotANumber},
		"open exponent":        {"1e", "", meter.ErrNotANumber},
		"signed exponent":      {"1e+", "", meter.ErrNotANumber},
		"space":                {" 1", "", meter.ErrNotANumber},
		"hexadecimal":          {"0x10", "", meter.ErrNotANumber},
		"underscore":           {"1_000", "", meter.ErrNotANumber},
		"other digits":         {"١", "", meter.ErrNotANumber},
		"long rubbish":         {strings.Repeat("x", 100), "", meter.ErrNotANumber},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q, err := meter.ParseQuantity([]byte(tt.text))
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err == nil && q.String() != tt.want {
				t.Errorf("got %s, want %s", q, tt.want)
			}
			if checked := meter.CheckQuantity([]byte(tt.text)); !errors.Is(checked, tt.err) {
				t.Errorf("CheckQuantity: %v, want %v", checked, tt.err)
			}
		})
	}
}

// FuzzParseQuantity compares with the decimal library, which reads more forms and has no limits.
func FuzzParseQuantity(f *testing.F) {
	for _, s := range []string{"0", "12.5", "1e3", "-1", "999999999999999.999999999999999999", "1e-18", "0.1e-17", "10e13", "1e15", "NaN"} {
		f.Add([]byte(s))
	}
	limit := decimal.New(1, meter.MaxEventIntegerDigits)
	f.Fuzz(func(t *testing.T, text []byte) {
		q, err := meter.ParseQuantity(text)
		if checked := meter.CheckQuantity(text); (checked == nil) != (err == nil) {
			t.Fatalf("ParseQuantity(%q): %v, CheckQuantity: %v", text, err, checked)
		}
		if len(text) > 60 {
			return // the library would build the number in full
		}
		var number json.Number
		isJSON := json.Unmarshal(text, &number) == nil && len(text) > 0 && text[0] != '"' && text[0] != 'n' && text[0] > ' ' && text[len(text)-1] > ' '
		if errors.Is(err, meter.ErrNotANumber) == isJSON {
			t.Fatalf("ParseQuantity(%q): %v, but JSON says %v", text, err, isJSON)
		}
		if !isJSON {
			return
		}
		want, libErr := decimal.NewFromString(string(text))
		if libErr != nil || want.Exponent() > 1000 || want.Exponent() < -1000 {
			return
		}
		fits := want.Sign() >= 0 && want.LessThan(limit) && want.Truncate(meter.QuantityScale).Equal(want)
		if (err == nil) != fits {
			t.Fatalf("ParseQuantity(%q): %v, but within the limits: %v", text, err, fits)
		}
		if err == nil && !q.Decimal().Equal(want) {
			t.Fatalf("ParseQuantity(%q) = %s, want %s", text, q, want)
		}
	})
}

func drawQuantity(t *rapid.T, label string) meter.Quantity {
	return meter.NewQuantity(rapid.Int64Range(-1e17, 1e17).Draw(t, label), rapid.Int32Range(-18, 2).Draw(t, label+" exponent"))
}

func TestQuantity_arithmetic(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := drawQuantity(t, "a"), drawQuantity(t, "b"), drawQuantity(t, "c")
		if !a.Add(b).Sub(b).Equal(a) {
			t.Errorf("%s + %s − %s = %s", a, b, b, a.Add(b).Sub(b))
		}
		if !a.Add(b).Mul(c).Equal(a.Mul(c).Add(b.Mul(c))) {
			t.Errorf("(%s + %s) × %s is not distributive", a, b, c)
		}
		if !b.IsZero() {
			scale := rapid.Int32Range(0, 18).Draw(t, "scale")
			quotient, rest := a.DivTruncate(b, scale)
			if !quotient.Mul(b).Add(rest).Equal(a) {
				t.Errorf("%s ÷ %s = %s rest %s", a, b, quotient, rest)
			}
			if rest.Sign()*a.Sign() < 0 {
				t.Errorf("%s ÷ %s leaves %s: rounded away from zero", a, b, rest)
			}
		}
		text, err := a.MarshalText()
		var back meter.Quantity
		if err != nil || back.UnmarshalText(text) != nil || !back.Equal(a) || a.Cmp(back) != 0 || a.Sign() != back.Sign() {
			t.Errorf("%s reads back as %s", text, back)
		}
		if strings.ContainsAny(string(text), "eE") {
			t.Errorf("%s has an exponent", text)
		}
	})
}

func TestQuantity_UnmarshalText_rubbish(t *testing.T) {
	t.Parallel()
	var q meter.Quantity
	if err := q.UnmarshalText([]byte("ten")); !errors.Is(err, meter.ErrNotANumber) {
		t.Errorf("error %v", err)
	}
}

func TestQuantity_zeroValue(t *testing.T) {
	t.Parallel()
	var q meter.Quantity
	if !q.IsZero() || q.String() != "0" || !q.Add(meter.MustParseQuantity("1.5")).Equal(meter.MustParseQuantity("1.50")) {
		t.Errorf("the zero value is %s", q)
	}
}
