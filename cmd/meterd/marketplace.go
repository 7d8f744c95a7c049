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
	profile, err := cfg.Profile()
	if err != nil {
		return nil, err
	}
	return koogallery.New(koogallery.Options{
		Site: koogallery.Site(k.Site), BaseURL: k.BaseURL, AllowHTTP: k.AllowHTTP, Fallback: k.Fallback, FallbackAcrossSites: k.FallbackAcrossSites,
		API: koogallery.API(k.API), SellerKey: koogallery.Secret(k.SellerKey.Reveal()), Profile: profile,
		AccessKey: k.AccessKey, SecretKey: koogallery.Secret(k.SecretKey.Reveal()),
		Timeout: k.Timeout.Std(), Spacing: k.Spacing.Std(), MaxBatch: k.MaxBatch, CAFile: k.CAFile,
		Proxy: http.ProxyFromEnvironment, Now: clock.Now, Logger: log,
	})
}

// openShadow builds the client of where records in mode shadow go; nil when they go nowhere.
func openShadow(cfg config.Config, clock reporter.Clock, log *slog.Logger) (*koogallery.Client, error) {
	if cfg.Reporting.ShadowBaseURL == "" {
		return nil, nil //nolint:nilnil // no destination is no fault
	}
	k := cfg.KooGallery
	profile, err := cfg.Profile()
	if err != nil {
		return nil, err
	}
	return koogallery.New(koogallery.Options{
		BaseURL: cfg.Reporting.ShadowBaseURL, AllowHTTP: k.AllowHTTP, API: koogallery.APINew, Profile: profile,
		SellerKey: koogallery.Secret(cfg.Reporting.ShadowKey.Reveal()),
		Timeout:   k.Timeout.Std(), Spacing: k.Spacing.Std(), MaxBatch: k.MaxBatch, CAFile: k.CAFile,
		Proxy: http.ProxyFromEnvironment, Now: clock.Now, Logger: log.With("destination", "shadow"),
	})
}

// marketplaceRules are the rules that bill records must keep, also while reporting is off and no key is configured.
func marketplaceRules(cfg config.Config) (reporter.Rules, error) {
	profile, err := cfg.Profile()
	if err != nil {
		return nil, err
	}
	return koogallery.Rules{API: koogallery.API(cfg.KooGallery.API), MaxBatch: cfg.KooGallery.MaxBatch, Profile: profile}, nil
}
