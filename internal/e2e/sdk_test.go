package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Keys of the API in these tests.
const (
	ingestKey = "e2e-test-key-of-the-backend"
	queryKey  = "e2e-test-key-of-the-reports"
)

const keysConfig = `
[[server.keys]]
name = "backend"
key_env = "METERD_KEY_BACKEND"
scopes = ["ingest"]

[[server.keys]]
name = "reports"
key_env = "METERD_KEY_REPORTS"
scopes = ["query"]
`

// startDaemonWithKeys starts a daemon that asks for API keys.
func startDaemonWithKeys(t *testing.T) *daemon {
	t.Helper()
	d := newDaemon(t, "", "METERD_KEY_BACKEND="+ingestKey, "METERD_KEY_REPORTS="+queryKey)
	d.write(t, fmt.Sprintf(daemonConfig, "http://127.0.0.1:9")+keysConfig)
	d.key = queryKey
	d.start(t)
	return d
}

// tool runs a program of the machine with its own environment and returns what it printed.
func tool(t *testing.T, dir string, env []string, name string, args ...string) (stdout []byte, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // it may have to download
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err = cmd.Run(); err != nil {
		err = fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, &out, &errs)
	}
	return out.Bytes(), err
}

// installed copies a directory of testdata and runs what installs its packages there.
func installed(t *testing.T, name string, command ...string) (dir string) {
	t.Helper()
	if _, err := exec.LookPath(command[0]); err != nil {
		require(t, false, command[0]+" is needed: "+err.Error())
	}
	dir = filepath.Join(t.TempDir(), name)
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", name))); err != nil {
		t.Fatal(err)
	}
	if _, err := tool(t, dir, nil, command[0], command[1:]...); err != nil {
		require(t, false, "packages can't be installed: "+err.Error())
	}
	return dir
}

// checkSent compares what a script says it sent with what meterd counted.
func checkSent(t *testing.T, d *daemon, stdout []byte) {
	t.Helper()
	var sent map[string]struct{ Events, Units int64 }
	if err := json.Unmarshal(stdout, &sent); err != nil || len(sent) == 0 {
		t.Fatalf("the script printed %q: %v", stdout, err)
	}
	want := map[cell]usage{}
	for subject, s := range sent {
		want[cell{subject: subject}] = account{s.Events, s.Units}.usage()
	}
	d.awaitStored(t)
	got, err := d.readUsage(t.Context(), url.Values{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("usage (-sent +counted):\n%s", diff)
	}
}

// TestJavaScriptSDKs sends events with the SDKs of OpenMeter and CloudEvents, unmodified, and asks with OpenMeter's.
func TestJavaScriptSDKs(t *testing.T) {
	t.Parallel()
	dir := installed(t, "sdk", "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--omit=peer")
	d := startDaemonWithKeys(t)
	stdout, err := tool(t, dir, []string{"METERD_URL=" + d.url(), "METERD_KEY=" + ingestKey}, "node", "send.mjs")
	if err != nil {
		t.Fatal(err)
	}
	checkSent(t, d, stdout)

	stdout, err = tool(t, dir, []string{"METERD_URL=" + d.url(), "METERD_KEY=" + queryKey}, "node", "query.mjs")
	if err != nil {
		t.Fatal(err)
	}
	type rows struct {
		Data []struct {
			Value   string
			Subject string
			GroupBy map[string]string
		}
	}
	var answer struct {
		All, One rows
		Meter    struct{ Slug, Aggregation string }
		Meters   []struct{ Slug string }
		Dates    bool
	}
	if err := json.Unmarshal(stdout, &answer); err != nil {
		t.Fatalf("%v in %s", err, stdout)
	}
	want, err := d.readUsage(t.Context(), url.Values{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, row := range answer.All.Data {
		got[row.Subject] = row.Value
		if row.GroupBy["model"] != "gö" {
			t.Errorf("group %v, want model gö", row.GroupBy)
		}
	}
	for c, u := range want {
		if got[c.subject] != u.Tokens {
			t.Errorf("the SDK's query of %s gives %q, want %q", c.subject, got[c.subject], u.Tokens)
		}
	}
	if len(answer.One.Data) != 2 || !answer.Dates || answer.Meter.Slug != "tokens" || answer.Meter.Aggregation != "SUM" || len(answer.Meters) != 2 {
		t.Errorf("the SDK's answers are not complete: %s", stdout)
	}
}

// TestGoSDK sends events with the CloudEvents SDK for Go, unmodified. It is a module of its own.
func TestGoSDK(t *testing.T) {
	t.Parallel()
	dir := installed(t, "cloudevents-go", "go", "build", "-o", "sender", ".")
	d := startDaemonWithKeys(t)
	stdout, err := tool(t, dir, []string{"METERD_URL=" + d.url(), "METERD_KEY=" + ingestKey}, filepath.Join(dir, "sender"))
	if err != nil {
		t.Fatal(err)
	}
	checkSent(t, d, stdout)
}
