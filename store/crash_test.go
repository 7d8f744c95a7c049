package store_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/store"
	"github.com/meterd/meterd/store/storetest"
)

// TestServerKilledWhileInserting kills a server while two inserters repeat until confirmed, as the loader does. Afterwards
// every event counts exactly once, and no error on the way said that repeating is pointless.
func TestServerKilledWhileInserting(t *testing.T) {
	t.Parallel()
	server := storetest.StartServer(t)
	s := openServer(t, server)
	const batches, size = 20, 500
	started := make(chan struct{})
	var once sync.Once
	var group sync.WaitGroup
	for worker := range 2 {
		group.Go(func() {
			for n := worker; n < batches; n += 2 {
				rows := measureRows(measureMeters(), n*size, (n+1)*size, 50)
				for {
					err := s.InsertEvents(t.Context(), rows)
					once.Do(func() { close(started) })
					if err == nil {
						break
					}
					if errors.Is(err, meter.ErrRefused) || t.Context().Err() != nil {
						t.Errorf("InsertEvents: %v", err)
						return
					}
				}
			}
		})
	}
	<-started
	server.Kill(t)
	server.Start(t)
	group.Wait()
	n, err := s.CountWindowEvents(t.Context(), measureHour)
	if err != nil || n != batches*size {
		t.Errorf("CountWindowEvents = %d, %v, want %d", n, err, batches*size)
	}
	counts, err := s.CountEvents(t.Context(), measureHour.Start, measureHour.End)
	t.Logf("%+v, %v", counts, err)
}

// TestServerAway shows the errors of a server that can't be reached: soon, and never refused.
func TestServerAway(t *testing.T) {
	t.Parallel()
	server := storetest.StartServer(t)
	s := openServer(t, server)
	server.Kill(t) // Stop would wait for the store's idle connections
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := s.Ready(ctx); err == nil {
		t.Error("Ready without a server succeeded")
	}
	if err := s.InsertEvents(ctx, measureRows(measureMeters(), 0, 10, 5)); err == nil || errors.Is(err, meter.ErrRefused) {
		t.Errorf("InsertEvents without a server = %v, want an error that may be cured", err)
	}
	if _, err := store.Open(ctx, store.Config{Addrs: []string{server.Addr}, Now: time.Now, Logger: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("Open without a server succeeded")
	}
	server.Start(t)
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("Ready after the server came back: %v", err)
	}
}

func openServer(t *testing.T, server *storetest.Server) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Addrs: []string{server.Addr}, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}
