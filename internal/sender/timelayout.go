package sender

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// TimeLayout is the form of a column of times. The zero value is "auto".
type TimeLayout struct {
	form   timeForm
	layout string // of formLayout
}

type timeForm uint8

const (
	formAuto timeForm = iota
	formRFC3339
	formDateTime
	formUnix
	formUnixMilli
	formLayout
)

const dateTimeLayout = "2006-01-02 15:04:05.9999999"

// ParseTimeLayout reads the name of a layout:
//
//   - rfc3339: 2026-01-02T15:04:05.123Z
//   - datetime: 2026-01-02 15:04:05.1234567
//   - unix: seconds since 1970, with or without decimals
//   - unix-ms: milliseconds since 1970
//   - auto, or "": whichever of these the cell looks like; of numbers, those of 12 digits and more are milliseconds
//   - anything else that holds "2006": a layout of Go's package time
func ParseTimeLayout(name string) (TimeLayout, error) {
	switch name {
	case "", "auto":
		return TimeLayout{}, nil
	case "rfc3339":
		return TimeLayout{form: formRFC3339}, nil
	case "datetime":
		return TimeLayout{form: formDateTime}, nil
	case "unix":
		return TimeLayout{form: formUnix}, nil
	case "unix-ms":
		return TimeLayout{form: formUnixMilli}, nil
	}
	if strings.Contains(name, "2006") {
		return TimeLayout{formLayout, name}, nil
	}
	return TimeLayout{}, fmt.Errorf("time layout %q: must be auto, rfc3339, datetime, unix, unix-ms or a layout like 2006-01-02T15:04",
		clip(name))
}

// Parse reads a time. The zone, nil for UTC, is that of times that name none.
func (l TimeLayout) Parse(text string, zone *time.Location) (time.Time, error) {
	if zone == nil {
		zone = time.UTC
	}
	if text == "" {
		return time.Time{}, errors.New("the time is empty")
	}
	form := l.form
	if form == formAuto {
		form = guessForm(text)
	}
	var at time.Time
	var err error
	switch form {
	case formRFC3339:
		at, err = time.Parse(time.RFC3339, text)
	case formDateTime:
		at, err = time.ParseInLocation(dateTimeLayout, text, zone)
	case formUnix, formUnixMilli:
		at, err = parseUnix(text, form == formUnixMilli)
	default:
		at, err = time.ParseInLocation(l.layout, text, zone)
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is not a time of the layout given", clip(text))
	}
	if year := at.UTC().Year(); year < 1970 || year > 9999 {
		return time.Time{}, fmt.Errorf("time %q is out of range", clip(text))
	}
	return at.UTC(), nil
}

func guessForm(text string) timeForm {
	whole, _, _ := strings.Cut(text, ".")
	switch {
	case strings.Trim(whole, "0123456789") != "":
		if strings.ContainsAny(text, "Tt") {
			return formRFC3339
		}
		return formDateTime
	case len(whole) >= 12:
		return formUnixMilli
	default:
		return formUnix
	}
}

// parseUnix reads seconds or milliseconds since 1970 to the nanosecond, without a float; digits below that are cut off.
func parseUnix(text string, milli bool) (time.Time, error) {
	whole, fraction, hasPoint := strings.Cut(text, ".")
	if strings.Trim(whole+fraction, "0123456789") != "" || whole == "" || (hasPoint && fraction == "") {
		return time.Time{}, errors.New("not a number")
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	decimals, base := 9, time.Unix(n, 0)
	if milli {
		decimals, base = 6, time.UnixMilli(n)
	}
	fraction = (fraction + strings.Repeat("0", decimals))[:decimals]
	nanos, err := strconv.ParseInt(fraction, 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	return base.Add(time.Duration(nanos)), nil
}
