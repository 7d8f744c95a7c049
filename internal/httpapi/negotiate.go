package httpapi

import (
	"net/http"
	"strconv"
	"strings"
)

// The forms of answers.
const (
	mediaJSON = "application/json"
	mediaCSV  = "text/csv"
	mediaHTML = "text/html"
	mediaText = "text/plain"
)

// negotiate returns the offer that the Accept header prefers; the first one if the client doesn't care.
func negotiate(h http.Header, offers ...string) (string, error) {
	accept := strings.Join(h["Accept"], ",")
	if strings.TrimSpace(accept) == "" {
		return offers[0], nil
	}
	best, bestQuality := "", 0.0
	for _, offer := range offers {
		if q := quality(accept, offer); q > bestQuality {
			best, bestQuality = offer, q
		}
	}
	if best == "" {
		return "", &problem{
			Status: http.StatusNotAcceptable, Code: "not-acceptable",
			Detail: "the answer is available as " + strings.Join(offers, " or ") + "; the Accept header permits neither",
		}
	}
	return best, nil
}

// quality is the weight that an Accept header gives a media type: that of the most specific range that covers it.
func quality(accept, offer string) float64 {
	kind, _, _ := strings.Cut(offer, "/")
	weight, specific := 0.0, -1
	for item := range strings.SplitSeq(accept, ",") {
		media, params, _ := strings.Cut(item, ";")
		level := -1
		switch strings.ToLower(strings.TrimSpace(media)) {
		case offer:
			level = 2
		case kind + "/*":
			level = 1
		case "*/*":
			level = 0
		}
		if level > specific {
			weight, specific = weightOf(params), level
		}
	}
	return weight
}

// weightOf reads q=0.5 among the parameters of a media range; 1 without it, 0 if it is nonsense.
func weightOf(params string) float64 {
	for param := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(param, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "q") {
			continue
		}
		q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil || !(q >= 0 && q <= 1) {
			return 0
		}
		return q
	}
	return 1
}
