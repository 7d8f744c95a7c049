package doctor_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/meterd/meterd/internal/doctor"
	"github.com/meterd/meterd/store"
	"github.com/meterd/meterd/store/storetest"
)

func TestProfile(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	expect(t, examine(t, doctor.Options{Config: cfg}, "profile"), doctor.OK, "built-in: at most 1000 records a call, 4 decimals, nothing older than 21 days")

	cfg.Closing.DayZone = "Nowhere/Atlantis"
	expect(t, examine(t, doctor.Options{Config: cfg}, "profile"), doctor.Fail, "closing.day_zone")

	cfg = testConfig(t)
	cfg.KooGallery.ProfileFile = filepath.Join(cfg.DataDir, "profile.toml")
	if err := os.WriteFile(cfg.KooGallery.ProfileFile, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(t, examine(t, doctor.Options{Config: cfg}, "profile"), doctor.Fail, cfg.KooGallery.ProfileFile)
}

func TestLease(t *testing.T) {
	t.Parallel()
	server := storetest.StartServer(t)
	cfg := testConfig(t)
	cfg.Store.Embedded, cfg.Store.Addrs, cfg.Store.Database = false, []string{server.Addr}, "leased"
	look := func(text string) {
		t.Helper()
		expect(t, examine(t, doctor.Options{Config: cfg}, "server"), doctor.OK, text)
	}
	s, err := store.Open(t.Context(), store.Config{
		Addrs: []string{server.Addr}, Database: "leased", Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	look("no daemon has held the lease")

	began := time.Now()
	lease, err := s.NewLease(store.LeaseOptions{Holder: "tester", Elapsed: func() time.Duration { return time.Since(began) }})
	if err != nil {
		t.Fatal(err)
	}
	if held, err := lease.Hold(t.Context()); err != nil || !held {
		t.Fatalf("Hold = %t, %v", held, err)
	}
	look(`"tester" took the lease last (1)`)
	if err := lease.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	look(`the lease is free; "tester" held it last`)
}
