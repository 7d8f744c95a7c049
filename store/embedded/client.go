package embedded

import (
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// ClientOptions returns clickhouse-go's options for this engine: HTTP over the socket, no compression (the bridge
// refuses it: nothing is gained on one machine), the given database ("" means the engine's default one). The caller may
// set pool sizes and settings.
func (e *Engine) ClientOptions(database string) *clickhouse.Options {
	return &clickhouse.Options{
		Protocol: clickhouse.HTTP,
		// Never resolved; a loopback name also keeps a configured HTTP proxy out of it.
		Addr:        []string{"localhost:8123"},
		Auth:        clickhouse.Auth{Database: database},
		DialContext: e.Dial,
		Compression: &clickhouse.Compression{Method: clickhouse.CompressionNone},
		// Bounds the wait for the first byte of an answer; the engine's own max_execution_time is 600 s.
		ReadTimeout: 11 * time.Minute,
	}
}
