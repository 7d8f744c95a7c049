package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// child is one run of the engine process.
type child struct {
	cmd      *exec.Cmd
	lifeline io.Closer // the write end of its stdin: closed with this process, whatever ends it
	output   *tail
	exited   chan struct{}
	err      error // of Wait; read after exited
}

// inheritedEnv names the variables a child gets. It needs no others, and the daemon's may hold secrets.
var inheritedEnv = []string{"PATH", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "GOCOVERDIR", "GORACE", "GOTRACEBACK", "METERD_KILL_AT"}

// startChild starts the process. The end of its stdin tells it that the parent is gone, even after kill -9; the
// kernel's parent-death signal would not do, since it follows the thread that started the child and Go ends threads.
func startChild(opts Options, logger *slog.Logger) (*child, error) {
	cmd := exec.Command(opts.Executable, opts.arguments()...) //nolint:gosec,noctx // our own binary; terminate ends it
	cmd.Env = []string{"TZ=UTC", "HOME=" + opts.DataDir}
	for _, name := range inheritedEnv {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Dir = opts.DataDir
	// A group of its own: Ctrl-C in the daemon's terminal must not end the engine before the daemon has flushed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	output := &tail{logger: logger}
	cmd.Stdout, cmd.Stderr = output, output
	cmd.WaitDelay = time.Second
	lifeline, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start embedded engine: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start embedded engine: %w", err)
	}
	c := &child{cmd: cmd, lifeline: lifeline, output: output, exited: make(chan struct{})}
	go func() { // ends with the child
		c.err = cmd.Wait()
		close(c.exited)
	}()
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

func (c *child) ended() bool {
	select {
	case <-c.exited:
		return true
	default:
		return false
	}
}

// failure says how the child ended, with its last lines. It waits for the end.
func (c *child) failure() error {
	<-c.exited
	err := c.err
	if err == nil {
		err = errors.New("exit status 0")
	}
	if text := c.output.String(); text != "" {
		return fmt.Errorf("engine process %d: %w; its last lines:\n%s", c.pid(), err, text)
	}
	return fmt.Errorf("engine process %d: %w", c.pid(), err)
}

// endedBy reports whether a signal ended the child: one that was only just starting does not catch any yet.
func (c *child) endedBy(signal syscall.Signal) bool {
	status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == signal
}

func (c *child) kill() { _ = c.cmd.Process.Kill() }

// stop ends a child that is of no use, within a time limit and whatever became of ctx. How it ends does not matter.
func (c *child) stop(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	_ = c.terminate(ctx)
}

// terminate asks the child to end, and kills it when ctx ends first.
func (c *child) terminate(ctx context.Context) error {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	_ = c.lifeline.Close()
	select {
	case <-c.exited:
		if c.err != nil && !c.endedBy(syscall.SIGTERM) {
			return fmt.Errorf("stop embedded engine: %w", c.failure())
		}
		return nil
	case <-ctx.Done():
		c.kill()
		<-c.exited
		return fmt.Errorf("stop embedded engine: killed: %w", ctx.Err())
	}
}
