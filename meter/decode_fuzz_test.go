package meter_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"unicode/utf8"

	"github.com/meterd/meterd/meter"
)

func addBodies(f *testing.F) {
	f.Helper()
	f.Add([]byte(`{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"x","time":"2026-01-02T15:04:05.5+01:00","data":{"n":1.5e3,"m":[true,null,"\ud83d\ude00"]}}`))
	f.Add([]byte(`[{"id":"1","source":"s","type":"t","subject":"é","ext":"a","n":1},{"id":2}]`))
	f.Add([]byte(`[{"id":"1","source":"s","type":"t","subject":"x","data_base64":"eyJhIjoxfQ=="},]`))
	f.Add([]byte("{\"id\":\"1\"}\n\n{\"id\":\"\\u0000\"}\r\n"))
	f.Add([]byte(`{"data":{"a":1,"\u0061":2}}`))
	f.Add([]byte(`{"id":"` + "\xff" + `"}`))
	f.Add([]byte(`[[[[]]],{"a":{"b":{"c":{}}}}]`))
}

// checkEvent checks what must hold of every event.
func checkEvent(t *testing.T, ev *meter.Event) {
	t.Helper()
	for _, attribute := range [][]byte{ev.ID, ev.Source, ev.Type, ev.Subject} {
		if len(attribute) == 0 || len(attribute) > meter.MaxAttribute || !utf8.Valid(attribute) {
			t.Fatalf("attribute %q", attribute)
		}
	}
	if ev.Data != nil && !json.Valid(ev.Data) {
		t.Fatalf("data %q is not JSON", ev.Data)
	}
	if ev.Extensions != nil {
		var object map[string]any
		if err := json.Unmarshal(ev.Extensions, &object); err != nil {
			t.Fatalf("extensions %q: %v", ev.Extensions, err)
		}
	}
}

// FuzzDecodeJSON compares acceptance and values with encoding/json, allowing for where ours is stricter.
func FuzzDecodeJSON(f *testing.F) {
	addBodies(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		original := bytes.Clone(body)
		b := meter.NewBatch()
		defer b.Release()
		b.DecodeJSON(body, meter.DecodeOptions{MaxEvents: 100, MaxEventBytes: 1 << 16})
		if !bytes.Equal(original, body) {
			t.Fatal("the body was changed")
		}
		checkBatch(t, b, len(body))
		if !json.Valid(body) {
			if !b.Broken {
				t.Fatalf("accepted what is not JSON: %q", body)
			}
			return
		}
		if b.Broken {
			if p := b.Problems[len(b.Problems)-1]; p.Reason == meter.ReasonMalformed && utf8.Valid(body) && !bytes.Contains(body, []byte(`\u`)) && !bytes.Contains(body, []byte(`\U`)) {
				t.Fatalf("refused valid JSON: %q: %+v", body, p)
			}
			return
		}
		var elements []json.RawMessage
		if trimmed := bytes.TrimLeft(body, " \t\r\n"); trimmed[0] != '[' {
			elements = []json.RawMessage{trimmed}
		} else if err := json.Unmarshal(body, &elements); err != nil {
			t.Fatal(err)
		}
		if b.Total != len(elements) {
			t.Fatalf("%d events, want %d", b.Total, len(elements))
		}
		for i := range b.Events {
			compareWithOracle(t, &b.Events[i], elements[b.Index(i)])
		}
	})
}

func compareWithOracle(t *testing.T, ev *meter.Event, element []byte) {
	t.Helper()
	var members map[string]json.RawMessage // exact names; a struct would take any case
	if err := json.Unmarshal(element, &members); err != nil {
		t.Fatalf("event of %q: %v", element, err)
	}
	for name, got := range map[string][]byte{"id": ev.ID, "source": ev.Source, "type": ev.Type, "subject": ev.Subject} {
		var want string
		if err := json.Unmarshal(members[name], &want); err != nil || want != string(got) {
			t.Fatalf("%s is %q, want %q (%v)", name, got, want, err)
		}
	}
	if data, sent := members["data"]; sent && string(data) != "null" && !bytes.Equal(data, ev.Data) {
		t.Fatalf("data is %q, want %q", ev.Data, data)
	}
}

// checkBatch checks what must hold of every batch.
func checkBatch(t *testing.T, b *meter.Batch, size int) {
	t.Helper()
	if len(b.Events)+len(b.Problems) != b.Total {
		t.Fatalf("%d events and %d problems of %d", len(b.Events), len(b.Problems), b.Total)
	}
	for i, p := range b.Problems {
		if p.Reason == "" || p.Detail == "" || p.Index < 0 || p.Index >= b.Total || p.Offset < 0 || p.Offset > size || !utf8.ValidString(p.Detail) {
			t.Fatalf("problem %+v of %d in %d bytes", p, b.Total, size)
		}
		_ = b.RawProblem(i)
	}
	for i := range b.Events {
		checkEvent(t, &b.Events[i])
		var again meter.Batch
		again.DecodeJSON(meter.AppendEventJSON(nil, &b.Events[i]), meter.DecodeOptions{})
		if len(again.Events) != 1 || !bytes.Equal(again.Events[0].Data, b.Events[i].Data) || again.Events[0].Time != b.Events[i].Time ||
			meter.KeyOf(&again.Events[0]) != meter.KeyOf(&b.Events[i]) {
			t.Fatalf("%s reads back as %+v %+v", meter.AppendEventJSON(nil, &b.Events[i]), again.Events, again.Problems)
		}
	}
}

func FuzzDecodeLines(f *testing.F) {
	addBodies(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		b := meter.NewBatch()
		defer b.Release()
		b.DecodeLines(body, meter.DecodeOptions{})
		checkBatch(t, b, len(body))
		lines := 0
		for line := range bytes.SplitSeq(body, []byte("\n")) {
			if len(bytes.Trim(line, " \t\r")) > 0 {
				lines++
			}
		}
		if b.Total != lines {
			t.Fatalf("%d events of %d lines", b.Total, lines)
		}
	})
}

func FuzzDecodeBinary(f *testing.F) {
	f.Add("1", "s", "t", "x", "2026-01-02T15:04:05Z", "application/json", "region", "eu", []byte(`{"a":1}`))
	f.Add("", "s", "t", "x", "", "text/plain", "Time", "\xff", []byte("a"))
	f.Fuzz(func(t *testing.T, id, source, typ, subject, at, contentType, name, value string, data []byte) {
		b := meter.NewBatch()
		defer b.Release()
		b.DecodeBinary([]meter.Attribute{
			{Name: "id", Value: id},
			{Name: "source", Value: source},
			{Name: "type", Value: typ},
			{Name: "subject", Value: subject},
			{Name: "time", Value: at},
			{Name: "datacontenttype", Value: contentType},
			{Name: name, Value: value},
		}, data, meter.DecodeOptions{})
		checkBatch(t, b, len(data))
	})
}

// FuzzValues has the extractor, which trusts the decoder, read anything at all.
func FuzzValues(f *testing.F) {
	f.Add([]byte(`{"tokens":"12.5","model":"a\"b","list":[{"n":1},{"n":2}],"deep":{"er":{"x":1}}}`))
	f.Add([]byte(`{"list":[1,2`))
	f.Add([]byte(`[[[]]]`))
	f.Add([]byte(`{"to\u006bens":3}`))
	one := meter.NewQuantity(1, 0)
	path := meter.MustParsePath
	c, err := meter.NewCatalog([]meter.Meter{
		{Slug: "a", EventType: "t", Aggregation: meter.Sum, Value: path("$.tokens"), Scale: one, GroupBy: []meter.Dimension{{"m", path("$.model")}, {"d", path("$.deep.er.x")}}},
		{Slug: "b", EventType: "t", Aggregation: meter.Max, Value: path("$.list[1].n"), Scale: one},
		{Slug: "c", EventType: "t", Aggregation: meter.UniqueCount, Value: path("$.model"), Scale: one},
		{Slug: "d", EventType: "t", Aggregation: meter.Sum, Value: path("$[0][1]"), Scale: one},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		values, problem := c.Values(&meter.Event{Type: []byte("t"), Data: data})
		if len(values) == 4 && problem != nil || len(values) < 4 && problem == nil {
			t.Fatalf("%d values, %v", len(values), problem)
		}
		if !json.Valid(data) {
			return
		}
		checkTokens(t, c, data)
	})
}

// checkTokens compares the first meter's value with encoding/json's.
func checkTokens(t *testing.T, c *meter.Catalog, data []byte) {
	t.Helper()
	var b meter.Batch // duplicates make the oracle and us differ; the decoder refuses them
	b.DecodeJSON([]byte(`{"id":"1","source":"s","type":"t","subject":"x","data":`+string(data)+`}`), meter.DecodeOptions{})
	if len(b.Events) != 1 {
		return
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(data, &members) != nil {
		return
	}
	m, _ := c.Meter("a")
	raw := members["tokens"]
	var text string
	if json.Unmarshal(raw, &text) != nil {
		text = string(raw)
	}
	want, err := meter.ParseQuantity([]byte(text))
	values, _ := c.Values(&b.Events[0])
	for _, v := range values {
		if v.Meter == m.Fingerprint() && (err != nil || !v.Quantity.Equal(want)) {
			t.Fatalf("tokens of %q: %s, want %s (%v)", data, v.Quantity, want, err)
		}
	}
}
