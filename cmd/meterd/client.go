package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/meterd/meterd/internal/sender"
	"github.com/meterd/meterd/meter"
)

const (
	// maxAnswerBytes bounds an answer that is read as a whole: the largest page of records and then some.
	maxAnswerBytes = 64 << 20
	// maxProblem bounds an error that is read, maxProblemItems how many of its items are shown.
	maxProblem      = 1 << 20
	maxProblemItems = 10
)

// apiClient asks a running daemon. It is safe for concurrent use.
type apiClient struct {
	base    *url.URL
	key     sender.Secret
	timeout time.Duration // of one request, its answer included
	http    *http.Client
}

// getJSON reads an answer as JSON into a value.
func (c *apiClient) getJSON(ctx context.Context, path string, query url.Values, into any) error {
	return c.do(ctx, http.MethodGet, path, query, "application/json", nil, readJSONAnswer(path, into))
}

// postJSON sends a value as JSON and reads the answer into another one.
func (c *apiClient) postJSON(ctx context.Context, path string, body, into any) error {
	return c.postQuery(ctx, path, nil, body, into)
}

// postQuery is postJSON with parameters in the URL.
func (c *apiClient) postQuery(ctx context.Context, path string, query url.Values, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	return c.do(ctx, http.MethodPost, path, query, "application/json", text, readJSONAnswer(path, into))
}

// reading takes a successful answer.
type reading func(header http.Header, body io.Reader) error

func readJSONAnswer(path string, into any) reading {
	return func(_ http.Header, body io.Reader) error {
		text, err := readAnswer(body)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(text, into); err != nil {
			return fmt.Errorf("the answer to %s can't be read, is that a meterd daemon? %w", path, err)
		}
		return nil
	}
}

// readAnswer reads a whole answer, and refuses one that is larger than any that was asked for.
func readAnswer(body io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(body, maxAnswerBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	if len(text) > maxAnswerBytes {
		return nil, fmt.Errorf("the answer is larger than %d MiB; ask for less, as by a smaller --limit", maxAnswerBytes>>20)
	}
	return text, nil
}

// do makes one request and gives a successful answer to read. Any other answer is a [*problemError].
func (c *apiClient) do(
	ctx context.Context, method, path string, query url.Values, accept string, body []byte, read reading,
) error {
	return c.exchange(ctx, method, path, query, accept, body, func(resp *http.Response) error { return read(resp.Header, resp.Body) })
}

// exchange is do with the whole answer, for the trailer behind its body.
func (c *apiClient) exchange(
	ctx context.Context, method, path string, query url.Values, accept string, body []byte, read func(*http.Response) error,
) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	u := c.base.JoinPath(path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("build request: %w", err)
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("User-Agent", "meterd/"+buildVersion())
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+string(c.key))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.explain(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return newProblemError(resp)
	}
	if err := read(resp); err != nil {
		return c.explain(err)
	}
	return nil
}

// explain turns an error of the network into what a person can act on.
func (c *apiClient) explain(err error) error {
	at := "the daemon at " + c.base.String()
	var tlsRecord tls.RecordHeaderError
	var verify *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var op *net.OpError
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted")
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s gave no answer within %s; --timeout allows more", at, c.timeout)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s can't be reached: connection refused; is meterd serve running there? --server names another address", at)
	case errors.As(err, &unknown):
		return fmt.Errorf("%s: its certificate is of an authority unknown here; --ca-file names a trusted one: %w", at, unknown)
	case errors.As(err, &verify):
		return fmt.Errorf("%s: its certificate is not accepted: %w", at, verify.Err)
	case strings.Contains(err.Error(), "tls: certificate required"), strings.Contains(err.Error(), "tls: bad certificate"):
		return fmt.Errorf("%s wants a client certificate that it trusts; give it by --cert-file and --cert-key-file", at)
	case errors.As(err, &tlsRecord), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%s doesn't speak https; use http:// in --server", at)
	case strings.Contains(err.Error(), "malformed HTTP response"):
		return fmt.Errorf("%s doesn't answer in http; use https:// in --server", at)
	case errors.As(err, &op) && op.Op == "dial":
		return fmt.Errorf("%s can't be reached: %w", at, op.Err)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("%s broke off its answer; its log has the reason: %w", at, err)
	}
	if request, isRequest := errors.AsType[*url.Error](err); isRequest {
		err = request.Err
	}
	return fmt.Errorf("%s: %w", at, err)
}

// problemError is an answer that isn't a success, in the form of RFC 9457 if the daemon gave it.
type problemError struct {
	Status        int
	Title, Detail string
	RequestID     string
	Items         []string // what is wrong with each part of the request, at most maxProblemItems
	Total         int      // how many parts are wrong
	RetryAfter    string
	// Effect is the effect as it is now, where a commit came too late; nil otherwise.
	Effect *meter.Effect
}

// newProblemError reads the answer. One that isn't the daemon's, such as a proxy's page, leaves only the status.
func newProblemError(resp *http.Response) *problemError {
	e := &problemError{Status: resp.StatusCode, RetryAfter: printable(resp.Header.Get("Retry-After"))}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	var p struct {
		Title       string `json:"title"`
		Detail      string `json:"detail"`
		RequestID   string `json:"request_id"`
		TotalErrors int    `json:"total_errors"`
		// Effect goes with the status 409.
		Effect *meter.Effect `json:"effect"`
		Errors []struct {
			Index  *int   `json:"index"`
			Field  string `json:"field"`
			Reason string `json:"reason"`
			Detail string `json:"detail"`
		} `json:"errors"`
	}
	if err != nil || json.Unmarshal(text, &p) != nil {
		e.Detail = "the answer doesn't come from a meterd daemon, or a proxy replaced it"
		return e
	}
	e.Title, e.Detail, e.RequestID = printable(p.Title), printable(p.Detail), printable(p.RequestID)
	e.Effect = p.Effect
	e.Total = max(p.TotalErrors, len(p.Errors))
	for _, item := range p.Errors[:min(len(p.Errors), maxProblemItems)] {
		line := ""
		if item.Index != nil {
			line = strconv.Itoa(*item.Index) + ": "
		}
		if item.Field != "" {
			line += item.Field + ": "
		}
		e.Items = append(e.Items, printable(line+item.Detail+" ("+item.Reason+")"))
	}
	return e
}

// Error is the problem on a line, what is wrong with each item on lines of their own, and what to do about it.
func (e *problemError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the daemon answered %d %s", e.Status, http.StatusText(e.Status))
	for _, text := range []string{e.Title, e.Detail, e.advice()} {
		if text != "" {
			b.WriteString(": " + text)
		}
	}
	if e.RequestID != "" {
		fmt.Fprintf(&b, " (request %s)", e.RequestID)
	}
	for _, item := range e.Items {
		b.WriteString("\n  " + item)
	}
	if more := e.Total - len(e.Items); more > 0 && len(e.Items) > 0 {
		fmt.Fprintf(&b, "\n  … and %d more", more)
	}
	return b.String()
}

func (e *problemError) advice() string {
	switch {
	case e.Status == http.StatusUnauthorized:
		return "give the key by --key-file or " + envClientKey
	case e.RetryAfter != "":
		return "try again in " + e.RetryAfter + " s"
	case e.Status/100 == 3:
		return "redirects are not followed, because the key would go along; use the final address in --server"
	}
	return ""
}
