package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// child is a process started by this program.
type child struct {
	name   string
	cmd    *exec.Cmd
	lines  chan string   // its standard output
	errors *tailBuffer   // the end of its standard error
	exited chan struct{} // closed when it has ended
	err    error         // of Wait; valid once exited is closed
}

// startChild starts a program. It ends with stop, or when this program ends, however that happens.
func startChild(name, path string, env []string, args ...string) (*child, error) {
	c := &child{
		name: name, lines: make(chan string, 64), errors: new(tailBuffer), exited: make(chan struct{}),
		// stop ends it; a context would kill it without letting it finish.
		cmd: exec.Command(path, args...), //nolint:gosec,noctx // the program to measure
	}
	c.cmd.Env = append(os.Environ(), env...)
	c.cmd.Stderr = c.errors
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	started := make(chan error, 1)
	go func() {
		// The signal at a parent's death follows the thread that started the child, so this one lives as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		c.readLines(stdout)
		c.err = c.cmd.Wait()
		close(c.exited)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return c, nil
}

// readLines hands on what fits the channel; nobody reads more than the first lines.
func (c *child) readLines(r io.Reader) {
	scanner := bufio.NewScanner(r)
	for scanner.Scan() {
		select {
		case c.lines <- scanner.Text():
		default:
		}
	}
	_, _ = io.Copy(io.Discard, r) // behind an overlong line
}

// startPatience is how long a child may take until it says where it listens.
const startPatience = 30 * time.Second

// await returns the first line that find accepts.
func (c *child) await(ctx context.Context, find func(line string) (string, bool)) (string, error) {
	timer := time.NewTimer(startPatience)
	defer timer.Stop()
	for {
		select {
		case line := <-c.lines:
			if found, ok := find(line); ok {
				return found, nil
			}
		case <-c.exited:
			return "", c.failure()
		case <-timer.C:
			return "", fmt.Errorf("%s does not say where it listens\n%s", c.name, c.errors)
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// failure describes an unexpected end.
func (c *child) failure() error {
	return fmt.Errorf("%s ended: %w\n%s", c.name, errors.Join(errors.New("unexpectedly"), c.err), c.errors)
}

// stop ends the child: SIGTERM, then SIGKILL when patience is over. A child that was ended by SIGTERM has stopped well.
func (c *child) stop(patience time.Duration) error {
	select {
	case <-c.exited:
		return c.failure()
	default:
	}
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended this moment
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.exited:
	case <-timer.C:
		_ = c.cmd.Process.Kill()
		<-c.exited
		return fmt.Errorf("%s did not stop within %s and was killed\n%s", c.name, patience, c.errors)
	}
	if status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGTERM {
		return nil
	}
	if c.err != nil {
		return c.failure()
	}
	return nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	mu   sync.Mutex
	data []byte
}

const tailBytes = 8 << 10

// Write never fails.
func (t *tailBuffer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if extra := len(t.data) - tailBytes; extra > 0 {
		t.data = append(t.data[:0], t.data[extra:]...)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.data)
}

// buildMeterd builds the program from the module in the working directory or above it.
func buildMeterd(ctx context.Context, path string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, "github.com/meterd/meterd/cmd/meterd") //nolint:gosec // a path of ours
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build meterd: %w\n%s", err, out)
	}
	return nil
}

// memory is what /proc says of a process, in bytes.
type memory struct{ resident, peak int64 }

func processMemory(pid int) (memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, fmt.Errorf("read memory of process %d: %w", pid, err)
	}
	var m memory
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch name {
		case "VmRSS":
			m.resident = kib << 10
		case "VmHWM":
			m.peak = kib << 10
		}
	}
	if m.resident == 0 || m.peak == 0 {
		return m, fmt.Errorf("read memory of process %d: no VmRSS and VmHWM", pid)
	}
	return m, nil
}

// resetPeak makes the kernel measure the peak anew.
func resetPeak(pid int) error {
	err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
	if err != nil {
		return fmt.Errorf("reset peak memory of process %d: %w", pid, err)
	}
	return nil
}

// clockTick is the unit of processor times in /proc, the same on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// processCPU is the processor time of a process so far.
func processCPU(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read processor time of process %d: %w", pid, err)
	}
	// The name in parentheses may hold anything; user and system time are the 12th and 13th field behind it.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("read processor time of process %d: %q", pid, text)
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return 0, fmt.Errorf("read processor time of process %d: %w", pid, err)
	}
	return time.Duration(user+system) * clockTick, nil
}

// childOf finds the process that pid started; 0 when there is none.
func childOf(pid int) (int, error) {
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return 0, err
	}
	for _, list := range lists {
		text, err := os.ReadFile(filepath.Clean(list))
		if err != nil {
			continue // the thread has ended
		}
		if fields := strings.Fields(string(text)); len(fields) > 0 {
			n, err := strconv.Atoi(fields[0])
			if err != nil {
				return 0, fmt.Errorf("read children of process %d: %w", pid, err)
			}
			return n, nil
		}
	}
	return 0, nil
}
