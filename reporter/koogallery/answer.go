package koogallery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"github.com/meterd/meterd/reporter"
)

const (
	// maxAnswer bounds what is read of an answer: a list of 1000 abnormal records needs about half of it.
	maxAnswer = 1 << 20
	// maxMessage bounds a message in a result, in characters; the marketplace's own limit is 255.
	maxMessage = 255
	// maxRaw bounds what is kept of an entry about one record as it came, in bytes.
	maxRaw = 2048
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
	raw                      string // as it came
}

// parseAnswer reads one JSON object. The names are matched exactly; encoding/json alone would also take "Error_Code" and
// the last of several error_code members, and an answer that contradicts itself is not one to book money on.
func parseAnswer(body []byte) (answer, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return answer{}, fmt.Errorf("%w: it is empty", errAnswer)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
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
		var value json.RawMessage
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
func (a *answer) collect(name string, value json.RawMessage, depth int) {
	if depth > maxAnswerDepth {
		return
	}
	switch firstByte(value) {
	case '[':
		var list []json.RawMessage
		if name != "abnormal_usage_data" || json.Unmarshal(value, &list) != nil {
			return
		}
		for _, item := range list {
			e := abnormalEntry{raw: string(item)}
			e.read(item, 0)
			a.abnormal = append(a.abnormal, e)
		}
	case '{':
		for _, inner := range members(value) {
			a.collect(inner.name, inner.value, depth+1)
		}
	}
}

// read reads an entry leniently: the record may stand in the entry itself or in an object inside it.
func (e *abnormalEntry) read(item json.RawMessage, depth int) {
	if depth > maxAnswerDepth {
		return
	}
	for _, m := range members(item) {
		switch m.name {
		case "metering_sn":
			e.sn = scalar(m.value)
		case "instance_id":
			e.instance = scalar(m.value)
		case "begin_time":
			e.begin = scalar(m.value)
		case "end_time":
			e.end = scalar(m.value)
		case "error_code", "code", "errorCode", "abnormal_code":
			e.code = scalar(m.value)
		case "error_msg", "message", "errorMsg", "abnormal_msg", "reason":
			e.message = scalar(m.value)
		default:
			e.read(m.value, depth+1)
		}
	}
}

// member is one member of a JSON object.
type member struct {
	name  string
	value json.RawMessage
}

// members returns the members of an object in order of their names, of several of one name the last; none for anything else.
func members(value json.RawMessage) []member {
	var object map[string]json.RawMessage
	if firstByte(value) != '{' || json.Unmarshal(value, &object) != nil {
		return nil
	}
	list := make([]member, 0, len(object))
	for name, v := range object {
		list = append(list, member{name, v})
	}
	slices.SortFunc(list, func(a, b member) int { return strings.Compare(a.name, b.name) })
	return list
}

// firstByte is the first byte of a valid JSON value; 0 for nothing.
func firstByte(value json.RawMessage) byte {
	if value = bytes.TrimLeft(value, " \t\r\n"); len(value) > 0 {
		return value[0]
	}
	return 0
}

// scalar is the text of a string or number and "" for everything else.
func scalar(value json.RawMessage) string {
	switch c := firstByte(value); {
	case c == '"':
		var text string
		if json.Unmarshal(value, &text) == nil {
			return text
		}
	case c == '-' || '0' <= c && c <= '9':
		return string(bytes.TrimSpace(value))
	}
	return ""
}

// refusals gives each abnormal entry to the record of the batch it names, by number or else by instance and window. In a batch of
// one an entry that names nothing can only mean that one. Entries that name none of the batch are returned as they came.
func (a answer) refusals(batch []reporter.UsageRecord) (refused map[reporter.MeteringSN]reporter.Refusal, strays []string) {
	if len(a.abnormal) == 0 {
		return nil, nil
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
		if !ok {
			sn, ok = byWindow[window{e.instance, e.begin, e.end}]
		}
		if !ok && len(batch) == 1 && e.sn == "" && e.instance == "" {
			sn, ok = batch[0].SN, true
		}
		if !ok {
			strays = append(strays, clipRaw(e.raw))
			continue
		}
		refused[sn] = reporter.Refusal{
			Code: clean(e.code), Message: clean(e.message), Duplicate: isDuplicate(e.code), Raw: clipRaw(e.raw),
		}
	}
	return refused, strays
}

// clipRaw bounds an entry as it came, and keeps it valid text.
func clipRaw(raw string) string {
	raw = strings.ToValidUTF8(raw, "\uFFFD")
	if len(raw) <= maxRaw {
		return raw
	}
	return strings.ToValidUTF8(raw[:maxRaw-len("…")], "") + "…"
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
