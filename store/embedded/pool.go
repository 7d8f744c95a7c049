package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// killPatience is how long a killed query may go on before the engine counts as wedged.
const killPatience = 90 * time.Second

// pool hands out the engine's connections and kills what runs for a client that left.
type pool struct {
	free   chan *conn
	logger *slog.Logger
	fatal  func(error) // called at most a few times, when only a new process can help

	mu    sync.Mutex // admin
	admin *conn      // never handed out: kills queries while all others are busy
}

func openPool(ctx context.Context, lib *library, path string, connections int, logger *slog.Logger, fatal func(error)) (*pool, error) {
	admin, err := openConn(lib, path, "meterd-admin")
	if err != nil {
		return nil, err
	}
	p := &pool{free: make(chan *conn, connections), logger: logger, fatal: fatal, admin: admin}
	for i := range connections {
		c, err := openConn(lib, path, fmt.Sprintf("meterd-%d", i))
		if err != nil {
			return nil, errors.Join(err, p.close(ctx))
		}
		p.free <- c
	}
	return p, nil
}

// run waits for a connection and calls use with it. When ctx ends, the statement that use is running is killed in the
// engine; use returns when the engine let go of it.
func (p *pool) run(ctx context.Context, use func(*conn) error) error {
	var c *conn
	select {
	case c = <-p.free:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { p.free <- c }()

	finished := make(chan struct{})
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(killed)
		p.kill(c.mark, finished)
	})
	err := use(c)
	close(finished)
	if !stop() {
		// The kill names the connection, not the query: it must be over before the next query starts.
		<-killed
	}
	return err
}

// kill repeats KILL QUERY until finished is closed: a query may not be listed yet when the first one runs.
func (p *pool) kill(mark string, finished <-chan struct{}) {
	deadline := time.NewTimer(killPatience)
	defer deadline.Stop()
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		select {
		case <-finished:
			return
		default:
		}
		if err := p.adminExec(killSQL(mark)); err != nil {
			p.logger.Warn("kill query", "err", err)
		}
		retry := time.NewTimer(pause)
		select {
		case <-finished:
			retry.Stop()
			return
		case <-deadline.C:
			retry.Stop()
			p.fatal(fmt.Errorf("a killed query still runs after %v", killPatience))
			<-finished
			return
		case <-retry.C:
		}
	}
}

func (p *pool) adminExec(sql string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.admin == nil {
		return errors.New("engine is closed")
	}
	return p.admin.exec(sql)
}

// ping asks the engine for an answer without waiting for a free connection.
func (p *pool) ping() error { return p.adminExec("SELECT 1") }

// killAll stops every running query; their requests end with an error.
func (p *pool) killAll() error {
	return p.adminExec(fmt.Sprintf("KILL QUERY WHERE startsWith(Settings['%s'], 'meterd-') AND Settings['%[1]s'] != 'meterd-admin' ASYNC", markSetting))
}

// close waits for all connections and closes them. The last one to close shuts the engine down in order.
func (p *pool) close(ctx context.Context) error {
	for open := cap(p.free); open > 0; open-- {
		select {
		case c := <-p.free:
			c.close()
		case <-ctx.Done():
			return fmt.Errorf("%d engine connections are still busy: %w", open, ctx.Err())
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.admin != nil {
		p.admin.close()
		p.admin = nil
	}
	return nil
}
