package store_test

import (
	"testing"

	"github.com/meterd/meterd/store"
	"github.com/meterd/meterd/store/embedded"
	"github.com/meterd/meterd/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// TestConformance runs the suite at both ends of the range of supported engines.
func TestConformance(t *testing.T) {
	t.Run("server", func(t *testing.T) {
		server := storetest.StartServer(t)
		storetest.Run(t, storetest.Backend{
			Config: store.Config{Addrs: []string{server.Addr}},
			Restart: func(tb testing.TB) {
				tb.Helper()
				server.Kill(tb)
				server.Start(tb)
			},
		})
	})
	t.Run("embedded", func(t *testing.T) {
		engine := storetest.StartEngine(t, embedded.Options{NoFsync: true})
		storetest.Run(t, storetest.Backend{
			Config:  store.Config{DialContext: engine.DialContext},
			Restart: func(tb testing.TB) { tb.Helper(); storetest.KillEngine(tb, engine) },
		})
	})
}
