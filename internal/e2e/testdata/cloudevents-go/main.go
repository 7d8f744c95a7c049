// Command cloudevents-go sends usage events with the CloudEvents SDK for Go, as a user of it would, and prints what it
// sent. It is a module of its own so that the SDK is no dependency of meterd.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
)

// sent is what was sent for a subject: tokens in ten-thousandths.
type sent struct {
	Events int64 `json:"events"`
	Units  int64 `json:"units"`
}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	sink := os.Getenv("METERD_URL") + "/api/v1/events"
	client, err := cloudevents.NewClientHTTP(
		cloudevents.WithTarget(sink),
		cloudevents.WithHeader("Authorization", "Bearer "+os.Getenv("METERD_KEY")),
	)
	if err != nil {
		return err
	}
	result := map[string]*sent{}
	for i := range 6 {
		mode, subject := cloudevents.WithEncodingStructured, "go-structured"
		if i%2 == 0 {
			mode, subject = cloudevents.WithEncodingBinary, "go-binary"
		}
		event, err := newEvent(i, subject, result)
		if err != nil {
			return err
		}
		for range 2 { // the second one is a retry
			answer := client.Send(mode(ctx), event)
			var status *cehttp.Result
			if !cloudevents.IsACK(answer) || !cloudevents.ResultAs(answer, &status) || status.StatusCode != http.StatusNoContent {
				return fmt.Errorf("send event %d to %s: %w", i, subject, answer)
			}
		}
	}
	if err := sendBatch(ctx, sink, result); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// newEvent makes an event and books it.
func newEvent(i int, subject string, result map[string]*sent) (cloudevents.Event, error) {
	units := int64(10_000*i + 1234)
	event := cloudevents.NewEvent()
	event.SetID(fmt.Sprintf("go-%d", i))
	event.SetSource("https://example.com/cloudevents-go?a=b c")
	event.SetType("request")
	event.SetSubject(subject)
	event.SetTime(time.Now())
	event.SetExtension("tenant", "größe-1")
	data := map[string]any{"tokens": fmt.Sprintf("%d.%04d", units/10_000, units%10_000), "model": "gö"}
	if result[subject] == nil {
		result[subject] = &sent{}
	}
	result[subject].Events++
	result[subject].Units += units
	return event, event.SetData(cloudevents.ApplicationJSON, data)
}

// sendBatch sends a batch, which the SDK's client can't, with the SDK's own message for it.
func sendBatch(ctx context.Context, sink string, result map[string]*sent) error {
	var batch []cloudevents.Event
	for i := 100; i < 110; i++ {
		event, err := newEvent(i, "go-batch", result)
		if err != nil {
			return err
		}
		batch = append(batch, event)
	}
	request, err := cehttp.NewHTTPRequestFromEvents(ctx, sink, batch)
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+os.Getenv("METERD_KEY"))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusNoContent {
		var text bytes.Buffer
		_, _ = text.ReadFrom(response.Body)
		return fmt.Errorf("batch: %s: %s", response.Status, &text)
	}
	// One more, the way a proxy forwards what it received.
	event, err := newEvent(200, "go-forwarded", result)
	if err != nil {
		return err
	}
	forwarded, err := http.NewRequestWithContext(ctx, http.MethodPost, sink, http.NoBody)
	if err != nil {
		return err
	}
	forwarded.Header.Set("X-Api-Key", os.Getenv("METERD_KEY"))
	if err := cehttp.WriteRequest(ctx, binding.ToMessage(&event), forwarded); err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(forwarded)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusNoContent {
		return fmt.Errorf("forwarded: %s", answer.Status)
	}
	return nil
}
