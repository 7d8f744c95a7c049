package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// lockedBuffer is a bytes.Buffer that a command may write while the test reads.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// runningSandbox is a meterd sandbox started by a test.
type runningSandbox struct {
	base   string
	stdout *lockedBuffer
	stderr *lockedBuffer
	stop   func() int
}

// startSandbox runs the command on a free port and waits until it says where it listens.
func startSandbox(t *testing.T, args ...string) runningSandbox {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := runningSandbox{stdout: &lockedBuffer{}, stderr: &lockedBuffer{}}
	exit := make(chan int, 1)
	go func() {
		exit <- run(ctx, append([]string{"sandbox", "--listen", "127.0.0.1:0"}, args...), strings.NewReader(""), s.stdout, s.stderr)
	}()
	var once sync.Once
	code := -1
	s.stop = func() int {
		once.Do(func() { cancel(); code = <-exit })
		return code
	}
	t.Cleanup(func() { s.stop() })
	page := regexp.MustCompile(`page\s+(https?://\S+)/`)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if m := page.FindStringSubmatch(s.stdout.String()); m != nil {
			s.base = m[1]
			return s
		}
		select {
		case code := <-exit:
			exit <- code
			t.Fatalf("the command ended with %d: %s", code, s.stderr)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("no address within 10 s: %s%s", s.stdout, s.stderr)
		}
	}
}

// pushOne sends one record for the hour before this one and returns the answer's code.
func (s runningSandbox) pushOne(t *testing.T, client *http.Client, key, sn string) string {
	t.Helper()
	const layout = "20060102T150405Z"
	end := time.Now().UTC().Truncate(time.Hour)
	body := fmt.Sprintf(`{"usage_records":[{"begin_time":%q,"end_time":%q,"instance_id":"i-1","metering_sn":%q,"record_time":%q,"usage_value":"1.5"}]}`,
		end.Add(-time.Hour).Format(layout), end.Format(layout), sn, end.Format(layout))
	ts := strconv.FormatInt(time.Now().UnixMilli(), 10)
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte("ts=" + ts + "&nonce=n-" + sn + "&body=" + body))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.base+"/api/mkp-openapi-public/global/v1/isv/usage-data", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("ts", ts)
	r.Header.Set("nonce", "n-"+sn)
	r.Header.Set("signature", base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var out struct {
		Code string `json:"error_code"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out.Code
}

// get reads a path.
func (s runningSandbox) get(t *testing.T, path string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.base+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestSandboxCommand(t *testing.T) {
	t.Parallel()
	state := filepath.Join(t.TempDir(), "state")
	s := startSandbox(t, "--state", state, "--validation-delay", "1h", "--key", "chosen-demo-key", "--fault", "kind=throttle,count=1", "--verbose")
	if got := s.pushOne(t, http.DefaultClient, "chosen-demo-key", "a"); got != "MKT.0250" {
		t.Errorf("first push = %s, want the fault", got)
	}
	if got := s.pushOne(t, http.DefaultClient, "chosen-demo-key", "b"); got != "MKT.0000" {
		t.Errorf("second push = %s, want success", got)
	}
	if got := s.pushOne(t, http.DefaultClient, "sandbox-demo-key", "c"); got != "MKT.0102" {
		t.Errorf("push with another key = %s, want MKT.0102", got)
	}
	if page := s.get(t, "/"); !strings.Contains(page, "<title>Marketplace sandbox</title>") {
		t.Errorf("page = %s", page)
	}
	if code := s.stop(); code != exitOK {
		t.Errorf("exit code = %d: %s", code, s.stderr)
	}
	if out := s.stdout.String() + s.stderr.String(); strings.Contains(out, "chosen-demo-key") {
		t.Errorf("the output shows the key:\n%s", out)
	}
	again := startSandbox(t, "--state", state, "--validation-delay", "1h")
	if !strings.Contains(again.stdout.String(), "sandbox-demo-key (default)") {
		t.Errorf("the output does not name the default key:\n%s", again.stdout)
	}
	if got := again.get(t, "/sandbox/v1/summary"); !strings.Contains(got, `"received":1`) {
		t.Errorf("summary after a restart = %s", got)
	}
}

func TestSandboxCommandTLS(t *testing.T) {
	t.Parallel()
	s := startSandbox(t, "--self-signed")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.base+"/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err == nil {
		_ = resp.Body.Close()
		t.Error("a client that verifies certificates accepts the self-signed one")
	}
	trusting := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // #nosec G402 -- the point of the test.
	}}
	if got := s.pushOne(t, trusting, "sandbox-demo-key", "a"); got != "MKT.0000" {
		t.Errorf("push over TLS = %s", got)
	}
}

func TestSandboxCommandMistakes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"argument":      {[]string{"now"}, exitUsage, "unknown command"},
		"unknown flag":  {[]string{"--color"}, exitUsage, "unknown flag"},
		"fault":         {[]string{"--fault", "kind=latency"}, exitUsage, "delay must be"},
		"form":          {[]string{"--signature-form", "both"}, exitUsage, "--signature-form"},
		"collection":    {[]string{"--collection", "weekly"}, exitUsage, "--collection"},
		"zone":          {[]string{"--zone", "Mars/Olympus"}, exitUsage, "--zone"},
		"tolerance":     {[]string{"--tolerance", "0s"}, exitUsage, "--tolerance"},
		"max records":   {[]string{"--max-records", "0"}, exitUsage, "--max-records"},
		"access key":    {[]string{"--access-key", "AK"}, exitUsage, "--secret-key"},
		"secret key":    {[]string{"--secret-key", "hidden-demo-secret"}, exitUsage, "--access-key"},
		"half TLS":      {[]string{"--tls-cert", "x"}, exitUsage, "together"},
		"TLS twice":     {[]string{"--tls-cert", "x", "--self-signed"}, exitUsage, "--self-signed"},
		"TLS file":      {[]string{"--tls-cert", "/nonexistent", "--tls-key", "/nonexistent"}, exitUsage, "certificate"},
		"address":       {[]string{"--listen", "127.0.0.1:99999"}, exitFailure, "listen"},
		"state file":    {[]string{"--state", t.TempDir()}, exitFailure, "state log"},
		"bad and worse": {[]string{"--tolerance", "0s", "--zone", "Mars/Olympus"}, exitUsage, "--zone"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out lockedBuffer
			code := run(t.Context(), append([]string{"sandbox"}, tc.args...), strings.NewReader(""), &out, &out)
			if code != tc.code || !strings.Contains(out.String(), tc.want) {
				t.Errorf("exit %d, output %q, want %d and %q", code, out.String(), tc.code, tc.want)
			}
			if strings.Contains(out.String(), "hidden-demo-secret") {
				t.Error("the output shows the secret")
			}
		})
	}
}
