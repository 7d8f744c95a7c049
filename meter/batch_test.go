package meter_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/meter"
)

// drawEvent draws an event from a small world, so that neighbours often share attributes.
func drawEvent(t *rapid.T) meter.Event {
	text := func(label string) []byte {
		return []byte(rapid.SampledFrom([]string{"a", "b", "é用", "a longer text with spaces"}).Draw(t, label))
	}
	ev := meter.Event{
		ID: text("id"), Source: text("source"), Type: text("type"), Subject: text("subject"),
		Stamped: rapid.Bool().Draw(t, "stamped"), Time: rapid.Int64().Draw(t, "time"),
	}
	if rapid.Bool().Draw(t, "has data") {
		ev.Data = []byte(`{"n":1}`)
	}
	if rapid.Bool().Draw(t, "has extensions") {
		ev.Extensions = []byte(`{"region":"eu"}`)
	}
	return ev
}

func TestPayload_roundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := meter.Payload{
			Received: rapid.Int64Range(0, 1<<61).Draw(t, "received"), Traceparent: rapid.StringN(0, 60, 60).Draw(t, "traceparent"),
			Events: rapid.SliceOfN(rapid.Custom(drawEvent), 0, 20).Draw(t, "events"),
		}
		for i := range want.Events {
			if want.Events[i].Stamped && rapid.Bool().Draw(t, "dated by receipt") {
				want.Events[i].Time = want.Received + int64(i)
			}
		}
		prefix := []byte("before")
		encoded := meter.AppendPayload(prefix, &want)
		if !bytes.HasPrefix(encoded, prefix) {
			t.Fatal("the destination's content is gone")
		}
		var got meter.Payload
		if err := meter.DecodePayload(encoded[len(prefix):], &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestDecodePayload_damage(t *testing.T) {
	t.Parallel()
	ev := meter.Event{ID: []byte("1"), Source: []byte("s"), Type: []byte("t"), Subject: []byte("x"), Time: 5, Data: []byte("{}")}
	good := meter.AppendPayload(nil, &meter.Payload{Received: 7, Traceparent: "trace", Events: []meter.Event{ev, ev}})
	var p meter.Payload
	for n := range good {
		if err := meter.DecodePayload(good[:n], &p); !errors.Is(err, meter.ErrPayload) {
			t.Errorf("%d of %d bytes: %v", n, len(good), err)
		}
	}
	if err := meter.DecodePayload(append(bytes.Clone(good), 0), &p); !errors.Is(err, meter.ErrPayload) {
		t.Errorf("with a byte more: %v", err)
	}
	newer := bytes.Clone(good)
	newer[0] = 2
	if err := meter.DecodePayload(newer, &p); !errors.Is(err, meter.ErrPayloadVersion) {
		t.Errorf("newer version: %v", err)
	}
	newer[0] = 0
	if err := meter.DecodePayload(newer, &p); !errors.Is(err, meter.ErrPayload) {
		t.Errorf("version 0: %v", err)
	}
}

// TestAppendPayload_bytes fixes the format: spools outlive programs.
func TestAppendPayload_bytes(t *testing.T) {
	t.Parallel()
	events := []meter.Event{
		{ID: []byte("1"), Source: []byte("s"), Type: []byte("t"), Subject: []byte("x"), Time: 261, Data: []byte("{}")},
		{ID: []byte("2"), Source: []byte("s"), Type: []byte("t"), Subject: []byte("y"), Stamped: true, Time: 257, Extensions: []byte(`{"a":1}`)},
		{ID: []byte("3"), Source: []byte("s"), Type: []byte("t"), Subject: []byte("y"), Stamped: true, Time: 260},
	}
	got := meter.AppendPayload(nil, &meter.Payload{Received: 256, Traceparent: "tp", Events: events})
	want := "\x01" + "\x03\x00\x00\x00" + "\x00\x01\x00\x00\x00\x00\x00\x00" + "\x02tp" +
		"\x10" + "\x01s" + "\x01t" + "\x01x" + "\x011" + "\x0a" + "\x02{}" +
		"\x27" + "\x01y" + "\x012" + "\x07" + `{"a":1}` +
		"\x4f" + "\x013" + "\x01"
	if string(got) != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func FuzzDecodePayload(f *testing.F) {
	ev := meter.Event{ID: []byte("1"), Source: []byte("s"), Type: []byte("t"), Subject: []byte("x"), Time: 5, Data: []byte("{}")}
	f.Add(meter.AppendPayload(nil, &meter.Payload{Received: 7, Traceparent: "trace", Events: []meter.Event{ev, ev}}))
	f.Add(meter.AppendPayload(nil, &meter.Payload{}))
	f.Add([]byte{1, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, payload []byte) {
		var p meter.Payload
		if meter.DecodePayload(payload, &p) != nil {
			return
		}
		// Foreign bytes may spell a value in a longer way; what we write reads back the same and as short.
		again := meter.AppendPayload(nil, &p)
		var q meter.Payload
		if err := meter.DecodePayload(again, &q); err != nil || len(again) > len(payload) {
			t.Fatalf("%v: %d bytes, then %d", err, len(payload), len(again))
		}
		if diff := cmp.Diff(p, q, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}
