package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

var (
	_ meter.EventStore       = (*Store)(nil)
	_ meter.UsageReader      = (*Store)(nil)
	_ reporter.WindowBooks   = (*Store)(nil)
	_ reporter.DeliveryBooks = (*Store)(nil)
	_ reporter.RecordReader  = (*Store)(nil)
	_ reporter.LifeBooks     = (*Store)(nil)
	_ reporter.AuditBooks    = (*Store)(nil)
	_ reporter.DueCounter    = (*Store)(nil)
)

// Store is a ClickHouse database with meterd's tables. It is safe for concurrent use and connects again by itself.
type Store struct {
	cfg     Config
	conn    driver.Conn
	logger  *slog.Logger
	version Version
	// known are the settings that matter to us and that this server has.
	known map[string]bool
	// global is "GLOBAL " on a cluster: subqueries over sharded tables are then asked once and sent along.
	global string
	touch  touchState
}

// Open connects, creates the database if it is missing, and brings its tables up to date. It fails when the server can't
// be reached; once it returned a Store, lost connections are replaced on the next use. ctx bounds Open alone.
func Open(ctx context.Context, config Config) (*Store, error) {
	cfg, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, logger: cfg.Logger.With("component", "store")}
	if cfg.Cluster != "" {
		s.global = "GLOBAL "
	}
	if err := s.prepareServer(ctx); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s.conn, err = clickhouse.Open(s.options(cfg.Database, s.settings()))
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := s.migrate(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open store: %w", err), s.conn.Close())
	}
	s.logger.Info("store opened", "server_version", s.version.String(), "database", cfg.Database, "embedded", cfg.DialContext != nil)
	return s, nil
}

// Close closes the connections. Queries under way fail.
func (s *Store) Close() error {
	if err := s.conn.Close(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// Ready reports whether the store answers a query on its own tables.
func (s *Store) Ready(ctx context.Context) error {
	var n uint64
	if err := s.conn.QueryRow(ctx, "SELECT count() FROM schema_migrations").Scan(&n); err != nil {
		return fmt.Errorf("store is not ready: %w", err)
	}
	return nil
}

// ServerVersion is the version of the server that answered at Open.
func (s *Store) ServerVersion() Version { return s.version }

// Version is a release of ClickHouse.
type Version struct{ Major, Minor, Patch uint64 }

// String is "18.16.1".
func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

// AtLeast reports whether v is major.minor or newer.
func (v Version) AtLeast(major, minor uint64) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

// options are clickhouse-go's options for one database.
func (s *Store) options(database string, settings clickhouse.Settings) *clickhouse.Options {
	o := &clickhouse.Options{
		Addr:         s.cfg.Addrs,
		Auth:         clickhouse.Auth{Database: database, Username: s.cfg.Username, Password: s.cfg.Password},
		TLS:          s.cfg.TLS,
		DialTimeout:  s.cfg.DialTimeout,
		ReadTimeout:  s.cfg.QueryTimeout,
		MaxOpenConns: s.cfg.MaxConns,
		MaxIdleConns: s.cfg.MaxConns,
		Settings:     settings,
		Compression:  &clickhouse.Compression{Method: clickhouse.CompressionLZ4},
		// A batch is up to 10^5 rows; its buffers are given back instead of staying with every idle connection.
		FreeBufOnConnRelease: true,
	}
	if s.cfg.DialContext != nil {
		o.Protocol = clickhouse.HTTP
		o.Addr = []string{"localhost:8123"} // never resolved; keeps a configured proxy out of it
		o.Compression = &clickhouse.Compression{Method: clickhouse.CompressionNone}
		o.DialContext = func(ctx context.Context, addr string) (net.Conn, error) {
			return s.cfg.DialContext(ctx, "tcp", addr)
		}
		o.TransportFunc = func(t *http.Transport) (http.RoundTripper, error) { return summaryReader{t}, nil }
	}
	return o
}

// wantedSettings are sent to servers that know them. All of them are about resources or keep a newer default from
// changing what a statement means; none changes a result.
var wantedSettings = clickhouse.Settings{
	"max_query_size":                              16 << 20,
	"max_ast_elements":                            1_000_000,
	"max_expanded_ast_elements":                   4_000_000,
	"max_bytes_before_external_group_by":          512 << 20,
	"max_bytes_before_external_sort":              512 << 20,
	"do_not_merge_across_partitions_select_final": 1, // the partition is a function of the hour, which is in the key
	"async_insert":                                0, // an answer must mean "stored"
	"fsync_metadata":                              1, // a view is a commit (commit.go)
	"optimize_on_insert":                          0, // duplicates in one batch are written as sent and merged later
	"insert_distributed_sync":                     1,
	"distributed_foreground_insert":               1,
	"prefer_global_in_and_join":                   0,
	"output_format_native_use_flattened_dynamic_and_json_serialization": 0,
}

func (s *Store) settings() clickhouse.Settings {
	settings := clickhouse.Settings{}
	for name, value := range wantedSettings {
		if s.known[name] {
			settings[name] = value
		}
	}
	return settings
}

// prepareServer asks for version and settings and creates the database, on a connection of its own to the database that
// always exists.
func (s *Store) prepareServer(ctx context.Context) error {
	conn, err := clickhouse.Open(s.options("default", nil))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close() // nothing was written that a failed close could lose
	v, err := conn.ServerVersion()
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	s.version = Version{v.Version.Major, v.Version.Minor, v.Version.Patch}
	if !s.version.AtLeast(18, 16) {
		return fmt.Errorf("ClickHouse %s is too old: 18.16 or newer is needed, 24.8 or newer recommended", s.version)
	}
	if s.known, err = knownSettings(ctx, conn); err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	if err := conn.Exec(ctx, "CREATE DATABASE IF NOT EXISTS "+s.cfg.Database+s.onCluster()); err != nil {
		return fmt.Errorf("create database %s: %w", s.cfg.Database, err)
	}
	return nil
}

func knownSettings(ctx context.Context, conn driver.Conn) (map[string]bool, error) {
	known := map[string]bool{}
	names, err := scalars[string](ctx, conn, "SELECT name FROM system.settings UNION ALL SELECT concat('merge_tree.', name) FROM system.merge_tree_settings")
	for _, name := range names {
		known[name] = true
	}
	return known, err
}

func (s *Store) onCluster() string {
	if s.cfg.Cluster == "" {
		return ""
	}
	return " ON CLUSTER " + s.cfg.Cluster
}

// scalars reads the only column of a query.
func scalars[T any](ctx context.Context, conn driver.Conn, query string) ([]T, error) {
	var values []T
	err := each(ctx, conn, query, func(rows driver.Rows) error {
		var v T
		if err := rows.Scan(&v); err != nil {
			return err
		}
		values = append(values, v)
		return nil
	})
	return values, err
}

// each runs a query and calls scan for each row.
func each(ctx context.Context, conn driver.Conn, query string, scan func(driver.Rows) error) (err error) {
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// each runs a query of the store's and calls scan for each row.
func (s *Store) each(ctx context.Context, query string, scan func(driver.Rows) error) error {
	return each(ctx, s.conn, query, scan)
}
