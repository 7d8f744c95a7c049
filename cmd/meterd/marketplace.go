package main

import (
	"log/slog"
	"net/http"

	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/reporter/koogallery"
)

// openMarketplace builds the client of the configured marketplace. It makes no connection.
func openMarketplace(cfg config.Config, clock reporter.Clock, log *slog.Logger) (*koogallery.Client, error) {
	k := cfg.KooGallery
	return koogallery.New(koogallery.Options{
		Site: koogallery.Site(k.Site), BaseURL: k.BaseURL, AllowHTTP: k.AllowHTTP, Fallback: k.Fallback,
		API: koogallery.API(k.API), SellerKey: koogallery.Secret(k.SellerKey.Reveal()),
		AccessKey: k.AccessKey, SecretKey: koogallery.Secret(k.SecretKey.Reveal()),
		Timeout: k.Timeout.Std(), Spacing: k.Spacing.Std(), MaxBatch: k.MaxBatch, CAFile: k.CAFile,
		Proxy: http.ProxyFromEnvironment, Now: clock.Now, Logger: log,
	})
}

// marketplaceRules are the rules that bill records must keep, also while reporting is off and no key is configured.
func marketplaceRules(cfg config.Config) reporter.Rules {
	return koogallery.Rules{API: koogallery.API(cfg.KooGallery.API), MaxBatch: cfg.KooGallery.MaxBatch}
}
