package koogallery_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/koogallery"
)

func TestEndpoints(t *testing.T) {
	t.Parallel()
	const path = "/api/mkp-openapi-public/global/v1/isv/usage-data"
	for name, tt := range map[string]struct {
		o    koogallery.Options
		want []string
	}{
		"china": {koogallery.Options{Site: "china"}, []string{"https://mkt.myhuaweicloud.com" + path}},
		"china, fallback": {
			koogallery.Options{Site: "china", Fallback: true},
			[]string{"https://mkt.myhuaweicloud.com" + path, "https://mkt.myhuaweicloud.cn" + path},
		},
		"international, fallback": {
			koogallery.Options{Site: "international", Fallback: true},
			[]string{"https://mkt-intl.myhuaweicloud.com" + path},
		},
		"international, fallback across sites": {
			koogallery.Options{Site: "international", Fallback: true, FallbackAcrossSites: true},
			[]string{"https://mkt-intl.myhuaweicloud.com" + path, "https://mkt.myhuaweicloud.cn" + path},
		},
		"europe has none": {
			koogallery.Options{Site: "europe", Fallback: true, FallbackAcrossSites: true},
			[]string{"https://mkt.myhuaweicloud.eu" + path},
		},
		"base url has none": {
			koogallery.Options{Site: "china", BaseURL: "https://market.example/prefix/", Fallback: true},
			[]string{"https://market.example/prefix" + path},
		},
		"fallback url": {
			koogallery.Options{BaseURL: "https://a.example:8443", FallbackURL: "https://b.example", Fallback: true},
			[]string{"https://a.example:8443" + path, "https://b.example" + path},
		},
		"fallback url, switched off": {
			koogallery.Options{BaseURL: "https://a.example", FallbackURL: "https://b.example"},
			[]string{"https://a.example" + path},
		},
		"old": {
			koogallery.Options{Site: "china", API: "old", AccessKey: "ak", SecretKey: "sk"},
			[]string{"https://mkt.myhuaweicloud.com/rest/marketplace/v1/isv/usage-data"},
		},
		"loopback": {
			koogallery.Options{BaseURL: "http://[::1]:8090", AllowHTTP: true}, []string{"http://[::1]:8090" + path},
		},
		"localhost": {
			koogallery.Options{BaseURL: "http://LOCALHOST:1", AllowHTTP: true}, []string{"http://LOCALHOST:1" + path},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.o.SellerKey, tt.o.Now = demoKey, time.Now
			if diff := cmp.Diff(tt.want, koogallery.Endpoints(newClient(t, tt.o))); diff != "" {
				t.Errorf("endpoints (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNewFaults(t *testing.T) {
	t.Parallel()
	noPEM := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(noPEM, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := func() koogallery.Options {
		return koogallery.Options{Site: "china", SellerKey: demoKey, Now: time.Now}
	}
	for name, tt := range map[string]struct {
		change func(*koogallery.Options)
		want   string
	}{
		"site":               {func(o *koogallery.Options) { o.Site = "mars" }, "koogallery.site: must be"},
		"no site":            {func(o *koogallery.Options) { o.Site = "" }, "koogallery.site: must be"},
		"site with base url": {func(o *koogallery.Options) { o.Site, o.BaseURL = "mars", "https://a" }, "koogallery.site: must be"},
		"api":                {func(o *koogallery.Options) { o.API = "newer" }, "koogallery.api: must be new or old"},
		"no seller key":      {func(o *koogallery.Options) { o.SellerKey = "" }, "koogallery.seller_key: missing"},
		"newline in key":     {func(o *koogallery.Options) { o.SellerKey += "\n" }, "white space"},
		"control in key":     {func(o *koogallery.Options) { o.SellerKey = "a\x01b" }, "control characters"},
		"no access key":      {func(o *koogallery.Options) { o.API, o.SecretKey = "old", "s" }, "koogallery.access_key: missing"},
		"bad access key":     {func(o *koogallery.Options) { o.API, o.SecretKey, o.AccessKey = "old", "s", "a,b" }, "koogallery.access_key: holds"},
		"no secret key":      {func(o *koogallery.Options) { o.API, o.AccessKey = "old", "ak" }, "koogallery.secret_key: missing"},
		"http":               {func(o *koogallery.Options) { o.BaseURL = "http://127.0.0.1" }, "allow_http permits"},
		"http elsewhere":     {func(o *koogallery.Options) { o.BaseURL, o.AllowHTTP = "http://10.0.0.1", true }, "loopback addresses only"},
		"http by name":       {func(o *koogallery.Options) { o.BaseURL, o.AllowHTTP = "http://localhost.example", true }, "loopback addresses only"},
		"ftp":                {func(o *koogallery.Options) { o.BaseURL = "ftp://a" }, `scheme "ftp"`},
		"user in url":        {func(o *koogallery.Options) { o.BaseURL = "https://u:hidden@a" }, "must not hold a user"},
		"query in url":       {func(o *koogallery.Options) { o.BaseURL = "https://a/?x=hidden" }, "must not hold a user"},
		"no host":            {func(o *koogallery.Options) { o.BaseURL = "https:///x" }, "must be like"},
		"not a url":          {func(o *koogallery.Options) { o.BaseURL = "https://u:hidden@a b" }, "koogallery.base_url: not a URL"},
		"fallback":           {func(o *koogallery.Options) { o.Fallback, o.FallbackURL = true, "http://b" }, "koogallery.fallback_url: must be https"},
		"same fallback":      {func(o *koogallery.Options) { o.Fallback, o.BaseURL, o.FallbackURL = true, "https://a", "https://a" }, "same as base_url"},
		"timeout":            {func(o *koogallery.Options) { o.Timeout = -1 }, "koogallery.timeout"},
		"spacing":            {func(o *koogallery.Options) { o.Spacing = -1 }, "spacing"},
		"batch":              {func(o *koogallery.Options) { o.MaxBatch = 1001 }, "koogallery.max_batch: must be 1 to 1000 (got 1001)"},
		"no clock":           {func(o *koogallery.Options) { o.Now = nil }, "koogallery.now"},
		"no ca file":         {func(o *koogallery.Options) { o.CAFile = noPEM + "x" }, "koogallery.ca_file: open"},
		"empty ca file":      {func(o *koogallery.Options) { o.CAFile = noPEM }, "no PEM certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := good()
			tt.change(&o)
			_, err := koogallery.New(o)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("New = %v, want %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "hidden") {
				t.Errorf("the error shows a password: %v", err)
			}
		})
	}
	_, err := koogallery.New(koogallery.Options{MaxBatch: -1, BaseURL: "http://a"})
	if err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("New = %v, want all four faults", err)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	o := options("http://127.0.0.1:1")
	o.MaxBatch = 100
	c := newClient(t, o)
	want := reporter.Limits{
		MaxBatch: 100, Scale: 4, MaxQuantity: meter.MustParseQuantity("99999999.9999"), MaxAge: 504 * time.Hour,
	}
	if got := c.Limits(); got.MaxBatch != want.MaxBatch || got.Scale != want.Scale || got.MaxAge != want.MaxAge ||
		!got.MaxQuantity.Equal(want.MaxQuantity) {
		t.Errorf("Limits = %+v, want %+v", got, want)
	}
	if c.Name() != "koogallery" {
		t.Errorf("Name = %q", c.Name())
	}
	wantClass(t, c.Push(t.Context(), demoBatch(101)), reporter.ClassBatchTooLarge)
}

func TestSecretPrintsNothing(t *testing.T) {
	t.Parallel()
	const key = "top-secret-fake-key"
	o := koogallery.Options{
		Site: "china", SellerKey: key, AccessKey: demoAK, SecretKey: key, API: "old", Now: time.Now,
	}
	c := newClient(t, o)
	o.Now = nil
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X", "%t", "%c", "%U", "%e", "%o", "%b"} {
		for _, v := range []any{o.SellerKey, &o.SellerKey, o, &o, c, []koogallery.Secret{key}, map[string]any{"k": o.SecretKey}} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("x", "key", o.SellerKey, "client", c, "secret", struct{ K koogallery.Secret }{key})
	}
	js, err := json.Marshal(map[string]any{"key": o.SellerKey})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(js)
	for _, form := range []string{key, fmt.Sprintf("%x", key), fmt.Sprintf("%X", key), fmt.Sprintf("%d", []byte(key))} {
		if strings.Contains(out.String(), form) {
			t.Errorf("the key is printed as %q in\n%s", form, out.String())
		}
	}
	if !strings.Contains(out.String(), "<secret>") {
		t.Error("nothing was printed")
	}
}
