package httpapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/meterd/meterd/meter"
)

// usageReport is a report in the format of GoogleCloudPlatform/ubbagent. Numbers stay texts: no float touches a quantity.
type usageReport struct {
	Name      string            `json:"name"`
	StartTime time.Time         `json:"startTime"`
	EndTime   time.Time         `json:"endTime"`
	Labels    map[string]string `json:"labels"`
	Value     reportValue       `json:"value"`
}

type reportValue struct {
	Int64Value  json.Number `json:"int64Value"`
	DoubleValue json.Number `json:"doubleValue"`
}

// reportSource is the CloudEvents source of events made from reports.
const reportSource = "/report"

var integerText = regexp.MustCompile(`^-?(0|[1-9][0-9]{0,18})$`)

// postReport takes one report and stores it as an event: name becomes the type, the label "subject" (or "instance_id") the
// subject, startTime the time, and data holds value, labels and both times. The id is a digest of all of it, so a report
// sent again counts once. The agent answered 200 without a body; so does this.
func (a *API) postReport(w *response, r *http.Request) error {
	body, err := a.readBody(w, r)
	if err != nil {
		return err
	}
	defer body.release()
	event, err := reportEvent(body.data)
	if err != nil {
		return err
	}
	batch := meter.NewBatch()
	defer batch.Release()
	batch.DecodeJSON(event, a.o.Decode)
	ctx, cancel := context.WithTimeout(r.Context(), a.o.RequestTimeout)
	defer cancel()
	verdicts, err := a.o.Ingester.Accept(ctx, batch, traceparent(r.Header), meter.AllOrNothing)
	if err != nil {
		return err
	}
	if len(verdicts.Problems) > 0 {
		return refusal(&verdicts)
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// reportEvent turns a report into a CloudEvent.
func reportEvent(text []byte) ([]byte, error) {
	var report usageReport
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&report); err != nil {
		return nil, invalidRequest("the report can't be read: %s", jsonReason(err))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, invalidRequest("the report is followed by something else; send one report a request")
	}
	value, err := report.Value.text()
	if err != nil {
		return nil, err
	}
	subject := report.Labels["subject"]
	if subject == "" {
		subject = report.Labels["instance_id"]
	}
	switch {
	case report.Name == "":
		return nil, invalidRequest("name: is required; it becomes the event's type")
	case subject == "":
		return nil, invalidRequest("labels: a label \"subject\" or \"instance_id\" must name the instance that used something")
	case report.StartTime.IsZero() || report.EndTime.IsZero():
		return nil, invalidRequest("startTime and endTime: both are required, as RFC 3339 times")
	case report.EndTime.Before(report.StartTime):
		return nil, invalidRequest("endTime: is before startTime")
	}
	return report.event(subject, value), nil
}

// text returns the value as it was written.
func (v reportValue) text() (string, error) {
	switch {
	case v.Int64Value != "" && v.DoubleValue != "":
		return "", invalidRequest("value: has both int64Value and doubleValue; send one of them")
	case v.Int64Value != "":
		if !integerText.MatchString(v.Int64Value.String()) {
			return "", invalidRequest("value.int64Value: must be a whole number (got %s)", quoteShort(v.Int64Value.String()))
		}
		return v.Int64Value.String(), nil
	case v.DoubleValue != "":
		return v.DoubleValue.String(), nil
	}
	return "", invalidRequest("value: needs int64Value or doubleValue")
}

// event writes the CloudEvent. Labels are sorted, so the same report always has the same id.
func (u usageReport) event(subject, value string) []byte {
	data := struct {
		Value     json.Number       `json:"value"`
		Labels    map[string]string `json:"labels"`
		StartTime string            `json:"start_time"`
		EndTime   string            `json:"end_time"`
	}{json.Number(value), u.Labels, u.StartTime.UTC().Format(time.RFC3339Nano), u.EndTime.UTC().Format(time.RFC3339Nano)}
	hash := sha256.New()
	fmt.Fprintf(hash, "meterd/report/1 %d:%s ", len(u.Name), u.Name)
	hash.Write(encodeJSON(data))
	return encodeJSON(map[string]any{
		"specversion": "1.0", "id": hex.EncodeToString(hash.Sum(nil)[:16]), "source": reportSource,
		"type": u.Name, "subject": subject, "time": data.StartTime, "data": data,
	})
}

// jsonReason explains an error of encoding/json without its Go vocabulary.
func jsonReason(err error) string {
	text := strings.TrimPrefix(err.Error(), "json: ")
	if i := strings.Index(text, " into Go "); i >= 0 {
		field := ""
		if j := strings.LastIndex(text, "field "); j > i {
			field = text[j+len("field "):]
			if k := strings.IndexByte(field, '.'); k >= 0 {
				field = field[k+1:]
			}
			if k := strings.Index(field, " of type"); k >= 0 {
				field = field[:k]
			}
			field += ": "
		}
		return field + text[:i]
	}
	if len(text) > 120 {
		text = text[:120] + "…"
	}
	return text
}
