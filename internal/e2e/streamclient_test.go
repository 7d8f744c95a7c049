package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"
)

// streamClient sends events in NDJSON streams without an end, and reads an answer for each durable chunk. When a stream
// breaks it opens another and begins with the first event that was not acknowledged.
type streamClient struct {
	*load
	*maker
	open []event // made and not acknowledged
	http http.Client
}

// run streams until the load stops and everything is acknowledged.
func (c *streamClient) run() {
	// A connection for each stream: Go's client may still be closing one whose answer ended before all was written.
	c.http.Transport = &http.Transport{DisableKeepAlives: true}
	for !c.stopped() || len(c.open) > 0 {
		if c.abort.Err() != nil {
			return
		}
		c.stream()
		c.rest(5 * time.Millisecond)
	}
}

// chunkAnswer is one line of the answer to a stream.
type chunkAnswer struct {
	ToLine   int             `json:"to_line"`
	Rejected int             `json:"rejected"`
	Errors   json.RawMessage `json:"errors"`
	Error    *struct {
		Status int    `json:"status"`
		Detail string `json:"detail"`
	} `json:"error"`
}

// stream opens one stream and feeds it until it breaks, or the load stops.
func (c *streamClient) stream() {
	ctx, cancel := context.WithCancel(c.abort)
	defer cancel()
	body, lines := io.Pipe()
	// The last part of what is open is what the writer adds; only it appends, and it has ended before open is cut.
	written := make(chan []event, 1)
	go func(again []event) { written <- c.feed(ctx, lines, again) }(c.open) // ends with the stream
	acknowledged := 0
	defer func() {
		cancel()
		_ = body.Close() // a blocked writer goes on
		made := <-written
		c.acknowledge(made[:acknowledged])
		c.open = append([]event(nil), made[acknowledged:]...)
	}()
	at := c.url()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, at+"/api/v1/events", body)
	if err != nil {
		c.t.Error(err)
		return
	}
	request.Header.Set("Content-Type", "application/x-ndjson")
	response, err := c.http.Do(request)
	if err != nil {
		c.failed(at, "stream: "+err.Error())
		return
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusNoContent: // an empty stream
		return
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		c.failed(at, "stream: "+response.Status)
		return
	case http.StatusOK:
		acknowledged = c.follow(response.Body, at)
	default:
		answer, _ := io.ReadAll(response.Body)
		c.t.Errorf("stream refused: %s: %s", response.Status, errorText(answer))
	}
}

// feed writes what was not acknowledged, then new events, until the load or the stream ends. It returns all it wrote.
func (c *streamClient) feed(ctx context.Context, w *io.PipeWriter, again []event) []event {
	made := append([]event(nil), again...)
	defer w.Close()
	var buf []byte
	for i := 0; ctx.Err() == nil; i++ {
		if i == len(made) {
			if c.stopped() || i > 20_000 { // a stream ends now and then, in good order
				break
			}
			made = append(made, c.next())
		}
		buf = append(made[i].appendJSON(buf[:0]), '\n')
		if _, err := w.Write(buf); err != nil {
			break
		}
		if i >= len(again) && c.random.IntN(20) == 0 {
			c.rest(between(c.random, 0, c.gap))
		}
	}
	return made
}

// follow reads answers until the stream ends, and returns how many lines are acknowledged.
func (c *streamClient) follow(r io.Reader, at string) (acknowledged int) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		var a chunkAnswer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			break // cut off in the middle of a line
		}
		if a.Error != nil {
			if a.Error.Status != http.StatusTooManyRequests && a.Error.Status != http.StatusServiceUnavailable {
				c.t.Errorf("stream ended by the daemon: %s", errorText(lines.Bytes()))
			}
			c.failed(at, "stream: "+errorText(lines.Bytes()))
			break
		}
		if a.Rejected > 0 {
			c.t.Errorf("events of a stream refused: %s", errorText(lines.Bytes()))
		}
		acknowledged = a.ToLine
	}
	return acknowledged
}
