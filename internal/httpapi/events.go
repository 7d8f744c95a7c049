package httpapi

import (
	"context"
	"net/http"
	"strconv"

	"github.com/meterd/meterd/meter"
)

// postEvents takes usage events: one, a batch, NDJSON, or a stream of it.
func (a *API) postEvents(w *response, r *http.Request) error {
	f, err := eventsForm(r.Header)
	if err != nil {
		return err
	}
	if f == formLines && r.ContentLength < 0 {
		return a.streamEvents(w, r) //nolint:contextcheck // it has the request, and outlives its context for what arrived whole
	}
	body, err := a.readBody(w, r)
	if err != nil {
		return err
	}
	defer body.release()
	batch := meter.NewBatch()
	defer batch.Release()
	if err := a.decode(batch, body, f, r.Header); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), a.o.RequestTimeout)
	defer cancel()
	mode := meter.AllOrNothing
	if r.Header["Prefer"] != nil && wantsVerdicts(r.Header) {
		mode = meter.KeepGood
	}
	verdicts, err := a.o.Ingester.Accept(ctx, batch, traceparent(r.Header), mode)
	if err != nil {
		return err
	}
	if mode == meter.KeepGood {
		return writeVerdicts(w, &verdicts)
	}
	if len(verdicts.Problems) > 0 {
		return refusal(&verdicts)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// decode reads the body in its form into the batch.
func (a *API) decode(batch *meter.Batch, body *body, f form, h http.Header) error {
	if f == formAsk {
		if data := body.trimSpace(); len(data) > 0 && data[0] != '{' && data[0] != '[' {
			return unsupported("without a content type the body must begin with { or [; send application/cloudevents+json, " +
				"application/cloudevents-batch+json, application/json or application/x-ndjson")
		}
		f = formJSON
	}
	switch f {
	case formLines:
		batch.DecodeLines(body.data, a.o.Decode)
	case formBinary:
		batch.DecodeBinary(binaryAttributes(h), body.data, a.o.Decode)
	case formJSON, formAsk:
		if len(body.trimSpace()) == 0 {
			return invalidRequest("the body is empty; send an event or an array of events")
		}
		batch.DecodeJSON(body.data, a.o.Decode)
	}
	return nil
}

// refusal is the answer to a request with bad events, none of which was stored.
func refusal(v *meter.Verdicts) *problem {
	p := &problem{
		Status: http.StatusBadRequest, Code: "invalid-events", TotalErrors: len(v.Problems),
		Errors: eventErrors(v.Problems, nil),
		Detail: strconv.Itoa(len(v.Problems)) + " of " + strconv.Itoa(len(v.Statuses)) +
			" events can't be taken and none was stored; mend or remove them and send the rest again, " +
			"or send \"Prefer: return=representation\" to have the good ones kept",
	}
	for i := range v.Problems {
		reason := v.Problems[i].Reason
		if reason == meter.ReasonTooManyEvents || reason == meter.ReasonEventTooLarge && len(v.Statuses) == 1 {
			p.Status, p.Code, p.Detail = http.StatusRequestEntityTooLarge, "too-large", v.Problems[i].Detail
		}
	}
	return p
}

// eventErrors describes the first maxErrors problems. line, if not nil, gives the line of an event of a stream.
func eventErrors(problems []meter.Problem, line func(index int) int) []eventError {
	list := make([]eventError, 0, min(len(problems), maxErrors))
	for i := range problems[:min(len(problems), maxErrors)] {
		p := &problems[i]
		e := eventError{Index: p.Index, Field: p.Field, Meter: p.Meter, Reason: p.Reason, Detail: p.Detail}
		if line != nil {
			e.Line = line(p.Index)
		}
		list = append(list, e)
	}
	return list
}

// writeVerdicts answers with what became of each event.
func writeVerdicts(w *response, v *meter.Verdicts) error {
	buffer := bodies.Get().(*body)
	defer buffer.release()
	buffer.data = appendVerdicts(buffer.data[:0], v)
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Preference-Applied", "return=representation")
	h.Set("Content-Length", strconv.Itoa(len(buffer.data)))
	if _, err := w.Write(buffer.data); err != nil {
		return errAborted
	}
	return nil
}

// appendVerdicts appends {"accepted":…,"events":[{"index":0,"status":"accepted"},…]}.
func appendVerdicts(b []byte, v *meter.Verdicts) []byte {
	problems := map[int]*meter.Problem{}
	for i := range v.Problems {
		problems[v.Problems[i].Index] = &v.Problems[i]
	}
	b = append(b, '{')
	b = appendCounts(b, v)
	b = append(b, `,"events":[`...)
	for i, status := range v.Statuses {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"index":`...)
		b = strconv.AppendInt(b, int64(i), 10)
		b = append(b, `,"status":"`...)
		b = append(b, status.String()...)
		b = append(b, '"')
		if p := problems[i]; p != nil {
			b = appendProblem(b, p)
		}
		b = append(b, '}')
	}
	return append(b, "]}\n"...)
}

// appendCounts appends the members that count events. Events without a meter are accepted ones.
func appendCounts(b []byte, v *meter.Verdicts) []byte {
	b = appendCount(b, `"accepted":`, v.Accepted)
	b = appendCount(b, `,"duplicates":`, v.Duplicates)
	b = appendCount(b, `,"conflicts":`, v.Conflicts)
	b = appendCount(b, `,"without_meter":`, v.WithoutMeter)
	return appendCount(b, `,"rejected":`, v.Rejected)
}

func appendCount(b []byte, name string, n int) []byte {
	return strconv.AppendInt(append(b, name...), int64(n), 10)
}

// appendProblem appends the members that say why an event was refused.
func appendProblem(b []byte, p *meter.Problem) []byte {
	b = append(b, `,"reason":"`...)
	b = append(b, p.Reason...)
	b = append(b, '"')
	if p.Field != "" {
		b = appendString(append(b, `,"field":`...), p.Field)
	}
	if p.Meter != "" {
		b = appendString(append(b, `,"meter":`...), p.Meter)
	}
	return appendString(append(b, `,"detail":`...), p.Detail)
}
