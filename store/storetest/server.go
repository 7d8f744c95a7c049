package storetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// Server is a real clickhouse-server process of a test, on free loopback ports with its own data directory. It is
// stopped when the test ends.
type Server struct {
	// Addr is host:port of the native protocol; it stays the same over restarts.
	Addr string

	dir    string
	binary []string
	cmd    *exec.Cmd
	exited chan error
	// dismiss ends the guard.
	dismiss func()
}

// serverBinary finds the server: $CLICKHOUSE_SERVER (a clickhouse-server, or a multi-purpose clickhouse), then
// clickhouse-server and clickhouse in the usual places.
func serverBinary() ([]string, error) {
	candidates := []string{"/usr/sbin/clickhouse-server", "clickhouse-server", "clickhouse"}
	if path := os.Getenv("CLICKHOUSE_SERVER"); path != "" {
		candidates = []string{path}
	}
	for _, name := range candidates {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		if filepath.Base(path) == "clickhouse" {
			return []string{path, "server"}, nil
		}
		return []string{path}, nil
	}
	return nil, fmt.Errorf("no ClickHouse server: none of %s is there; install Debian's clickhouse-server or set CLICKHOUSE_SERVER", strings.Join(candidates, ", "))
}

// skipOrFail ends a test for want of an engine: it fails where METERD_REQUIRE_ENGINES=1 says that every engine must be
// there, and is skipped elsewhere.
func skipOrFail(tb testing.TB, err error) {
	tb.Helper()
	if os.Getenv("METERD_REQUIRE_ENGINES") == "1" {
		tb.Fatalf("METERD_REQUIRE_ENGINES=1: %v", err)
	}
	tb.Skip(err.Error())
}

// StartServer starts a server and waits until it answers.
func StartServer(tb testing.TB) *Server {
	tb.Helper()
	binary, err := serverBinary()
	if err != nil {
		skipOrFail(tb, err)
	}
	s := &Server{dir: tb.TempDir(), binary: binary}
	tb.Cleanup(func() { s.Stop(tb) })
	// A port found free may be taken by another process before the server binds it: then try others.
	for attempt := 1; ; attempt++ {
		s.configure(tb)
		err := s.start(tb.Context())
		if err == nil {
			return s
		}
		if attempt == 3 {
			tb.Fatalf("start clickhouse-server: %v\n%s", err, s.log())
		}
	}
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

// configure writes the configuration: no system log tables, small caches, loopback only.
func (s *Server) configure(tb testing.TB) {
	tb.Helper()
	ports := freePorts(tb, 3)
	s.Addr = fmt.Sprintf("127.0.0.1:%d", ports[0])
	config := fmt.Sprintf(`<yandex>
  <logger><level>warning</level><console>1</console></logger>
  <tcp_port>%d</tcp_port><http_port>%d</http_port><interserver_http_port>%d</interserver_http_port>
  <listen_host>127.0.0.1</listen_host>
  <path>%s/</path><tmp_path>%s/</tmp_path><user_files_path>%[5]s/</user_files_path>
  <users_config>users.xml</users_config><default_profile>default</default_profile><default_database>default</default_database>
  <mark_cache_size>268435456</mark_cache_size><timezone>UTC</timezone>
</yandex>
`, ports[0], ports[1], ports[2], s.path("data"), s.path("tmp"))
	for _, dir := range []string{"data", "tmp"} {
		if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
			tb.Fatal(err)
		}
	}
	s.write(tb, "config.xml", config)
	s.writeUsers(tb, false)
}

// writeUsers writes the one user's rights.
func (s *Server) writeUsers(tb testing.TB, readOnly bool) {
	tb.Helper()
	const users = `<yandex>
  <profiles><default><max_memory_usage>8000000000</max_memory_usage><readonly>%d</readonly></default></profiles>
  <users><default><password></password><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota></default></users>
  <quotas><default></default></quotas>
</yandex>
`
	level := 0
	if readOnly {
		level = 2 // settings may be changed, as clients do
	}
	s.write(tb, "users.xml", fmt.Sprintf(users, level))
}

func (s *Server) write(tb testing.TB, name, text string) {
	tb.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// ReadOnly restarts the server so that it refuses every write, or takes them again.
func (s *Server) ReadOnly(tb testing.TB, refuse bool) {
	tb.Helper()
	s.Stop(tb)
	s.writeUsers(tb, refuse)
	s.Start(tb)
}

// freePorts finds ports that nothing listens on.
func freePorts(tb testing.TB, n int) []int {
	tb.Helper()
	ports := make([]int, n)
	for i := range ports {
		listener, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatalf("find a free port: %v", err)
		}
		defer listener.Close()                         // held until all ports are found, so that they differ
		ports[i] = listener.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // a TCP listener
	}
	return ports
}

// start starts the process and waits until it answers.
func (s *Server) start(ctx context.Context) error {
	output, err := os.OpenFile(s.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer output.Close() // the process has its own descriptor
	args := append(s.binary[1:len(s.binary):len(s.binary)], "--config-file="+s.path("config.xml"))
	// Not bound to ctx: the server ends in Stop, by its own signal.
	s.cmd = exec.CommandContext(context.WithoutCancel(ctx), s.binary[0], args...) // the binary is the test environment's
	s.cmd.Stdout, s.cmd.Stderr, s.cmd.Dir = output, output, s.dir
	if err := s.cmd.Start(); err != nil {
		return err
	}
	if err := s.guard(ctx); err != nil {
		return errors.Join(err, s.cmd.Process.Kill())
	}
	s.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan<- error) { exited <- cmd.Wait() }(s.cmd, s.exited)
	return s.awaitAnswer(ctx)
}

// guard starts a process that kills the server when this one is gone, however it ended: then its input ends. The
// kernel's parent-death signal won't do, because it follows a thread, and Go ends threads.
func (s *Server) guard(ctx context.Context) error {
	guard := exec.CommandContext(context.WithoutCancel(ctx), "/bin/sh", "-c", `read -r _; kill -KILL "$0" 2>/dev/null`, strconv.Itoa(s.cmd.Process.Pid)) // a number
	input, err := guard.StdinPipe()
	if err != nil {
		return err
	}
	if err := guard.Start(); err != nil {
		return err
	}
	s.dismiss = func() {
		_ = guard.Process.Kill()
		_ = input.Close()
		_ = guard.Wait()
	}
	return nil
}

// awaitAnswer polls until the server answers a query, at most a minute.
func (s *Server) awaitAnswer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := clickhouse.Open(&clickhouse.Options{Addr: []string{s.Addr}, DialTimeout: time.Second})
	if err != nil {
		return err
	}
	defer conn.Close() // nothing was written
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := conn.Ping(ctx)
		if err == nil {
			return nil
		}
		select {
		case exit := <-s.exited:
			s.exited <- exit
			return fmt.Errorf("server ended before its first answer: %w", errors.Join(exit, err))
		case <-ctx.Done():
			return fmt.Errorf("server does not answer: %w", err)
		case <-ticker.C:
		}
	}
}

// log returns the end of the server's output.
func (s *Server) log() string {
	text, err := os.ReadFile(s.path("log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}

// PID is the process id of the running server.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Stop ends the server with SIGTERM, after half a minute with SIGKILL. A stopped server may be started again.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	s.end(tb, syscall.SIGTERM)
}

// Kill ends the server at once, with SIGKILL: what it had not written is lost, as in a crash.
func (s *Server) Kill(tb testing.TB) {
	tb.Helper()
	s.end(tb, syscall.SIGKILL)
}

func (s *Server) end(tb testing.TB, signal os.Signal) {
	tb.Helper()
	if s.cmd == nil || s.cmd.Process == nil || s.exited == nil {
		return
	}
	if err := s.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		tb.Errorf("signal clickhouse-server: %v", err)
	}
	timer := time.NewTimer(30 * time.Second)
	defer timer.Stop()
	select {
	case <-s.exited:
	case <-timer.C:
		tb.Errorf("clickhouse-server ignored %v for 30 s; killed", signal)
		_ = s.cmd.Process.Kill()
		<-s.exited
	}
	s.exited = nil
	s.dismiss()
}

// Start starts a stopped or killed server again, on the same ports and data.
func (s *Server) Start(tb testing.TB) {
	tb.Helper()
	if err := s.start(tb.Context()); err != nil {
		tb.Fatalf("start clickhouse-server again: %v\n%s", err, s.log())
	}
}

// Restart stops and starts the server.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	s.Stop(tb)
	s.Start(tb)
}
