package koogallery

import (
	"context"
	"net"
	"net/http"
	"sync"

	"github.com/meterd/meterd/reporter"
)

// Names for the tests, which live outside the package.
var (
	EncodeNew   = encodeNew
	EncodeOld   = encodeOld
	Marshal     = marshal
	Classify    = classify
	SDKQuery    = sdkQuery
	RetryAfter  = retryAfter
	OffsetFrom  = offsetFrom
	MaxAnswer   = maxAnswer
	MaxMessage  = maxMessage
	NewNonce    = newNonce
	Canonical   = sdkCanonicalRequest
	ToNewRecord = toNewRecord

	LoopbackControl = loopbackControl
)

// NewRecord is a wire record of the new push.
type NewRecord = newRecord

// NewBody is the body of the new push.
type NewBody = usageRecords[newRecord]

// ParseAnswer returns code, message and number of abnormal entries.
func ParseAnswer(body []byte) (code, message string, abnormal int, err error) {
	a, err := parseAnswer(body)
	return a.code, a.message, len(a.abnormal), err
}

// Refusals parses body and assigns its abnormal entries.
func Refusals(body []byte, batch []reporter.UsageRecord) (map[reporter.MeteringSN]reporter.Refusal, int, error) {
	a, err := parseAnswer(body)
	if err != nil {
		return nil, 0, err
	}
	refused, list := a.refusals(batch)
	strays := len(list)
	return refused, strays, nil
}

// Endpoints lists the addresses a client calls, in order.
func Endpoints(c *Client) []string {
	var urls []string
	for _, ep := range c.endpoints {
		urls = append(urls, ep.url)
	}
	return urls
}

// Conns collects the connections a client makes.
type Conns struct {
	mu    sync.Mutex
	conns []*guardedConn
}

// TrackConns starts collecting.
func TrackConns(c *Client) *Conns {
	t := new(Conns)
	for _, tr := range []*http.Transport{c.https, c.http} {
		if tr == nil {
			continue
		}
		dial := tr.DialContext
		tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			if g, ok := conn.(*guardedConn); ok {
				t.mu.Lock()
				t.conns = append(t.conns, g)
				t.mu.Unlock()
			}
			return conn, err
		}
	}
	return t
}

// Count is the number of connections made.
func (t *Conns) Count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.conns)
}

// Seal makes every connection so far refuse writes before they begin, as one does that died unnoticed.
func (t *Conns) Seal() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, g := range t.conns {
		g.seal(0)
	}
}
