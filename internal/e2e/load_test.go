package e2e_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load sends events from several clients until it is drained: batches of all sizes, single events, and streams. What is
// not acknowledged is sent again with the same ids, sometimes cut differently, and now and then what was acknowledged is
// sent once more, as senders with at-least-once delivery do.
type load struct {
	ledger

	t       *testing.T
	url     func() string
	pace    time.Duration // longest rest between two requests of a client
	gap     time.Duration // longest rest between two events of a stream; most have none
	retry   string        // refusals with this text are for a time only; "" for none
	stop    chan struct{} // closed: make no more events
	abort   context.Context
	clients sync.WaitGroup

	failures sync.Map     // by URL of the daemon, *failures
	resent   atomic.Int64 // events that were sent again although acknowledged
}

// failures are requests that one daemon did not acknowledge: without an answer, or answered 429 or 503.
type failures struct {
	count atomic.Int64
	first atomic.Value // text
}

// failed counts a request that a daemon did not acknowledge.
func (l *load) failed(url, why string) {
	value, _ := l.failures.LoadOrStore(url, new(failures))
	f := value.(*failures)
	f.count.Add(1)
	f.first.CompareAndSwap(nil, why)
}

// checkNoFailure wants every request to a daemon to have been acknowledged.
func (l *load) checkNoFailure(url string) {
	l.t.Helper()
	if value, ok := l.failures.Load(url); ok {
		f := value.(*failures)
		l.t.Errorf("%d requests were not acknowledged, the first: %v", f.count.Load(), f.first.Load())
	}
}

// failuresAll is how many requests were not acknowledged.
func (l *load) failuresAll() (all int64) {
	l.failures.Range(func(_, value any) bool {
		all += value.(*failures).count.Load()
		return true
	})
	return all
}

// How many clients of each kind a load has.
const (
	batchClients  = 3
	singleClients = 2
	streamClients = 1
)

// startLoad starts sending to the daemon that url names at the moment. Events with a time lie in the given hours.
func startLoad(t *testing.T, random *rand.Rand, url func() string, hours ...time.Time) *load {
	t.Helper()
	return startLoadOf(t, random, url, loadOptions{most: 500, pace: 20 * time.Millisecond, gap: 10 * time.Millisecond, maker: maker{hours: hours}})
}

// loadOptions say what load there is.
type loadOptions struct {
	most  int // events in a request
	pace  time.Duration
	gap   time.Duration
	retry string // refusals with this text are for a time only; there are no streams then
	maker maker  // how events are made
}

// startLoadOf starts a load with options.
func startLoadOf(t *testing.T, random *rand.Rand, url func() string, o loadOptions) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{t: t, url: url, pace: o.pace, gap: o.gap, retry: o.retry, stop: make(chan struct{}), abort: ctx}
	t.Cleanup(func() {
		cancel()
		l.clients.Wait()
	})
	newMaker := func(kind string, i int) *maker {
		made := o.maker
		made.random, made.source = rand.New(rand.NewPCG(random.Uint64(), 0)), fmt.Sprintf("load/%s-%d", kind, i)
		return &made
	}
	for i := range batchClients {
		c := &requestClient{load: l, maker: newMaker("batch", i), most: o.most}
		l.clients.Go(c.run)
	}
	for i := range singleClients {
		c := &requestClient{load: l, maker: newMaker("single", i), most: 1}
		l.clients.Go(c.run)
	}
	for i := range streamClients {
		if o.retry != "" {
			break
		}
		c := &streamClient{load: l, maker: newMaker("stream", i)}
		l.clients.Go(c.run)
	}
	return l
}

// drain ends the load once everything made was acknowledged.
func (l *load) drain() {
	l.t.Helper()
	close(l.stop)
	done := make(chan struct{})
	go func() { // ends with the clients
		l.clients.Wait()
		close(done)
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		l.t.Fatalf("not everything was acknowledged within %s; so far %d events", patience, l.acknowledged())
	}
	l.t.Logf("load: %d events acknowledged, %d requests not acknowledged, %d acknowledged events sent again",
		l.acknowledged(), l.failuresAll(), l.resent.Load())
}

// awaitProgress waits until so many more events are acknowledged.
func (l *load) awaitProgress(more int64) {
	l.t.Helper()
	from := l.acknowledged()
	poll(l.t, "progress of the load", func() error {
		if got := l.acknowledged() - from; got < more {
			return fmt.Errorf("%d of %d events acknowledged", got, more)
		}
		return nil
	})
}

// stopped reports whether no more events are to be made.
func (l *load) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return l.abort.Err() != nil
	}
}

// rest lets a client breathe; it bounds the load, nothing waits for it.
func (l *load) rest(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.abort.Done():
	}
}

// requestClient sends events in requests, one after the other.
type requestClient struct {
	*load
	*maker
	most int // events in a request
	sent []event
	http http.Client
}

// run sends until the load stops.
func (c *requestClient) run() {
	c.http.Transport = &http.Transport{}
	defer c.http.CloseIdleConnections()
	for !c.stopped() {
		size := int(math.Exp(c.random.Float64() * math.Log(float64(c.most)))) // small ones as often as large ones
		batch := make([]event, 0, size)
		for range max(size, 1) {
			batch = append(batch, c.next())
		}
		c.deliver(batch)
		c.rest(between(c.random, 0, c.pace))
	}
}

// deliver sends a batch until all of it is acknowledged.
func (c *requestClient) deliver(batch []event) {
	for rest := [][]event{batch}; len(rest) > 0; {
		part := rest[0]
		again := c.again()
		if !c.post(append(again, part...)) {
			if c.abort.Err() != nil {
				return
			}
			if half := len(part) / 2; half > 0 && c.random.IntN(3) == 0 {
				rest = append([][]event{part[half:], part[:half]}, rest[1:]...)
			}
			c.rest(5 * time.Millisecond)
			continue
		}
		c.acknowledge(part)
		c.resent.Add(int64(len(again)))
		rest = rest[1:]
		c.sent = append(c.sent, part[c.random.IntN(len(part))])
		c.sent = c.sent[max(0, len(c.sent)-100):]
	}
}

// again picks events to be sent although they were acknowledged.
func (c *requestClient) again() []event {
	if len(c.sent) == 0 || c.random.IntN(10) > 0 {
		return nil
	}
	from := c.random.IntN(len(c.sent))
	return append([]event(nil), c.sent[from:min(len(c.sent), from+1+c.random.IntN(5))]...)
}

// post makes one request and reports whether it was acknowledged.
func (c *requestClient) post(events []event) bool {
	body, contentType := c.encode(events)
	encoding := ""
	if c.random.IntN(4) == 0 {
		body, encoding = compress(body), "gzip"
	}
	at := c.url()
	request, err := http.NewRequestWithContext(c.abort, http.MethodPost, at+"/api/v1/events", bytes.NewReader(body))
	if err != nil {
		c.t.Error(err)
		return false
	}
	request.Header.Set("Content-Type", contentType)
	if encoding != "" {
		request.Header.Set("Content-Encoding", encoding)
	}
	response, err := c.http.Do(request)
	if err != nil {
		c.failed(at, err.Error())
		return false
	}
	defer response.Body.Close()
	answer, _ := io.ReadAll(response.Body)
	switch response.StatusCode {
	case http.StatusNoContent:
		return true
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if response.Header.Get("Retry-After") == "" {
			c.t.Errorf("%s without Retry-After: %s", response.Status, errorText(answer))
		}
		c.failed(at, errorText(answer))
		return false
	default:
		if c.retry == "" || !bytes.Contains(answer, []byte(c.retry)) {
			c.t.Errorf("events refused: %s: %s", response.Status, errorText(answer))
		}
		return false
	}
}

// encode chooses one of the forms that fit.
func (c *requestClient) encode(events []event) (body []byte, contentType string) {
	separator, begin, end := ",", "[", "]"
	contentType = "application/cloudevents-batch+json; charset=utf-8"
	switch form := c.random.IntN(3); {
	case form == 0:
		separator, begin, end, contentType = "\n", "", "\n", "application/x-ndjson"
	case len(events) == 1 && form == 1:
		begin, end, contentType = "", "", "application/cloudevents+json"
	case form == 1:
		contentType = "application/json"
	}
	body = append(body, begin...)
	for i := range events {
		if i > 0 {
			body = append(body, separator...)
		}
		body = events[i].appendJSON(body)
	}
	return append(body, end...), contentType
}

func compress(body []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(body) // a buffer takes everything
	_ = w.Close()
	return b.Bytes()
}

// errorText shortens an answer for a message.
func errorText(b []byte) string { return strings.TrimSpace(string(b[:min(len(b), 500)])) }
