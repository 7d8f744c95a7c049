package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestClientCertificate asks a daemon that wants a client certificate.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	certificate, err := selfSignedCertificate(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certFile, keyFile := write("client.pem", "CERTIFICATE", certificate.Certificate[0]), write("client.key", "PRIVATE KEY", key)

	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) != 1 || !r.TLS.PeerCertificates[0].Equal(leaf) {
			t.Errorf("client certificates = %v", r.TLS.PeerCertificates)
		}
		_, _ = io.WriteString(w, "[]")
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // a handshake fails on purpose
	s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12}
	s.StartTLS()
	t.Cleanup(s.Close)
	caFile := write("ca.pem", "CERTIFICATE", s.Certificate().Raw)

	args := []string{"meters", "--server", s.URL, "--ca-file", caFile}
	code, _, stderr := runMeterd(t, "", append(args, "--cert-file", certFile, "--cert-key-file", keyFile)...)
	if code != exitOK || stderr != "" {
		t.Errorf("with the certificate: exit %d, %s", code, stderr)
	}
	code, _, stderr = runMeterd(t, "", args...)
	if code != exitFailure || !strings.Contains(stderr, "wants a client certificate that it trusts") {
		t.Errorf("without a certificate: exit %d, %s", code, stderr)
	}
}
