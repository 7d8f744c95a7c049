package doctor_test

import (
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/internal/doctor"
	"github.com/meterd/meterd/meter/spool"
)

func TestHealthyDirectory(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	report, err := doctor.Run(t.Context(), doctor.Options{Config: cfg, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	for _, check := range []string{"data directory", "spool", "disk sync", "listeners", "certificate"} {
		for _, f := range report.Findings {
			if f.Check == check && f.Status == doctor.Fail {
				t.Errorf("%+v", f)
			}
		}
	}
	if entries, err := os.ReadDir(cfg.DataDir); err != nil || len(entries) > 0 {
		t.Errorf("the data directory holds %v (%v) after the check", entries, err)
	}
	if got := report.Count(doctor.OK) + report.Count(doctor.Warn) + report.Count(doctor.Fail); got != len(report.Findings) {
		t.Errorf("%d of %d findings have a known status", got, len(report.Findings))
	}
}

func TestDirectory(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		arrange func(t *testing.T, cfg *config.Config)
		status  doctor.Status
		found   string
	}{
		"missing": {
			func(_ *testing.T, cfg *config.Config) { cfg.DataDir = filepath.Join(cfg.DataDir, "a", "b") },
			doctor.OK, "doesn't exist yet",
		},
		"a file": {
			func(t *testing.T, cfg *config.Config) {
				t.Helper()
				cfg.DataDir = filepath.Join(cfg.DataDir, "file")
				writeFile(t, cfg.DataDir, 0o600)
			},
			doctor.Fail, "is not a directory",
		},
		"below a file": {
			func(t *testing.T, cfg *config.Config) {
				t.Helper()
				file := filepath.Join(cfg.DataDir, "file")
				writeFile(t, file, 0o600)
				cfg.DataDir = filepath.Join(file, "data")
			},
			doctor.Fail, "not a directory",
		},
		"not writable by anybody": { // also not by root, under which tests may run
			func(_ *testing.T, cfg *config.Config) { cfg.DataDir = "/proc/self/task" },
			doctor.Fail, "can't be written",
		},
		"can't be created": {
			func(_ *testing.T, cfg *config.Config) { cfg.DataDir = "/proc/meterd-test" },
			doctor.Fail, "can't be created",
		},
		"open to others": {
			func(t *testing.T, cfg *config.Config) {
				t.Helper()
				if err := os.Chmod(cfg.DataDir, 0o755); err != nil {
					t.Fatal(err)
				}
			},
			doctor.Warn, "other users can look into it",
		},
		"writable by others": {
			func(t *testing.T, cfg *config.Config) {
				t.Helper()
				if err := os.Chmod(cfg.DataDir, 0o777); err != nil {
					t.Fatal(err)
				}
			},
			doctor.Warn, "also by other users",
		},
		"spool is a file": {
			func(t *testing.T, cfg *config.Config) {
				t.Helper()
				writeFile(t, filepath.Join(cfg.DataDir, "spool"), 0o600)
			},
			doctor.Fail, "spool is not a directory",
		},
		"of another user": {
			func(t *testing.T, cfg *config.Config) {
				t.Helper()
				if os.Geteuid() != 0 {
					t.Skip("only root can give a directory away")
				}
				if err := os.Chown(cfg.DataDir, 12345, 12345); err != nil {
					t.Fatal(err)
				}
			},
			doctor.Warn, "it belongs to user 12345",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t)
			tt.arrange(t, &cfg)
			expect(t, examine(t, doctor.Options{Config: cfg}, "data directory"), tt.status, tt.found)
		})
	}
}

// TestReadOnlyMount uses a real read-only bind mount where the test may mount.
func TestReadOnlyMount(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	target := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(cfg.DataDir, target, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("this environment doesn't permit mounts: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	cfg.DataDir = target
	for _, check := range []string{"data directory", "disk sync"} {
		expect(t, examine(t, doctor.Options{Config: cfg}, check), doctor.Fail, "read-only file system")
	}
}

func TestSpace(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	expect(t, examine(t, doctor.Options{Config: cfg}, "disk space"), doctor.OK, "may take 17.0 MiB more")
	cfg.Spool.MaxBytes = 900 * config.TiB
	expect(t, examine(t, doctor.Options{Config: cfg}, "disk space"), doctor.Warn, "may take 900.0 TiB more")
}

func TestSync(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	if findings := examine(t, doctor.Options{Config: cfg}, "disk sync"); len(findings) != 1 || findings[0].Status == doctor.Fail {
		t.Errorf("findings = %+v", findings)
	}
	// A clock that jumps by a second at every look makes every sync slow.
	at := time.Now()
	slow := func() time.Time { at = at.Add(time.Second); return at }
	measured := doctor.MeasureSync(t.Context(), slow, cfg.DataDir)
	expect(t, measured, doctor.Fail, "4 KiB written and synced in 1s")
}

func TestSpool(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.Spool.MaxBytes, cfg.Spool.SegmentBytes = 16*config.MiB, 8*config.MiB
	options := doctor.Options{Config: cfg}
	expect(t, examine(t, options, "spool"), doctor.OK, "doesn't exist yet")

	s, err := spool.Open(spool.Options{
		Dir: filepath.Join(cfg.DataDir, "spool"), MaxBytes: int64(cfg.Spool.MaxBytes), SegmentBytes: int64(cfg.Spool.SegmentBytes),
		Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	findings := examine(t, options, "spool")
	expect(t, findings, doctor.OK, "in use by a running daemon (process ")
	expect(t, findings, doctor.OK, "of 16MiB")

	payload := make([]byte, 512<<10)
	_, _ = rand.Read(payload) // never fails; random bytes can't be compressed
	for err == nil {
		_, err = s.Append(t.Context(), payload, 1)
	}
	if !errors.Is(err, spool.ErrFull) {
		t.Fatalf("Append = %v, want ErrFull", err)
	}
	expect(t, examine(t, options, "spool"), doctor.Fail, "of 16MiB: full")
	expect(t, examine(t, options, "disk space"), doctor.OK, "spool and dead letters may take 1.")

	// What is confirmed doesn't count any more.
	r := s.NewReader(spool.Position{})
	for range 16 {
		record, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Confirm(record.End); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(r.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	findings = examine(t, options, "spool")
	expect(t, findings, doctor.OK, "not in use")
	for _, f := range findings {
		if f.Status == doctor.Fail {
			t.Errorf("after confirming half: %+v", f)
		}
	}
}

func TestQuarantine(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	dir := filepath.Join(cfg.DataDir, "spool", "quarantine")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "1-damaged.bin"), 0o600)
	writeFile(t, filepath.Join(dir, "1-torn.bin"), 0o600)
	expect(t, examine(t, doctor.Options{Config: cfg}, "spool"), doctor.Warn, "1 damaged stretches")
}

func writeFile(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte("0123456789abcdef"), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask is
		t.Fatal(err)
	}
}

// FuzzConfirmed reads checkpoints: a damaged one must only make everything count.
func FuzzConfirmed(f *testing.F) {
	f.Add("meterd spool checkpoint 1\nconfirmed 2:100 records 1 events 1 salt 00000000\ndurable 2:200 records 2 events 2\ncrc32c 00000000\n")
	f.Add("confirmed -1:-1 \n")
	f.Add("confirmed 99999999999999999999:1 ")
	f.Fuzz(func(t *testing.T, text string) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "checkpoint"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "00000000000000000002.seg"), make([]byte, 1000), 0o600); err != nil {
			t.Fatal(err)
		}
		if use, err := doctor.SpoolUse(dir); err != nil || use < 0 || use > 1000 {
			t.Errorf("SpoolUse = %d, %v", use, err)
		}
	})
}
