package koogallery

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/meterd/meterd/reporter"
)

// Client pushes usage records to KooGallery. It is safe for concurrent use, but makes one call at a time: the
// marketplace's limits are per seller key (KooGallery usage push, section 1.7). Nothing it prints shows a key.
type Client struct {
	Rules

	endpoints []endpoint
	https     *http.Transport
	http      *http.Transport   // for plain http to loopback addresses; nil where that isn't permitted
	instead   http.RoundTripper // Options.Transport
	auth      authenticator
	encode    func([]reporter.UsageRecord) ([]byte, error)
	redact    func(string) string

	timeout time.Duration
	spacing time.Duration
	now     func() time.Time
	sleep   func(context.Context, time.Duration) error
	log     *slog.Logger

	turn     chan struct{} // holds one token: the right to make a call
	lastCall time.Time     // beginning of the last attempt; guarded by turn

	probes http.RoundTripper // makes a fresh connection for each request
	seen   seenClock
}

var _ reporter.Marketplace = (*Client)(nil)

// authenticator signs a request whose body is body, with at as its time.
type authenticator interface {
	apply(req *http.Request, body []byte, at time.Time) error
}

// New returns a client, or one error that lists every fault of the options. It makes no connection.
func New(o Options) (*Client, error) {
	s, err := o.validate()
	if err != nil {
		return nil, err
	}
	c := &Client{
		Rules:     Rules{API: s.API, MaxBatch: s.MaxBatch, Profile: s.Profile},
		endpoints: s.endpoints, https: newTransport(s), redact: redactor(s.SellerKey, s.SecretKey),
		timeout: s.Timeout, spacing: s.Spacing, now: s.Now, sleep: s.Sleep,
		log: s.Logger.With("component", "koogallery"), turn: make(chan struct{}, 1),
	}
	c.instead = s.Transport
	if s.AllowHTTP {
		c.http = newLoopbackTransport(s)
	}
	if s.API == APIOld {
		c.auth, c.encode = NewSDKSigner(s.AccessKey, s.SecretKey), encodeOld
	} else {
		c.auth, c.encode = newHMACAuth(s.SellerKey, s.Rand), encodeNew
	}
	c.probes = newProbeTransport(s)
	c.turn <- struct{}{}
	return c, nil
}

// Name returns "koogallery".
func (c *Client) Name() string { return "koogallery" }

// Close closes idle connections. Calls in flight are not disturbed.
func (c *Client) Close() {
	c.https.CloseIdleConnections()
	if c.http != nil {
		c.http.CloseIdleConnections()
	}
}

// Push sends one batch and says what became of it, as [reporter.Marketplace] demands. It calls a second time in three
// cases, in all of which nothing was taken before: the fallback address when the first could not be connected; the
// same address when a kept connection turned out dead before a byte of the request was written; and, after the answer
// "signature refused", once more with a fresh timestamp, taken from the marketplace's clock where ours is off
// (KooGallery usage push, section 1.5).
func (c *Client) Push(ctx context.Context, batch []reporter.UsageRecord) reporter.Result {
	if res, ok := c.refuse(batch); ok {
		return res
	}
	body, err := c.encode(batch)
	if err != nil {
		return reporter.Result{Class: reporter.ClassMisconfigured, Message: err.Error()}
	}
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	select {
	case <-c.turn:
		defer func() { c.turn <- struct{}{} }()
	case <-ctx.Done():
		return reporter.Result{Class: reporter.ClassUnavailable, Message: "not sent: " + causeOf(ctx), RequestHash: hash}
	}
	res, offset := c.call(ctx, batch, body, 0)
	if c.API == APINew && shortCode(res.Code) == codeBadSignature && ctx.Err() == nil {
		res = c.resign(ctx, batch, body, offset)
	}
	res.RequestHash = hash
	return res
}

// refuse finds batches that must not be sent. The reporter never makes one; a mistake there must not reach the bill.
func (c *Client) refuse(batch []reporter.UsageRecord) (reporter.Result, bool) {
	if len(batch) == 0 {
		return reporter.Result{Class: reporter.ClassMisconfigured, Message: "not sent: the batch is empty"}, true
	}
	if len(batch) > c.MaxBatch {
		msg := fmt.Sprintf("not sent: %d records, at most %d allowed", len(batch), c.MaxBatch)
		return reporter.Result{Class: reporter.ClassBatchTooLarge, Message: msg}, true
	}
	type window struct{ instance, begin, end string }
	sns := make(map[reporter.MeteringSN]bool, len(batch))
	windows := make(map[window]bool, len(batch))
	for _, r := range batch {
		if err := c.Check(r); err != nil {
			msg := clean("not sent: record " + string(r.SN) + ": " + strings.ReplaceAll(err.Error(), "\n", "; "))
			return reporter.Result{Class: reporter.ClassRecordBad, Message: msg}, true
		}
		w := window{r.InstanceID, wireTime(r.Window.Start), wireTime(r.Window.End)}
		if windows[w] || (r.SN != "" && sns[r.SN]) {
			msg := clean("not sent: two records with one number, or of one instance and window, in a batch; the" +
				" marketplace would drop the second: " + string(r.SN))
			return reporter.Result{Class: reporter.ClassMisconfigured, Message: msg}, true
		}
		windows[w], sns[r.SN] = true, true
	}
	return reporter.Result{}, false
}

// resign repeats a call whose signature was refused, because that is also how a clock that is off shows. The offset is
// how far the marketplace's clock is ahead of ours.
func (c *Client) resign(
	ctx context.Context, batch []reporter.UsageRecord, body []byte, offset clockOffset,
) reporter.Result {
	c.log.WarnContext(ctx, "signature refused, signing once more with a fresh timestamp", "clock_offset", offset.String())
	res, _ := c.call(ctx, batch, body, offset.correction())
	switch {
	case shortCode(res.Code) == codeBadSignature:
		res.Message = clean("signature refused twice: check that the seller key is the one bound to the basic interfaces" +
			" (" + offset.String() + "); " + res.Message)
	case res.Class == reporter.ClassAccepted && offset.correction() != 0:
		c.log.ErrorContext(ctx, "the clock is off, calls are signed with the marketplace's time", "clock_offset", offset.String())
		res.Message = clean("accepted after signing with the marketplace's time: " + offset.String() + "; " + res.Message)
	}
	return res
}

// call makes one call at the first address that can be connected.
func (c *Client) call(
	ctx context.Context, batch []reporter.UsageRecord, body []byte, shift time.Duration,
) (reporter.Result, clockOffset) {
	var notes []string
	for i, ep := range c.endpoints {
		out := c.attempt(ctx, ep, body, shift)
		if out.phase == phaseUnsent && out.reused && ctx.Err() == nil {
			// The kept connection was dead, as the proof says that nothing was written: the next one is fresh.
			c.Close()
			out = c.attempt(ctx, ep, body, shift)
		}
		if out.phase == phaseConnect && i+1 < len(c.endpoints) && ctx.Err() == nil {
			c.log.WarnContext(ctx, "endpoint can't be connected, using the fallback", "endpoint", ep.host, "err", out.err)
			notes = append(notes, ep.host+": "+out.err.Error())
			continue
		}
		res := c.result(ctx, ep, out, batch)
		if len(notes) > 0 && res.Class != reporter.ClassAccepted {
			res.Message = clean(res.Message + "; before that " + strings.Join(notes, "; "))
		}
		return res, out.offset
	}
	return reporter.Result{Class: reporter.ClassMisconfigured, Message: "no endpoint"}, clockOffset{}
}

// outcome is what became of one attempt.
type outcome struct {
	phase   phase // how far a failed attempt came; 0 if there is an answer
	reused  bool
	err     error // why the attempt failed; safe to show
	status  int
	body    []byte
	retry   time.Duration
	offset  clockOffset
	latency time.Duration
}

// attempt makes one HTTP exchange.
func (c *Client) attempt(ctx context.Context, ep endpoint, body []byte, shift time.Duration) outcome {
	if err := c.space(ctx); err != nil {
		return outcome{phase: phaseUnsent, err: err}
	}
	started := c.now()
	c.lastCall = started
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var s sending
	req, err := c.request(s.watch(ctx), ep, body, started.Add(shift))
	if err != nil {
		return outcome{phase: phaseUnsent, err: err}
	}
	resp, err := c.transport(req).RoundTrip(req)
	if err != nil {
		p, reused := s.failed()
		return outcome{phase: p, reused: reused, err: c.explain(ctx, err), latency: c.now().Sub(started)}
	}
	defer func() { _ = resp.Body.Close() }()
	out := outcome{status: resp.StatusCode}
	out.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	ended := c.now()
	out.latency = ended.Sub(started)
	out.offset = offsetFrom(resp.Header.Get("Date"), started, ended)
	c.seen.note(out.offset, ended)
	out.retry = retryAfter(resp.Header.Get("Retry-After"), out.offset, ended)
	switch {
	case err != nil:
		out.phase, out.err = phaseSent, fmt.Errorf("answer cut short: %w", c.explain(ctx, err))
	case len(out.body) > maxAnswer:
		out.phase, out.err = phaseSent, fmt.Errorf("answer longer than %d bytes", maxAnswer)
	}
	return out
}

// request builds and signs a request. GetBody is cleared so that nothing below can send the body again.
func (c *Client) request(ctx context.Context, ep endpoint, body []byte, at time.Time) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, ep.url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("build request: %w", err)
	}
	req.GetBody = nil
	req.Header.Set("Content-Type", "application/json")
	if err := c.auth.apply(req, body, at); err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "meterd")
	return req, nil
}

func (c *Client) transport(req *http.Request) http.RoundTripper {
	if c.instead != nil {
		return c.instead
	}
	if req.URL.Scheme == "http" && c.http != nil {
		return c.http
	}
	return c.https
}

// result turns an outcome into what the reporter is told.
func (c *Client) result(
	ctx context.Context, ep endpoint, out outcome, batch []reporter.UsageRecord,
) reporter.Result {
	res := reporter.Result{Endpoint: ep.host, Status: out.status, Latency: out.latency, RetryAfter: out.retry}
	if out.phase != 0 {
		res.Class = reporter.ClassUnavailable
		if out.phase == phaseSent {
			res.Class = reporter.ClassUnknown
		}
		res.Message = clean(c.redact(phaseText(out.phase) + ": " + out.err.Error()))
		return res
	}
	ans, err := parseAnswer(out.body)
	if err != nil {
		res.Class, res.Message = classifyUnreadable(out.status, out.body, len(batch)), err.Error()
	} else {
		res.Class = classify(out.status, ans.code, len(batch))
		res.Code, res.Message = clean(c.redact(ans.code)), clean(c.redact(ans.message))
	}
	c.annotate(&res, out)
	if res.Class == reporter.ClassAccepted {
		c.takeRefusals(ctx, &res, ans, batch)
	} else if n := len(ans.abnormal); n > 0 {
		res.Refused, _ = c.refusals(ans, batch) // for a person to read: these records were not taken in any case
		res.Message = clean(fmt.Sprintf("%s (lists %d abnormal records)", res.Message, n))
	}
	return res
}

// annotate adds what a person needs to act.
func (c *Client) annotate(res *reporter.Result, out outcome) {
	if res.Code == "" {
		res.Message = fmt.Sprintf("HTTP %d without a result code: %s", out.status, res.Message)
	} else if res.Class == reporter.ClassUnknown {
		res.Message = fmt.Sprintf("HTTP %d contradicts the result code: %s", out.status, res.Message)
	} else if res.Message == "" {
		res.Message = fmt.Sprintf("HTTP %d", out.status)
	}
	if res.Class == reporter.ClassMisconfigured {
		if out.status/100 == 3 {
			res.Message += "; redirects are not followed, check base_url"
		}
		if out.offset.large() && shortCode(res.Code) != codeBadSignature { // there, resign says it
			res.Message += "; " + out.offset.String()
		}
	}
	res.Message = clean(c.redact(res.Message))
}

// takeRefusals records which records of an accepted batch were refused one by one.
func (c *Client) takeRefusals(
	ctx context.Context, res *reporter.Result, ans answer, batch []reporter.UsageRecord,
) {
	refused, strays := c.refusals(ans, batch)
	res.Refused = refused
	if len(strays) > 0 {
		// Perhaps one of the batch was refused all the same: a person has to look it up in the marketplace's own books.
		first := c.redact(strays[0])
		c.log.ErrorContext(ctx, "the answer lists abnormal records that were not in the batch; look them up at the marketplace",
			"count", len(strays), "batch_size", len(batch), "first", first)
		res.Message = clean(fmt.Sprintf("%s (%d abnormal entries name no record of this batch, the first: %s)", res.Message, len(strays), first))
	}
}

// refusals gives the entries of the answer to the records of the batch.
func (c *Client) refusals(ans answer, batch []reporter.UsageRecord) (map[reporter.MeteringSN]reporter.Refusal, []string) {
	refused, strays := ans.refusals(batch)
	for sn, r := range refused {
		r.Code, r.Message, r.Raw = c.redact(r.Code), c.redact(r.Message), c.redact(r.Raw)
		refused[sn] = r
	}
	return refused, strays
}

// space waits until the next attempt may begin.
func (c *Client) space(ctx context.Context) error {
	if c.lastCall.IsZero() || c.spacing == 0 {
		return nil
	}
	// The clock may have been set back; never wait longer than one spacing.
	wait := min(c.spacing-c.now().Sub(c.lastCall), c.spacing)
	if wait <= 0 {
		return nil
	}
	if err := c.sleep(ctx, wait); err != nil {
		return fmt.Errorf("wait for the spacing between calls: %w", err)
	}
	return nil
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// explain says in words what ended an attempt by time, and keeps other errors.
func (c *Client) explain(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)
	}
	if ctx.Err() != nil {
		return errors.New(causeOf(ctx))
	}
	return err
}

func causeOf(ctx context.Context) string { return context.Cause(ctx).Error() }

func phaseText(p phase) string {
	switch p {
	case phaseConnect:
		return "not sent, no connection"
	case phaseUnsent:
		return "not sent"
	default:
		return "sent, no usable answer"
	}
}

// redactor replaces the keys, should a server echo one.
func redactor(keys ...Secret) func(string) string {
	var pairs []string
	for _, key := range keys {
		if key != "" {
			pairs = append(pairs, string(key), secretText)
		}
	}
	return strings.NewReplacer(pairs...).Replace
}

// String names the client; it never shows keys.
func (c *Client) String() string { return "koogallery client" }
