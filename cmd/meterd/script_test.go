package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/meterd/meterd/store/embedded"
)

var update = flag.Bool("update", false, "rewrite the expected output in the scripts")

// TestMain makes the test binary the program itself: as "meterd" in the scripts, and as the engine that a daemon in a test
// starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "engine" {
		os.Exit(mainExitCode())
	}
	testscript.Main(m, map[string]func(){"meterd": main})
}

// TestScript runs the command line as its users do: real processes, exit codes, signals.
//
// Beside testscript's own commands there are:
//
//	code N ARGS…            run meterd ARGS and expect exit code N
//	start NAME ARGS…        run meterd ARGS in the background until it says where it listens: $NAME, $NAME_telemetry
//	ready NAME              wait until /healthz/ready of NAME answers 200
//	halt NAME SIGNAL N      send a signal, wait, expect exit code N; NAME.stdout and NAME.stderr are files afterwards
//	hour VAR N              set VAR to the beginning of the hour N hours ago
//	cmpjson FILE WANT       every member of the object in WANT is in the object in FILE, with that value
//
// [engine] is true when the embedded engine's library is there; METERD_REQUIRE_ENGINES=1 makes its absence a failure.
func TestScript(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", UpdateScripts: *update, RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			if library, err := embedded.FindLibrary(""); err == nil {
				env.Setenv(embedded.LibraryEnv, library)
			}
			env.Values[processesKey{}] = &processes{byName: map[string]*process{}}
			return nil
		},
		Condition: func(name string) (bool, error) {
			if name != "engine" {
				return false, fmt.Errorf("unknown condition %q", name)
			}
			_, err := embedded.FindLibrary("")
			if err != nil && os.Getenv("METERD_REQUIRE_ENGINES") == "1" {
				return false, fmt.Errorf("METERD_REQUIRE_ENGINES=1: %w", err)
			}
			return err == nil, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": scriptCode, "start": scriptStart, "ready": scriptReady, "halt": scriptHalt, "hour": scriptHour,
			"cmpjson": scriptCompareJSON,
		},
	})
}

// TestHelpIsSpecified makes sure that the help of every command is in the script of the helps.
func TestHelpIsSpecified(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile(filepath.Join("testdata", "script", "help.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		line := "exec " + cmd.CommandPath() + " --help\n"
		if !strings.Contains(string(script), line) {
			t.Errorf("help.txtar lacks %q", line)
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRootCommand())
}

type processesKey struct{}

// processes are those that a script started.
type processes struct{ byName map[string]*process }

type process struct {
	cmd            *exec.Cmd
	stdout, stderr *lockedBuffer
	exited         chan error
}

func scriptProcess(ts *testscript.TestScript, name string) *process {
	all, isProcesses := ts.Value(processesKey{}).(*processes)
	if !isProcesses || all.byName[name] == nil {
		ts.Fatalf("no process %q was started", name)
		return nil
	}
	return all.byName[name]
}

func scriptCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: code N ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec("meterd", args[1:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("meterd %s: exit code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// sandboxPage is where meterd sandbox says that it listens.
var sandboxPage = regexp.MustCompile(`page\s+(https?://\S+)/`)

func scriptStart(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start NAME ARGS…")
	}
	path, err := exec.LookPath("meterd")
	ts.Check(err)
	p := &process{stdout: &lockedBuffer{}, stderr: &lockedBuffer{}, exited: make(chan error, 1)}
	p.cmd = exec.Command(path, args[1:]...)
	p.cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "TMPDIR", embedded.LibraryEnv, "METERD_KOOGALLERY_BASE_URL", "METERD_SERVER_LISTEN"} {
		if value := ts.Getenv(name); value != "" {
			p.cmd.Env = append(p.cmd.Env, name+"="+value)
		}
	}
	announced := make(chan [2]string, 1)
	reader, writer := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = io.MultiWriter(p.stdout, writer), p.stderr
	go awaitAddress(reader, announced) // ends with the process
	ts.Check(p.cmd.Start())
	go func() {
		err := p.cmd.Wait()
		_ = writer.Close()
		p.exited <- err
	}()
	all, _ := ts.Value(processesKey{}).(*processes)
	all.byName[args[0]] = p
	ts.Defer(p.kill)
	select {
	case addresses := <-announced:
		ts.Setenv(args[0], addresses[0])
		ts.Setenv(args[0]+"_telemetry", addresses[1])
	case err := <-p.exited:
		p.exited <- err
		ts.Fatalf("meterd %s ended: %v\n%s", strings.Join(args[1:], " "), err, p.stderr)
	case <-time.After(scriptPatience):
		ts.Fatalf("meterd %s doesn't say where it listens:\n%s", strings.Join(args[1:], " "), p.stderr)
	}
}

// scriptPatience bounds every wait: a cold engine on a busy machine takes its time.
const scriptPatience = 90 * time.Second

// awaitAddress reads output until a daemon or a sandbox says where it listens, and then to its end.
func awaitAddress(r io.Reader, announced chan<- [2]string) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var daemon struct{ API, Telemetry, Version string }
		if m := sandboxPage.FindSubmatch(lines.Bytes()); m != nil {
			announced <- [2]string{string(m[1]), ""}
			break
		}
		if json.Unmarshal(lines.Bytes(), &daemon) == nil && daemon.API != "" && daemon.Version != "" {
			announced <- [2]string{daemon.API, daemon.Telemetry}
			break
		}
	}
	_, _ = io.Copy(io.Discard, r)
}

// kill ends a process that a script left running.
func (p *process) kill() {
	select {
	case <-p.exited:
	default:
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

func scriptReady(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ready NAME")
	}
	p := scriptProcess(ts, args[0])
	client := &http.Client{Timeout: 5 * time.Second}
	address := ts.Getenv(args[0]+"_telemetry") + "/healthz/ready"
	var last string
	for deadline := time.Now().Add(scriptPatience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		resp, err := client.Get(address)
		if err != nil {
			last = err.Error()
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return
		}
		last = string(body)
	}
	ts.Fatalf("%s isn't ready: %s\n%s", args[0], last, p.stderr)
}

func scriptHalt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: halt NAME SIGNAL N")
	}
	signal, known := map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "SIGINT": syscall.SIGINT}[args[1]]
	if !known {
		ts.Fatalf("unknown signal %q", args[1])
	}
	p := scriptProcess(ts, args[0])
	ts.Check(p.cmd.Process.Signal(signal))
	select {
	case err := <-p.exited:
		p.exited <- err
	case <-time.After(scriptPatience):
		ts.Fatalf("%s doesn't stop:\n%s", args[0], p.stderr)
	}
	if got := strconv.Itoa(p.cmd.ProcessState.ExitCode()); got != args[2] {
		ts.Fatalf("%s: exit code %s, want %s\n%s", args[0], got, args[2], p.stderr)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".stdout"), []byte(p.stdout.String()), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".stderr"), []byte(p.stderr.String()), 0o600))
}

func scriptHour(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: hour VAR N")
	}
	ago, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Setenv(args[0], time.Now().UTC().Truncate(time.Hour).Add(-time.Duration(ago)*time.Hour).Format(time.RFC3339))
}

// scriptCompareJSON compares the members that the second file names.
func scriptCompareJSON(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: cmpjson FILE WANT")
	}
	var got, want map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &got))
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &want))
	for name := range got {
		if _, named := want[name]; !named {
			delete(got, name)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		ts.Fatalf("%s differs from %s (-want +got):\n%s", args[0], args[1], diff)
	}
}
