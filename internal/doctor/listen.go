package doctor

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// probeTimeout bounds the questions to a listener on this machine.
const probeTimeout = 5 * time.Second

// checkListeners looks whether the addresses are free, or held by a daemon of ours.
func (d *doctor) checkListeners(ctx context.Context) []Finding {
	s := d.cfg.Server
	scheme := "http"
	if s.TLSCertFile != "" {
		scheme = "https"
	}
	findings := make([]Finding, 1, 2)
	var wg sync.WaitGroup
	if t := d.cfg.Telemetry.Listen; t != "" {
		findings = findings[:2]
		wg.Go(func() { findings[1] = d.checkListener(ctx, "telemetry.listen", t, "http", isTelemetry) })
	}
	findings[0] = d.checkListener(ctx, "server.listen", s.Listen, scheme, isAPI)
	wg.Wait()
	return findings
}

// checkListener tries to listen and, if somebody else does, asks who.
func (d *doctor) checkListener(
	ctx context.Context, key, address, scheme string, ours func(context.Context, *http.Client, string) (found string, yes, good bool),
) Finding {
	const name = "listeners"
	if _, port, err := net.SplitHostPort(address); err == nil && port == "0" {
		return ok(name, fmt.Sprintf("%s: %s, a free port is chosen at start", key, address))
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err == nil {
		_ = listener.Close() // it was only to see whether the address is free
		return ok(name, fmt.Sprintf("%s: %s is free", key, address))
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
	case errors.Is(err, fs.ErrPermission):
		return fail(name, fmt.Sprintf("%s: %s: no permission", key, address), "ports below 1024 need the capability CAP_NET_BIND_SERVICE; or use a higher one")
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fail(name, fmt.Sprintf("%s: %s is no address of this machine", key, address), "use one that ip addr lists, or 0.0.0.0")
	default:
		return fail(name, fmt.Sprintf("%s: %v", key, err), "mend "+key)
	}
	ctx, cancel := context.WithTimeout(ctx, min(probeTimeout, d.Timeout))
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		// Nothing is sent that needs protection, and the certificate names the public host, not a loopback address.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}, //nolint:gosec // see above
	}}
	found, yes, good := ours(ctx, client, scheme+"://"+reachable(address))
	switch {
	case !yes:
		return fail(name, fmt.Sprintf("%s: %s is held by another program (%s)", key, address, found),
			"stop it or set "+key+"; ss -ltnp tells who it is")
	case !good:
		return warn(name, fmt.Sprintf("%s: %s is held by a running meterd, %s", key, address, found), "see its log and the other checks")
	}
	return ok(name, fmt.Sprintf("%s: %s is held by a running meterd%s", key, address, found))
}

// reachable is an address to connect to a listener: an unspecified host means every address of the machine.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip != nil && ip.To4() == nil {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, port)
}

// isAPI recognises the API by its description, which needs no key.
func isAPI(ctx context.Context, client *http.Client, base string) (found string, yes, good bool) {
	status, body, err := get(ctx, client, base+"/api/v1/openapi.yaml")
	switch {
	case err != nil && strings.Contains(err.Error(), "certificate required"):
		return " (it wants a client certificate, so it wasn't asked more)", true, true
	case err != nil:
		return err.Error(), false, false
	case status != http.StatusOK || !strings.Contains(body, "meterd"):
		return fmt.Sprintf("answers %d and no API description of meterd", status), false, false
	}
	return "", true, true
}

// isTelemetry recognises the health endpoint and repeats what it says.
func isTelemetry(ctx context.Context, client *http.Client, base string) (found string, yes, good bool) {
	status, body, err := get(ctx, client, base+"/healthz/ready")
	if err != nil {
		return err.Error(), false, false
	}
	var answer struct {
		Status string            `json:"status"`
		Checks map[string]string `json:"checks"`
	}
	if json.Unmarshal([]byte(body), &answer) != nil || answer.Status == "" || answer.Checks == nil {
		return fmt.Sprintf("answers %d and no health report of meterd", status), false, false
	}
	if status == http.StatusOK {
		return ", which is ready", true, true
	}
	var reasons []string
	for name, state := range answer.Checks {
		if state != "ok" {
			reasons = append(reasons, name+": "+state)
		}
	}
	slices.Sort(reasons)
	return "not ready: " + strings.Join(reasons, "; "), true, false
}

func get(ctx context.Context, client *http.Client, address string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		if request, isRequest := errors.AsType[*url.Error](err); isRequest {
			err = request.Err // without the address, which the finding names
		}
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, string(text), err
}

// Bounds of open files: connections, segments, parts that the engine reads.
const (
	filesFail = 256
	filesWarn = 4096
)

// checkLimits looks at what the system permits a process.
func (d *doctor) checkLimits(context.Context) []Finding {
	const name = "limits"
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return []Finding{warn(name, fmt.Sprintf("the limit of open files can't be read: %v", err), "see ulimit -n")}
	}
	return []Finding{filesFinding(limit.Max)} // a Go program raises its soft limit to the hard one
}

func filesFinding(limit uint64) Finding {
	found := fmt.Sprintf("%d open files permitted", limit)
	const advice = "raise it: LimitNOFILE=65536 in the unit, ulimit -Hn, or --ulimit nofile of the container"
	switch {
	case limit < filesFail:
		return fail("limits", found, advice)
	case limit < filesWarn:
		return warn("limits", found, advice)
	}
	return ok("limits", found)
}
