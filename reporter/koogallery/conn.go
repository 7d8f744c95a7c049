package koogallery

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

// idleTimeout is how long a connection is kept between calls: long enough for the batches of one hour, well below the
// keep-alive times of servers, so that a server rarely closes a connection just as it is used again.
const idleTimeout = 5 * time.Second

var errSealed = errors.New("the attempt is over")

// guardedConn counts the writes begun and can be sealed against further ones. It sits below TLS. Sealing answers with
// certainty whether anything of a request left this process or ever will.
type guardedConn struct {
	net.Conn
	mu     sync.Mutex
	begun  uint64
	sealed bool
}

// Write passes p on unless the connection was sealed.
func (g *guardedConn) Write(p []byte) (int, error) {
	g.mu.Lock()
	if g.sealed {
		g.mu.Unlock()
		return 0, errSealed
	}
	g.begun++
	g.mu.Unlock()
	return g.Conn.Write(p)
}

func (g *guardedConn) writes() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.begun
}

// seal stops all writes and reports whether none began since the count was since.
func (g *guardedConn) seal(since uint64) (unsent bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sealed = true
	return g.begun == since
}

// sending watches one attempt through httptrace.
type sending struct {
	mu     sync.Mutex
	got    bool         // a connection was handed to the request
	reused bool         // it had carried requests before
	conn   *guardedConn // nil if the connection isn't ours, which does not happen
	since  uint64       // its count of writes at that moment
}

// watch returns a context that reports to s.
func (s *sending) watch(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: s.gotConn})
}

func (s *sending) gotConn(info httptrace.GotConnInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got, s.reused = true, info.Reused
	conn := info.Conn
	for {
		switch c := conn.(type) {
		case *guardedConn:
			s.conn, s.since = c, c.writes()
			return
		case *tls.Conn:
			conn = c.NetConn()
		default:
			return
		}
	}
}

// phase says how far a failed attempt came.
type phase uint8

const (
	phaseConnect phase = iota + 1 // no connection; nothing was sent
	phaseUnsent                   // a connection, and provably nothing sent
	phaseSent                     // the request may have arrived
)

// failed ends the attempt and returns how far it came.
func (s *sending) failed() (p phase, reused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.got:
		return phaseConnect, false
	case s.conn != nil && s.conn.seal(s.since):
		return phaseUnsent, s.reused
	default:
		return phaseSent, s.reused
	}
}

// newTransport returns a transport that never repeats a request by itself. The standard one does so on reused
// connections in three cases, all closed here: nothing written yet and GetBody set (we clear it), replayable methods or
// an Idempotency-Key header (ours is a POST without one), and HTTP/2's refused streams (only HTTP/1.1 is spoken).
func newTransport(s settings) *http.Transport {
	var http1 http.Protocols
	http1.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  s.Proxy,
		DialContext:            dialer(s.Timeout, false),
		TLSClientConfig:        s.tlsConfig(),
		TLSHandshakeTimeout:    min(s.Timeout, maxDialTimeout),
		DisableCompression:     true, // answers are tiny; a compressed one would need its own bound
		MaxIdleConns:           2,
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		Protocols:              &http1,
	}
}

// newLoopbackTransport is the same for plain http: no proxy, and no address but loopback.
func newLoopbackTransport(s settings) *http.Transport {
	t := newTransport(s)
	t.Proxy = nil
	t.DialContext = dialer(s.Timeout, true)
	return t
}

// dialer returns a dial function whose connections are guarded.
func dialer(timeout time.Duration, loopbackOnly bool) func(context.Context, string, string) (net.Conn, error) {
	d := net.Dialer{Timeout: min(timeout, maxDialTimeout), KeepAlive: 15 * time.Second}
	if loopbackOnly {
		d.Control = loopbackControl
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &guardedConn{Conn: conn}, nil
	}
}

// loopbackControl refuses to connect to an address that isn't loopback. It sees the address after name resolution, so a
// name that resolves to two addresses, or to another one than before, gets nowhere.
func loopbackControl(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil || !ap.Addr().Unmap().IsLoopback() {
		return fmt.Errorf("http is permitted to loopback addresses only, not to %s", address)
	}
	return nil
}
