package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"time"
)

// expiryWarn is how long before its end a certificate is reported.
const expiryWarn = 14 * 24 * time.Hour

// checkMarketplace asks each address for its front page's headers, without credentials. No usage is ever sent.
func (d *doctor) checkMarketplace(ctx context.Context) []Finding {
	const name = "marketplace"
	if !d.cfg.Reporting.Enabled {
		return []Finding{ok(name, "not asked: reporting is off (reporting.enabled = false)")}
	}
	roots, err := rootsWith(d.cfg.KooGallery.CAFile, true)
	if err != nil {
		return []Finding{fail(name, "koogallery.ca_file: "+err.Error(), "name a PEM file of authorities, or remove the key")}
	}
	if len(d.Marketplace) == 0 {
		return []Finding{fail(name, "no address is known", "set koogallery.site or koogallery.base_url")}
	}
	found := make([][]Finding, len(d.Marketplace))
	var wg sync.WaitGroup
	for i, address := range d.Marketplace {
		wg.Go(func() {
			found[i] = d.visit(ctx, address, roots)
			for j, f := range found[i] {
				if i > 0 && f.Status == Fail {
					found[i][j].Status = Warn // the first address alone is enough
				}
				if i > 0 {
					found[i][j].Found = "fallback " + f.Found
				}
			}
		})
	}
	wg.Wait()
	var findings []Finding
	for _, f := range found {
		findings = append(findings, f...)
	}
	return findings
}

// visit makes one HEAD request to an address: name, connection, certificate and clock in one go.
func (d *doctor) visit(ctx context.Context, address string, roots *x509.CertPool) []Finding {
	const name = "marketplace"
	transport := &http.Transport{
		Proxy: d.Proxy, DisableKeepAlives: true, TLSHandshakeTimeout: d.Timeout / 2,
		DialContext:     (&net.Dialer{Timeout: d.Timeout / 2}).DialContext,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Time: d.Now},
	}
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	var resolved []net.IPAddr
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSDone: func(info httptrace.DNSDoneInfo) { resolved = info.Addrs },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, address+"/", http.NoBody)
	if err != nil {
		return []Finding{fail(name, address+": not a URL", "mend koogallery.base_url")}
	}
	req.Header.Set("User-Agent", "meterd-doctor")
	before := d.Now()
	resp, err := client.Do(req)
	after := d.Now()
	if err != nil {
		found, advice := explainVisit(err, d.via(req))
		return []Finding{fail(name, address+": "+found, advice)}
	}
	_ = resp.Body.Close() // a HEAD's body is empty
	findings := []Finding{reached(address, resp, len(resolved), d.via(req))}
	if resp.TLS != nil && len(resp.TLS.PeerCertificates) > 0 {
		findings = append(findings, expiryFinding(name, address+": its certificate", resp.TLS.PeerCertificates[0].NotAfter, d.Now()))
	}
	if theirs, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		findings = append(findings, offsetFinding(name, address, theirs, before, after))
	} else {
		findings = append(findings, warn(name, address+": the answer has no Date header to compare clocks with",
			"a proxy may have removed it; see the check of the clock"))
	}
	return findings
}

// via names the proxy of a request, "" for a direct connection.
func (d *doctor) via(req *http.Request) string {
	if d.Proxy == nil {
		return ""
	}
	proxy, err := d.Proxy(req)
	if err != nil || proxy == nil {
		return ""
	}
	return " through the proxy " + proxy.Host
}

func reached(address string, resp *http.Response, resolved int, via string) Finding {
	found := address + ": "
	if resolved > 0 {
		found += fmt.Sprintf("name resolves to %d addresses, ", resolved)
	}
	found += fmt.Sprintf("connected%s, answers %d", via, resp.StatusCode)
	if resp.TLS == nil {
		found += ", no TLS"
	}
	if resp.StatusCode >= http.StatusInternalServerError {
		return warn("marketplace", found, "the marketplace has trouble; pushes are repeated until they succeed")
	}
	return ok("marketplace", found)
}

// explainVisit says which of name, connection and certificate failed, and what to do about it.
func explainVisit(err error, via string) (found, advice string) {
	var dns *net.DNSError
	var invalid x509.CertificateInvalidError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var op *net.OpError
	const firewall = "let this machine make outgoing TCP connections to it, or set HTTPS_PROXY"
	switch {
	case errors.As(err, &dns):
		return fmt.Sprintf("DNS: %s: %s", dns.Name, dns.Err), "check the resolver (/etc/resolv.conf), or set HTTPS_PROXY where only a proxy gets out"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("TLS: the certificate is valid from %s to %s only", invalid.Cert.NotBefore.UTC().Format(time.RFC3339),
			invalid.Cert.NotAfter.UTC().Format(time.RFC3339)), "check this machine's clock first; else the other side must renew it"
	case errors.As(err, &authority):
		return "TLS: the certificate is of an authority unknown here", "install the system's CA certificates, or name the authority of a proxy or sandbox in koogallery.ca_file"
	case errors.As(err, &host):
		return "TLS: " + host.Error(), "somebody else answers at this address; check DNS, proxies and koogallery.base_url"
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time" + via, firewall
	case errors.As(err, &op) && op.Op == "dial":
		return fmt.Sprintf("TCP: %v%s", op.Err, via), firewall
	case strings.Contains(err.Error(), "tls:"), strings.Contains(err.Error(), "x509:"):
		found = "TLS: "
	}
	if request, isRequest := errors.AsType[*url.Error](err); isRequest {
		err = request.Err
	}
	return found + err.Error() + via, firewall
}

// expiryFinding looks at the end of a certificate.
func expiryFinding(check, what string, end, now time.Time) Finding {
	found := fmt.Sprintf("%s is valid until %s", what, end.UTC().Format(time.RFC3339))
	switch left := end.Sub(now); {
	case left <= 0:
		return fail(check, fmt.Sprintf("%s expired at %s", what, end.UTC().Format(time.RFC3339)), "renew it")
	case left < expiryWarn:
		return warn(check, fmt.Sprintf("%s, %d days from now", found, int(left.Hours()/24)), "see that it is renewed in time")
	}
	return ok(check, found)
}
