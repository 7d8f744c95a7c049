package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for something that must happen. It is generous: two cores may be shared with other tests.
const patience = 2 * time.Minute

// program is the path of the meterd under test.
var program string

func TestMain(m *testing.M) {
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		code = 1
	}
	os.Exit(code)
}

// buildDir is where programs are built.
var buildDir string

// runTests finds or builds the program, runs the tests and removes what it built.
func runTests(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "meterd-e2e-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	buildDir = dir
	if program, err = built("METERD_BINARY", "meterd"); err != nil {
		return 1, err
	}
	// Most of these tests wait for other processes nearly all the time.
	flag.Parse()
	if err := flag.Set("test.parallel", "4"); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// built returns the path of the program that an environment variable names, or else builds it.
func built(variable, name string, flags ...string) (string, error) {
	if path := os.Getenv(variable); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("%s: %w", variable, err)
		}
		return path, nil
	}
	path := filepath.Join(buildDir, name)
	args := append([]string{"build", "-o", path}, append(flags, "github.com/meterd/meterd/cmd/meterd")...)
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return path, nil
}

// require skips a test for want of something on the machine, or fails it where everything must be there.
func require(t *testing.T, ok bool, what string) {
	t.Helper()
	switch {
	case ok:
	case os.Getenv("METERD_REQUIRE_ENGINES") == "1":
		t.Fatalf("METERD_REQUIRE_ENGINES=1: %s", what)
	default:
		t.Skip(what)
	}
}

// seeded gives a test its random numbers and prints the seed.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("METERD_TEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("METERD_TEST_SEED: %v", err)
		}
	}
	t.Logf("METERD_TEST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// between is a random duration; it is the input of a test, never a wait for something.
func between(random *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(random.Int64N(int64(most-least)+1))
}

// poll asks until the condition holds. check returns nil when it does, else why it doesn't.
func poll(t *testing.T, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within %s: %v", what, patience, err)
		}
	}
}

// output keeps what a process writes.
type output struct {
	mu   sync.Mutex
	data bytes.Buffer
}

// maxOutput bounds what is kept of a process; the beginning is cut off.
const maxOutput = 256 << 10

// Write keeps p.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.data.Len() > maxOutput {
		o.data.Next(o.data.Len() / 2)
	}
	return o.data.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.data.String()
}

// process is a running program.
type process struct {
	name           string
	cmd            *exec.Cmd
	stdout, stderr *output
	exited         chan struct{} // closed when it has ended
}

// startProcess starts a program that ends with the test at the latest. Its output is printed if the test fails. env is
// all of its environment beside what programs need to run at all.
func startProcess(t *testing.T, name string, env []string, path string, args ...string) *process {
	t.Helper()
	p := &process{name: name, stdout: new(output), stderr: new(output), exited: make(chan struct{})}
	p.cmd = exec.Command(path, args...)
	p.cmd.Env = append(baseEnv(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	p.cmd.WaitDelay = 5 * time.Second
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // nothing outlives a test that was killed
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() { // ends with the process
		_ = p.cmd.Wait() // ProcessState says how it ended
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.kill(t)
		if t.Failed() || os.Getenv("METERD_TEST_OUTPUT") != "" { // set it to see what a passing test's processes say
			t.Logf("%s, process %d, %s, wrote:\n%s%s", name, p.cmd.Process.Pid, p.cmd.ProcessState, p.stdout, p.stderr)
		}
	})
	return p
}

// baseEnv is the environment every program gets. Nothing that configures meterd is inherited but where the engine is.
func baseEnv() []string {
	env := []string{"METERD_ENGINE_LIBRARY=" + os.Getenv("METERD_ENGINE_LIBRARY")}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GOCOVERDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// ended says how the process ended, nil while it runs.
func (p *process) ended() *os.ProcessState {
	select {
	case <-p.exited:
		return p.cmd.ProcessState
	default:
		return nil
	}
}

// signal sends a signal to this process alone.
func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("%v to %s: %v", s, p.name, err)
	}
}

// wait waits for the end and returns the exit code, -1 after a signal.
func (p *process) wait(t *testing.T, limit time.Duration) int {
	t.Helper()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-timer.C:
		t.Fatalf("%s did not end within %s", p.name, limit)
		return 0
	}
}

// kill ends the process with SIGKILL.
func (p *process) kill(t *testing.T) {
	t.Helper()
	if p.ended() == nil {
		p.signal(t, syscall.SIGKILL)
	}
	p.wait(t, patience)
}

// line waits for a line of standard output for which pick returns ok.
func line[T any](t *testing.T, p *process, what string, pick func(string) (T, bool)) T {
	t.Helper()
	var found T
	poll(t, p.name+": "+what, func() error {
		for text := range strings.Lines(p.stdout.String()) {
			value, ok := pick(strings.TrimSpace(text))
			if ok && strings.HasSuffix(text, "\n") {
				found = value
				return nil
			}
		}
		if state := p.ended(); state != nil {
			t.Fatalf("%s ended: %s", p.name, state)
		}
		return errors.New("no such line yet")
	})
	return found
}

// children lists the processes that a process started, by their pids and arguments.
func children(parent int) map[int]string {
	found := map[int]string{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return found
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "stat"))
		if err != nil {
			continue // ended meanwhile
		}
		// pid (name) state ppid …; the name may hold anything.
		_, rest, _ := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
		fields := bytes.Fields(rest)
		if len(fields) < 2 || string(fields[1]) != strconv.Itoa(parent) || string(fields[0]) == "Z" {
			continue
		}
		args, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		found[pid] = string(bytes.ReplaceAll(args, []byte{0}, []byte(" ")))
	}
	return found
}
