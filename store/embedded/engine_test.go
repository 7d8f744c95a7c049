package embedded_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/meterd/meterd/store/embedded"
)

func kill(tb testing.TB, pid int, sig syscall.Signal) {
	tb.Helper()
	if pid <= 1 {
		tb.Fatalf("no process to signal: %d", pid)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		tb.Fatalf("kill %d: %v", pid, err)
	}
}

// gone reports whether a process ended; a zombie counts as ended.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, after, _ := bytes.Cut(stat, []byte(") "))
	return bytes.HasPrefix(after, []byte("Z"))
}

func TestStart_persistsData(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("a-rather-long-directory-name/", 6), "data")
	for round := range 3 {
		t.Run(strconv.Itoa(round), func(t *testing.T) {
			engine := start(t, embedded.Options{DataDir: dir, NoFsync: round == 1})
			conn := open(t, engine, "")
			mustExec(t, conn, "CREATE DATABASE IF NOT EXISTS kept")
			mustExec(t, conn, "CREATE TABLE IF NOT EXISTS kept.t (id UInt32) ENGINE = MergeTree ORDER BY id")
			insertRows(t, conn, "INSERT INTO kept.t (id)", []any{uint32(round)})
			if got := queryOne[uint64](t, conn, "SELECT count() FROM kept.t"); got != uint64(round)+1 {
				t.Errorf("count = %d, want %d", got, round+1)
			}
			if mode := fileMode(t, engine.Socket()); mode != fs.ModeSocket|0o600 {
				t.Errorf("socket mode = %v, want 0600", mode)
			}
			if mode := fileMode(t, dir); mode.Perm() != 0o700 {
				t.Errorf("data directory mode = %v, want 0700", mode)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(dir, "engine.sock")); !os.IsNotExist(err) {
		t.Errorf("socket after Close: %v, want none", err)
	}
}

func fileMode(tb testing.TB, path string) fs.FileMode {
	tb.Helper()
	info, err := os.Stat(path)
	if err != nil {
		tb.Fatal(err)
	}
	return info.Mode()
}

// TestEngine_survivesKill kills the engine again and again under inserts: each confirmed batch must be there whole.
func TestEngine_survivesKill(t *testing.T) {
	t.Parallel()
	engine := start(t, embedded.Options{})
	conn := newDatabase(t, engine)
	mustExec(t, conn, "CREATE TABLE t (batch UInt32, i UInt32) ENGINE = MergeTree ORDER BY (batch, i)")
	const rows, kills = 100, 4
	confirmed := map[uint32]bool{}
	var stored atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := uint32(0); ctx.Err() == nil; n++ {
			batch, err := conn.PrepareBatch(ctx, "INSERT INTO t (batch, i)")
			for i := range uint32(rows) {
				if err == nil {
					err = batch.Append(n, i)
				}
			}
			if err == nil {
				err = batch.Send()
			}
			if confirmed[n] = err == nil; err == nil {
				stored.Add(1)
			}
		}
	})
	for n := range uint64(kills) {
		seen := stored.Load()
		eventually(t, 30*time.Second, "inserts go on", func() bool { return stored.Load() > seen+int64(n) })
		before := engine.PID()
		kill(t, before, syscall.SIGKILL)
		eventually(t, 30*time.Second, "engine restarted", func() bool {
			return engine.Restarts() > n && engine.PID() != before && engine.Ready(t.Context()) == nil
		})
	}
	cancel()
	wg.Wait()
	if err := engine.LastError(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("LastError = %v, want the signal", err)
	}
	counts := map[uint32]uint64{}
	result, err := conn.Query(t.Context(), "SELECT batch, count() FROM t GROUP BY batch")
	if err != nil {
		t.Fatalf("Query: %v", err)
	}
	for result.Next() {
		var batch uint32
		var n uint64
		if err := result.Scan(&batch, &n); err != nil {
			t.Fatalf("Scan: %v", err)
		}
		counts[batch] = n
	}
	if err := errors.Join(result.Err(), result.Close()); err != nil {
		t.Fatalf("Query: %v", err)
	}
	for batch, ok := range confirmed {
		if n := counts[batch]; ok && n != rows || n != 0 && n != rows {
			t.Errorf("batch %d confirmed %v has %d rows, want %d", batch, ok, n, rows)
		}
	}
	t.Logf("%d batches confirmed over %d kills", stored.Load(), kills)
}

// TestEngine_endsWithParent kills the parent with SIGKILL: the child must end by itself, in the middle of a query too.
func TestEngine_endsWithParent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "daemon", "--data-dir", dir, "--library", library(t))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("daemon did not start an engine: %v", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || gone(pid) {
		t.Fatalf("engine process %q: %v", line, err)
	}
	kill(t, cmd.Process.Pid, syscall.SIGKILL)
	_ = cmd.Wait()
	eventually(t, 30*time.Second, "engine ended after its parent", func() bool { return gone(pid) })
	// The directory is free for the next daemon.
	start(t, embedded.Options{DataDir: dir, NoFsync: true})
}

func TestStart_secondEngine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	engine := start(t, embedded.Options{DataDir: dir, NoFsync: true})
	_, err := embedded.Start(t.Context(), embedded.Options{
		DataDir: dir, Library: library(t), Args: []string{"engine", "--lock-timeout", "100ms"}, Socket: filepath.Join(dir, "other.sock"),
	})
	if err == nil || !strings.Contains(err.Error(), embedded.ErrLocked.Error()) || !strings.Contains(err.Error(), strconv.Itoa(engine.PID())) {
		t.Errorf("Start of a second engine = %v, want %q and the holder's process ID", err, embedded.ErrLocked)
	}
	if err := engine.Ready(t.Context()); err != nil {
		t.Errorf("first engine: %v", err)
	}
}

// TestStart_waitsForLock starts an engine while the former one is about to end.
func TestStart_waitsForLock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := start(t, embedded.Options{DataDir: dir, NoFsync: true})
	started := make(chan error, 1)
	var second *embedded.Engine
	go func() {
		var err error
		second, err = embedded.Start(context.Background(), embedded.Options{DataDir: dir, Library: first2(embedded.FindLibrary("")), Socket: filepath.Join(dir, "second.sock"), NoFsync: true})
		started <- err
	}()
	if err := first.Close(t.Context()); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := <-started; err != nil {
		t.Fatalf("Start while the first one ends: %v", err)
	}
	if err := second.Close(context.Background()); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func first2(s string, _ error) string { return s }

// TestClose_finishesRunning shows that SIGTERM lets a running statement finish.
func TestClose_finishesRunning(t *testing.T) {
	t.Parallel()
	engine := start(t, embedded.Options{NoFsync: true})
	conn := open(t, engine, "")
	answered := make(chan error, 1)
	go func() {
		answered <- conn.Exec(context.Background(), "SELECT sleepEachRow(0.2) FROM numbers(5) SETTINGS max_block_size = 1")
	}()
	probe := open(t, engine, "")
	eventually(t, 10*time.Second, "statement is running", func() bool {
		return queryOne[uint64](t, probe, "SELECT count() FROM system.processes WHERE query LIKE '%sleepEachRow%' AND query NOT LIKE '%processes%'") == 1
	})
	if err := engine.Close(t.Context()); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := <-answered; err != nil {
		t.Errorf("running statement = %v, want success", err)
	}
	if err := engine.Close(t.Context()); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if err := engine.Ready(t.Context()); !errors.Is(err, embedded.ErrClosed) {
		t.Errorf("Ready after Close = %v, want %v", err, embedded.ErrClosed)
	}
}

// TestClose_killsEndless shows that a statement without end delays the stop no longer than the drain time.
func TestClose_killsEndless(t *testing.T) {
	t.Parallel()
	engine := start(t, embedded.Options{NoFsync: true, Args: []string{"engine", "--drain-timeout", "200ms"}})
	conn := open(t, engine, "")
	answered := make(chan error, 1)
	go func() {
		answered <- conn.Exec(context.Background(), "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1")
	}()
	probe := open(t, engine, "")
	eventually(t, 10*time.Second, "statement is running", func() bool {
		return queryOne[uint64](t, probe, "SELECT count() FROM system.processes WHERE query LIKE '%sipHash64%' AND query NOT LIKE '%processes%'") == 1
	})
	if err := engine.Close(t.Context()); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := <-answered; err == nil {
		t.Error("endless statement succeeded")
	}
}

func TestClose_killsHung(t *testing.T) {
	t.Parallel()
	engine := start(t, embedded.Options{NoFsync: true})
	kill(t, engine.PID(), syscall.SIGSTOP) // stands for a process that no longer reacts
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := engine.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close = %v, want %v", err, context.DeadlineExceeded)
	}
	if pid := engine.PID(); pid != 0 {
		t.Errorf("process %d still runs", pid)
	}
}

// TestEngine_ownGroup shows that Ctrl-C in the daemon's terminal does not reach the engine.
func TestEngine_ownGroup(t *testing.T) {
	t.Parallel()
	engine := start(t, embedded.Options{NoFsync: true})
	group, err := syscall.Getpgid(engine.PID())
	if err != nil || group != engine.PID() {
		t.Errorf("process group = %d, %v, want the engine's own (%d)", group, err, engine.PID())
	}
}

func TestStart_errors(t *testing.T) {
	t.Parallel()
	notALibrary := filepath.Join(t.TempDir(), "libchdb.so")
	if err := os.WriteFile(notALibrary, []byte("no ELF"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		opts embedded.Options
		want string
	}{
		"no directory":      {embedded.Options{Library: notALibrary}, "no data directory"},
		"no library":        {embedded.Options{DataDir: t.TempDir(), Library: "/nonexistent/libchdb.so"}, "not found"},
		"not a library":     {embedded.Options{DataDir: t.TempDir(), Library: notALibrary}, "load engine library"},
		"no executable":     {embedded.Options{DataDir: t.TempDir(), Library: notALibrary, Executable: "/nonexistent/meterd"}, "no such file"},
		"child fails":       {embedded.Options{DataDir: t.TempDir(), Library: notALibrary, Args: []string{"engine", "--bad"}}, "-bad"},
		"directory is file": {embedded.Options{DataDir: notALibrary, Library: notALibrary}, "create data directory"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			engine, err := embedded.Start(t.Context(), tc.opts)
			if err == nil {
				_ = engine.Close(t.Context())
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Start = %v, want %q", err, tc.want)
			}
		})
	}
}

func TestStart_contextEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := embedded.Start(ctx, embedded.Options{DataDir: t.TempDir(), Library: library(t), NoFsync: true})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Start = %v, want %v", err, context.Canceled)
	}
}

// TestMemoryLimit shows that a statement beyond the limit fails and the engine lives on.
func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	engine := start(t, embedded.Options{NoFsync: true, MemoryLimit: 500 << 20})
	conn := open(t, engine, "")
	err := conn.Exec(t.Context(), "SELECT length(groupArray(repeat(toString(number), 100))) FROM numbers(30000000)")
	var ex *clickhouse.Exception
	if !errors.As(err, &ex) || ex.Code != 241 {
		t.Errorf("Exec = %v, want code 241", err)
	}
	if err := engine.Ready(t.Context()); err != nil || engine.Restarts() != 0 {
		t.Errorf("after it: %v, %d restarts", err, engine.Restarts())
	}
}
