package koogallery_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meterd/meterd/reporter/koogallery"
)

func TestAddresses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		options koogallery.Options
		want    []string
	}{
		"site":          {koogallery.Options{Site: koogallery.SiteEurope, Fallback: true}, []string{"https://mkt.myhuaweicloud.eu"}},
		"with fallback": {koogallery.Options{Site: koogallery.SiteChina, Fallback: true}, []string{"https://mkt.myhuaweicloud.com", "https://mkt.myhuaweicloud.cn"}},
		"sandbox":       {koogallery.Options{BaseURL: "http://127.0.0.1:8090/prefix", AllowHTTP: true}, []string{"http://127.0.0.1:8090"}},
		"no site":       {koogallery.Options{}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := tc.options.Addresses()
			if d := cmp.Diff(tc.want, got); d != "" || (err == nil) != (tc.want != nil) {
				t.Errorf("Addresses() = %v, %v (-want +got)\n%s", got, err, d)
			}
		})
	}
}
