package doctor

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/meterd/meterd/internal/config"
)

// goodKeyLength is a key of 128 bits in hexadecimal; shorter ones are taken from 16 characters on.
const goodKeyLength = 32

// checkKeys looks at the API keys and at the files of all secrets. Their values stay out of the findings.
func (d *doctor) checkKeys(context.Context) []Finding {
	const name = "keys"
	findings := d.apiKeys(name)
	k := d.cfg.KooGallery
	switch {
	case !d.cfg.Reporting.Enabled:
		findings = append(findings, ok(name, "seller key: not needed, reporting is off"))
	case k.API == "old" && (k.AccessKey == "" || k.SecretKey.IsZero()):
		findings = append(findings, fail(name, "the access key or its secret is missing", "set koogallery.access_key and secret_key_file"))
	case k.API != "old" && k.SellerKey.IsZero():
		findings = append(findings, fail(name, "the seller key is missing", "set koogallery.seller_key_file or METERD_KOOGALLERY_SELLER_KEY"))
	default:
		findings = append(findings, ok(name, "the marketplace's key is present"))
	}
	for _, f := range d.secretFiles() {
		if finding, bad := fileMode(name, f[0], f[1]); bad {
			findings = append(findings, finding)
		}
	}
	return findings
}

// apiKeys looks at names, scopes and lengths.
func (d *doctor) apiKeys(name string) []Finding {
	keys := d.cfg.Server.Keys
	if len(keys) == 0 {
		return []Finding{warn(name, "no API keys: every user of this machine may send events and close hours",
			"add [[server.keys]] unless nobody else has an account here")}
	}
	var findings []Finding
	scopes := map[string]bool{}
	for _, k := range keys {
		length := len(k.Value.Reveal())
		found := fmt.Sprintf("API key %q: %s, %d characters", k.Name, strings.Join(k.Scopes, " and "), length)
		if length < goodKeyLength {
			findings = append(findings, warn(name, found, "use a longer one: openssl rand -hex 32"))
		} else {
			findings = append(findings, ok(name, found))
		}
		for _, s := range k.Scopes {
			scopes[s] = true
		}
	}
	if !scopes[config.ScopeIngest] {
		findings = append(findings, warn(name, "no API key may send events", "give one the scope ingest"))
	}
	if !scopes[config.ScopeAdmin] {
		findings = append(findings, warn(name, "no API key may close hours or replay refused events", "give an operator's key the scope admin"))
	}
	return findings
}

// secretFiles are pairs of key and path.
func (d *doctor) secretFiles() [][2]string {
	files := [][2]string{
		{"server.tls_key_file", d.cfg.Server.TLSKeyFile},
		{"store.password_file", d.cfg.Store.PasswordFile},
		{"koogallery.seller_key_file", d.cfg.KooGallery.SellerKeyFile},
		{"koogallery.secret_key_file", d.cfg.KooGallery.SecretKeyFile},
	}
	for _, k := range d.cfg.Server.Keys {
		files = append(files, [2]string{"server.keys " + k.Name, k.File})
	}
	return slices.DeleteFunc(files, func(f [2]string) bool { return f[1] == "" })
}

// fileMode looks at who else can read or write a secret's file.
func fileMode(name, key, path string) (Finding, bool) {
	info, err := os.Stat(path)
	if err != nil {
		return fail(name, fmt.Sprintf("%s: %s: %v", key, path, cause(err)), "restore the file, or run doctor as meterd's user"), true
	}
	mode := info.Mode().Perm()
	switch {
	case mode&0o022 != 0:
		return fail(name, fmt.Sprintf("%s: %s can be written by other users (mode %04o)", key, path, mode), "chmod 0600 "+path), true
	case mode&0o044 != 0:
		return warn(name, fmt.Sprintf("%s: %s can be read by other users (mode %04o)", key, path, mode), "chmod 0600 "+path), true
	}
	return Finding{}, false
}

// checkCertificate looks at the end of the API's own certificate.
func (d *doctor) checkCertificate(context.Context) []Finding {
	const name = "certificate"
	path := d.cfg.Server.TLSCertFile
	if path == "" {
		return []Finding{ok(name, "the API speaks plain http, at "+d.cfg.Server.Listen)}
	}
	text, err := os.ReadFile(path) //nolint:gosec // the operator chose the path
	if err != nil {
		return []Finding{fail(name, fmt.Sprintf("%s: %v", path, cause(err)), "mend server.tls_cert_file")}
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return []Finding{fail(name, path+": holds no certificate in PEM form", "mend server.tls_cert_file")}
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return []Finding{fail(name, fmt.Sprintf("%s: %v", path, err), "mend server.tls_cert_file")}
	}
	return []Finding{expiryFinding(name, path, certificate.NotAfter, d.Now())}
}
