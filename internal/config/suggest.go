package config

import (
	"fmt"
	"reflect"
	"strings"
)

// secretKeys are keys people try to write a secret under, with what to use instead.
//
//nolint:gosec // names of keys, no credentials
var secretKeys = map[string]string{
	"store.password":        "store.password_file or METERD_STORE_PASSWORD",
	"koogallery.seller_key": "koogallery.seller_key_file or METERD_KOOGALLERY_SELLER_KEY",
	"koogallery.secret_key": "koogallery.secret_key_file or METERD_KOOGALLERY_SECRET_KEY",
	"server.keys.key":       "key_file or key_env",
}

// unknownKey is the message about a key that doesn't exist, with the key that was probably meant.
func unknownKey(prefix, name string, siblings []string) string {
	list := prefix
	if before, _, ok := strings.Cut(prefix, "["); ok {
		list = before
	}
	if instead, ok := secretKeys[joinKey(list, name)]; ok {
		return "secrets are not written in this file; use " + instead
	}
	if guess := nearest(name, siblings); guess != "" {
		return fmt.Sprintf("unknown key; did you mean %s?", joinKey(prefix, guess))
	}
	var elsewhere []string
	defaults := Default()
	forEachField(reflect.ValueOf(&defaults).Elem(), "", func(f field) {
		if f.key[strings.LastIndexByte(f.key, '.')+1:] == name {
			elsewhere = append(elsewhere, f.key)
		}
	})
	if len(elsewhere) > 0 {
		return fmt.Sprintf("unknown key; did you mean %s?", strings.Join(elsewhere, " or "))
	}
	return "unknown key; known here: " + strings.Join(siblings, ", ")
}

// nearest returns the candidate within a small edit distance of name, or "".
func nearest(name string, candidates []string) string {
	best, bestDistance := "", 1+max(1, min(len(name)/3, 3))
	for _, candidate := range candidates {
		if d := editDistance(name, candidate); d < bestDistance {
			best, bestDistance = candidate, d
		}
	}
	return best
}

// editDistance is the Levenshtein distance in bytes. Names longer than any key are not worth comparing.
func editDistance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	previous := make([]int, len(b)+1)
	for j := range previous {
		previous[j] = j
	}
	for i := range len(a) {
		current := make([]int, len(b)+1)
		current[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			current[j+1] = min(previous[j]+cost, previous[j+1]+1, current[j]+1)
		}
		previous = current
	}
	return previous[len(b)]
}
