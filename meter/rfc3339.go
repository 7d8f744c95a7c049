package meter

import (
	"math"
	"time"
)

// Years that fit nanoseconds since 1970 in an int64, with room for any UTC offset.
const (
	minYear = 1970
	maxYear = 2261
)

// parseTime reads an RFC 3339 time and returns nanoseconds since 1970 UTC. Digits beyond nanoseconds are cut off. A leap
// second (23:59:60 UTC) is taken as the last nanosecond before it ends up in the next hour. time.Parse is not used
// because it costs ten times as much and accepts what RFC 3339 forbids (such as a comma before the fraction).
func parseTime(s []byte) (int64, bool) {
	if len(s) < len("2006-01-02T15:04:05Z") {
		return 0, false
	}
	if s[4] != '-' || s[7] != '-' || (s[10] != 'T' && s[10] != 't') || s[13] != ':' || s[16] != ':' {
		return 0, false
	}
	year := twoDigits(s, 0)*100 + twoDigits(s, 2)
	month, day := twoDigits(s, 5), twoDigits(s, 8)
	hour, minute, second := twoDigits(s, 11), twoDigits(s, 14), twoDigits(s, 17)
	// A bad digit makes its number hugely negative.
	if year < minYear || year > maxYear || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) ||
		hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 60 {
		return 0, false
	}
	rest := s[19:]
	nanos, rest, ok := parseFraction(rest)
	if !ok {
		return 0, false
	}
	offset, ok := parseOffset(rest)
	if !ok {
		return 0, false
	}
	leap := second == 60
	if leap {
		second, nanos = 59, 999_999_999
	}
	seconds := daysSinceEpoch(year, month, day)*86400 + int64(hour*3600+minute*60+second-offset*60)
	if leap && seconds%86400 != 86399 {
		return 0, false
	}
	if seconds < 0 || seconds > math.MaxInt64/int64(time.Second)-1 {
		return 0, false
	}
	return seconds*int64(time.Second) + int64(nanos), true
}

// twoDigits reads two digits at i; the result is negative if they aren't digits.
func twoDigits(s []byte, i int) int {
	a, b := s[i]-'0', s[i+1]-'0'
	if a > 9 || b > 9 {
		return -1 << 20
	}
	return int(a)*10 + int(b)
}

// parseFraction reads an optional ".digits".
func parseFraction(s []byte) (nanos int, rest []byte, ok bool) {
	if len(s) == 0 || s[0] != '.' {
		return 0, s, true
	}
	i := 1
	unit := 100_000_000
	for ; i < len(s) && s[i]-'0' <= 9; i++ {
		nanos += int(s[i]-'0') * unit
		unit /= 10
	}
	return nanos, s[i:], i > 1
}

// parseOffset reads "Z" or "±hh:mm" and returns minutes east of UTC.
func parseOffset(s []byte) (int, bool) {
	if len(s) == 1 && (s[0] == 'Z' || s[0] == 'z') {
		return 0, true
	}
	if len(s) != 6 || s[3] != ':' || (s[0] != '+' && s[0] != '-') {
		return 0, false
	}
	hours, minutes := twoDigits(s, 1), twoDigits(s, 4)
	if hours < 0 || hours > 23 || minutes < 0 || minutes > 59 {
		return 0, false
	}
	offset := hours*60 + minutes
	if s[0] == '-' {
		offset = -offset
	}
	return offset, true
}

func daysIn(year, month int) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// daysSinceEpoch counts days from 1970-01-01 in the proleptic Gregorian calendar. The year begins in March, so that the
// leap day is its last.
func daysSinceEpoch(year, month, day int) int64 {
	if month <= 2 {
		year--
		month += 12
	}
	dayOfYear := (153*(month-3)+2)/5 + day - 1
	return int64(year*365 + year/4 - year/100 + year/400 + dayOfYear - 719468)
}
