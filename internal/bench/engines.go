package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// engine is the ClickHouse that a daemon stores into.
type engine interface {
	config() string         // the daemon's [store] section
	attach(d *meterd) error // once the daemon runs
	pid() int
	connect() (clickhouse.Conn, error)
	stop() error
}

func (b *bench) engineName() string {
	if b.server {
		return "clickhouse-server"
	}
	return "embedded"
}

func (b *bench) startEngine(ctx context.Context) (engine, error) {
	if b.server {
		return b.startServer(ctx)
	}
	return new(embeddedEngine), nil
}

// embeddedEngine is the daemon's own child.
type embeddedEngine struct {
	socket  string
	process int
}

func (e *embeddedEngine) config() string { return "embedded = true\n" }

func (e *embeddedEngine) attach(d *meterd) (err error) {
	e.socket = filepath.Join(d.dir, "data", "engine", "engine.sock")
	if e.process, err = childOf(d.pid()); err == nil && e.process == 0 {
		err = errors.New("the daemon has no engine process")
	}
	return err
}

func (e *embeddedEngine) pid() int { return e.process }

func (e *embeddedEngine) connect() (clickhouse.Conn, error) {
	return clickhouse.Open(&clickhouse.Options{
		Protocol: clickhouse.HTTP, Addr: []string{"localhost:80"}, MaxOpenConns: 4, ReadTimeout: 5 * time.Minute,
		DialContext: func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", e.socket)
		},
	})
}

func (e *embeddedEngine) stop() error { return nil } // the daemon does it

// serverEngine is a clickhouse-server on free loopback ports.
type serverEngine struct {
	*child
	address string
}

func (s *serverEngine) config() string {
	return fmt.Sprintf("embedded = false\naddrs = [%q]\n", s.address)
}

func (s *serverEngine) attach(*meterd) error { return nil }

func (s *serverEngine) connect() (clickhouse.Conn, error) {
	return clickhouse.Open(&clickhouse.Options{
		Addr: []string{s.address}, MaxOpenConns: 4, ReadTimeout: 5 * time.Minute,
		Compression: &clickhouse.Compression{Method: clickhouse.CompressionLZ4},
	})
}

func (s *serverEngine) stop() error { return s.child.stop(30 * time.Second) }

// serverConfig leaves out the server's own log tables and everything that listens elsewhere than on loopback.
const serverConfig = `<yandex>
  <logger><level>warning</level><console>1</console></logger>
  <tcp_port>%d</tcp_port><http_port>%d</http_port><interserver_http_port>%d</interserver_http_port>
  <listen_host>127.0.0.1</listen_host>
  <path>%[4]s/data/</path><tmp_path>%[4]s/tmp/</tmp_path><user_files_path>%[4]s/tmp/</user_files_path>
  <users_config>users.xml</users_config><default_profile>default</default_profile><default_database>default</default_database>
  <mark_cache_size>268435456</mark_cache_size><timezone>UTC</timezone>
</yandex>
`

const serverUsers = `<yandex>
  <profiles><default><max_memory_usage>8000000000</max_memory_usage></default></profiles>
  <users><default><password></password><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota></default></users>
  <quotas><default></default></quotas>
</yandex>
`

// startServer starts a clickhouse-server: $CLICKHOUSE_SERVER, else that of the system.
func (b *bench) startServer(ctx context.Context) (*serverEngine, error) {
	dir, err := os.MkdirTemp(b.work, "server-")
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(ctx, 3)
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		os.Mkdir(filepath.Join(dir, "data"), 0o700), os.Mkdir(filepath.Join(dir, "tmp"), 0o700),
		os.WriteFile(filepath.Join(dir, "config.xml"), fmt.Appendf(nil, serverConfig, ports[0], ports[1], ports[2], dir), 0o600),
		os.WriteFile(filepath.Join(dir, "users.xml"), []byte(serverUsers), 0o600))
	if err != nil {
		return nil, err
	}
	path := os.Getenv("CLICKHOUSE_SERVER")
	if path == "" {
		if path, err = exec.LookPath("clickhouse-server"); err != nil {
			path = "/usr/sbin/clickhouse-server"
		}
	}
	s := &serverEngine{address: fmt.Sprintf("127.0.0.1:%d", ports[0])}
	if s.child, err = startChild("clickhouse-server", path, nil, "--config-file="+filepath.Join(dir, "config.xml")); err != nil {
		return nil, fmt.Errorf("%w (install it, or set CLICKHOUSE_SERVER)", err)
	}
	if err := s.awaitAnswer(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// awaitAnswer waits until the server answers.
func (s *serverEngine) awaitAnswer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	conn, err := s.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := conn.Ping(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-s.exited:
			return s.failure()
		case <-ctx.Done():
			return fmt.Errorf("clickhouse-server does not answer: %w\n%s", err, s.errors)
		}
	}
}

// freePorts finds ports that nothing listens on.
func freePorts(ctx context.Context, n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close()                         // held until all are found, so that they differ
		ports[i] = l.Addr().(*net.TCPAddr).Port // a TCP listener
	}
	return ports, nil
}
