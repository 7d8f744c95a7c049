package koogallery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/meterd/meterd/reporter"
)

const (
	// maxAnswer bounds what is read of an answer: a list of 1000 abnormal records needs about half of it.
	maxAnswer = 1 << 20
	// maxMessage bounds a message in a result, in characters; the marketplace's own limit is 255.
	maxMessage = 255
	// maxAnswerDepth bounds how deep lists of abnormal records are searched for.
	maxAnswerDepth = 8
)

// errAnswer marks answers that can't be relied on: not JSON, cut short, ambiguous.
var errAnswer = errors.New("unusable answer")

// answer is what the marketplace said.
type answer struct {
	code, message string
	abnormal      []abnormalEntry
}

// abnormalEntry is one entry of abnormal_usage_data, with what of it could be read.
type abnormalEntry struct {
	sn, instance, begin, end string
	code, message            string
}

// parseAnswer reads one JSON object. The names are matched exactly; encoding/json alone would also take "Error_Code" and
// the last of several error_code members, and an answer that contradicts itself is not one to book money on.
func parseAnswer(body []byte) (answer, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return answer{}, fmt.Errorf("%w: it is empty", errAnswer)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var a answer
	if err := a.readTop(dec); err != nil {
		return answer{}, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return answer{}, fmt.Errorf("%w: more than one JSON value", errAnswer)
	}
	return a, nil
}

// readTop reads the outermost object.
func (a *answer) readTop(dec *json.Decoder) error {
	tok, err := dec.Token()
	if err != nil || tok != json.Delim('{') {
		return fmt.Errorf("%w: not a JSON object", errAnswer)
	}
	seen := map[string]bool{}
	for dec.More() {
		tok, err := dec.Token()
		name, isName := tok.(string)
		if err != nil || !isName {
			return fmt.Errorf("%w: not valid JSON", errAnswer)
		}
		if seen[name] && (name == "error_code" || name == "error_msg") {
			return fmt.Errorf("%w: %s occurs twice", errAnswer, name)
		}
		seen[name] = true
		var value any
		if err := dec.Decode(&value); err != nil {
			return fmt.Errorf("%w: not valid JSON", errAnswer)
		}
		switch name {
		case "error_code":
			a.code = scalar(value)
		case "error_msg":
			a.message = scalar(value)
		default:
			a.collect(name, value, 0)
		}
	}
	if _, err := dec.Token(); err != nil {
		return fmt.Errorf("%w: cut short", errAnswer)
	}
	return nil
}

// collect finds lists of abnormal records, wherever the marketplace puts them: only an excerpt of the page that defines
// them could be read (KooGallery usage push, section 11).
func (a *answer) collect(name string, value any, depth int) {
	if depth > maxAnswerDepth {
		return
	}
	switch v := value.(type) {
	case []any:
		if name != "abnormal_usage_data" {
			return
		}
		for _, item := range v {
			a.abnormal = append(a.abnormal, readAbnormal(item))
		}
	case map[string]any:
		for inner, value := range v {
			a.collect(inner, value, depth+1)
		}
	}
}

// readAbnormal reads an entry leniently: the record may stand in the entry itself or in an object inside it.
func readAbnormal(item any) abnormalEntry {
	var e abnormalEntry
	e.read(item, 0)
	return e
}

func (e *abnormalEntry) read(item any, depth int) {
	object, ok := item.(map[string]any)
	if !ok || depth > maxAnswerDepth {
		return
	}
	for name, value := range object {
		switch name {
		case "metering_sn":
			e.sn = scalar(value)
		case "instance_id":
			e.instance = scalar(value)
		case "begin_time":
			e.begin = scalar(value)
		case "end_time":
			e.end = scalar(value)
		case "error_code", "code", "errorCode", "abnormal_code":
			e.code = scalar(value)
		case "error_msg", "message", "errorMsg", "abnormal_msg", "reason":
			e.message = scalar(value)
		default:
			e.read(value, depth+1)
		}
	}
}

// scalar is the text of a string or number and "" for everything else.
func scalar(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	default:
		return ""
	}
}

// refusals gives each abnormal entry to the record of the batch it names, by number or else by instance and window.
// Entries that name none are counted.
func (a answer) refusals(batch []reporter.UsageRecord) (refused map[reporter.MeteringSN]reporter.Refusal, strays int) {
	if len(a.abnormal) == 0 {
		return nil, 0
	}
	type window struct{ instance, begin, end string }
	bySN := make(map[string]reporter.MeteringSN, len(batch))
	byWindow := make(map[window]reporter.MeteringSN, len(batch))
	for _, r := range batch {
		bySN[string(r.SN)] = r.SN
		byWindow[window{r.InstanceID, wireTime(r.Window.Start), wireTime(r.Window.End)}] = r.SN
	}
	refused = make(map[reporter.MeteringSN]reporter.Refusal, len(a.abnormal))
	for _, e := range a.abnormal {
		sn, ok := bySN[e.sn]
		if e.sn == "" {
			sn, ok = byWindow[window{e.instance, e.begin, e.end}]
		}
		if !ok {
			strays++
			continue
		}
		refused[sn] = reporter.Refusal{
			Code: clean(e.code), Message: clean(e.message), Duplicate: isDuplicate(e.code),
		}
	}
	return refused, strays
}

// clean makes text from outside fit for a log line: printable, on one line, bounded.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	s = strings.TrimSpace(s)
	if runes := []rune(s); len(runes) > maxMessage {
		return string(runes[:maxMessage-1]) + "…"
	}
	return s
}
