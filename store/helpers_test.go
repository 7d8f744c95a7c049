package store_test

import (
	"context"
	"net"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/meterd/meterd/store"
)

// embeddedOptions connect clickhouse-go to the embedded engine beside a Store.
func embeddedOptions(config store.Config) *clickhouse.Options {
	return &clickhouse.Options{
		Protocol: clickhouse.HTTP, Addr: []string{"localhost:8123"}, Auth: clickhouse.Auth{Database: config.Database},
		DialContext: func(ctx context.Context, addr string) (net.Conn, error) { return config.DialContext(ctx, "tcp", addr) },
		ReadTimeout: 10 * time.Minute,
	}
}
