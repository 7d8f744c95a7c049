package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"text/template"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration is one file migrations/NNNN_verb_object.sql.
type migration struct {
	number   uint32
	name     string
	checksum string
	text     string
}

func loadMigrations() ([]migration, error) {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		return nil, fmt.Errorf("list migrations: %w", err)
	}
	all := make([]migration, 0, len(names)) // sorted by name, as Glob returns them
	for _, name := range names {
		text, err := migrationFiles.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read migration: %w", err)
		}
		base := strings.TrimSuffix(strings.TrimPrefix(name, "migrations/"), ".sql")
		number, err := strconv.ParseUint(base[:4], 10, 32)
		if err != nil || int(number) != len(all)+1 {
			return nil, fmt.Errorf("migration %s: files must be numbered 0001, 0002, … without gaps", base)
		}
		sum := sha256.Sum256(text)
		all = append(all, migration{number: uint32(number), name: base, checksum: hex.EncodeToString(sum[:8]), text: string(text)})
	}
	return all, nil
}

// migrate applies what is missing. ClickHouse's DDL has no transactions and no locks, so every statement is safe to run
// again, also by two daemons at once: a migration is recorded after its last statement, twice at worst.
func (s *Store) migrate(ctx context.Context) error {
	all, err := loadMigrations()
	if err != nil {
		return err
	}
	applied, err := s.appliedMigrations(ctx)
	if err != nil {
		return err
	}
	for _, m := range all {
		if checksum, done := applied[m.number]; done {
			if checksum != m.checksum {
				return fmt.Errorf("migration %s was changed after it had been applied (checksum %s, now %s); add a new one instead", m.name, checksum, m.checksum)
			}
			continue
		}
		if err := s.applyMigration(ctx, m); err != nil {
			return fmt.Errorf("migration %s: %w", m.name, err)
		}
	}
	if newer := len(applied) - len(all); newer > 0 {
		s.logger.Warn("database was made by a newer meterd", "unknown_migrations", newer)
	}
	return s.syncOnWrite(ctx)
}

// appliedMigrations returns the checksums of applied migrations.
func (s *Store) appliedMigrations(ctx context.Context) (map[uint32]string, error) {
	statements, err := s.expand(migration{name: "schema_migrations", text: schemaMigrations})
	if err != nil {
		return nil, err
	}
	for _, statement := range statements {
		if err := s.conn.Exec(ctx, statement); err != nil {
			return nil, fmt.Errorf("create schema_migrations: %w", err)
		}
	}
	applied := map[uint32]string{}
	err = s.each(ctx, "SELECT number, checksum FROM schema_migrations ORDER BY number, applied_at", func(rows driver.Rows) error {
		var number uint32
		var checksum string
		if err := rows.Scan(&number, &checksum); err != nil {
			return err
		}
		applied[number] = checksum
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read schema_migrations: %w", err)
	}
	return applied, nil
}

const schemaMigrations = `CREATE TABLE IF NOT EXISTS {{table "schema_migrations"}} (
    number UInt32,
    name String,
    checksum String,
    applied_at DateTime('UTC')
) ENGINE = {{engine "ReplacingMergeTree" ""}} ORDER BY number;
{{distributed "schema_migrations" "0"}}`

func (s *Store) applyMigration(ctx context.Context, m migration) error {
	statements, err := s.expand(m)
	if err != nil {
		return err
	}
	for _, statement := range statements {
		if err := s.conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("%.60q: %w", statement, err)
		}
	}
	record := fmt.Sprintf("INSERT INTO schema_migrations (number, name, checksum, applied_at) SELECT toUInt32(%d), %s, %s, %s",
		m.number, quote(m.name), quote(m.checksum), sqlTime(s.cfg.Now()))
	if err := s.conn.Exec(ctx, record); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	s.logger.Info("migration applied", "migration", m.name)
	return nil
}

// expand makes the statements of a migration for this server. Statements end with a semicolon at the end of a line.
func (s *Store) expand(m migration) ([]string, error) {
	t, err := template.New(m.name).Funcs(s.templateFuncs()).Parse(m.text)
	if err != nil {
		return nil, fmt.Errorf("parse: %w", err)
	}
	var text bytes.Buffer
	if err := t.Execute(&text, nil); err != nil {
		return nil, fmt.Errorf("expand: %w", err)
	}
	var statements []string
	for statement := range strings.SplitSeq(text.String(), ";\n") {
		if statement = strings.TrimSpace(stripComments(statement)); statement != "" {
			statements = append(statements, strings.TrimSuffix(statement, ";"))
		}
	}
	return statements, nil
}

func stripComments(statement string) string {
	var lines []string
	for line := range strings.Lines(statement) {
		if !strings.HasPrefix(strings.TrimSpace(line), "--") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// templateFuncs are what migrations may say about the server: on a cluster, a table T is a Distributed table over
// replicated tables T_local; elsewhere it is one table.
func (s *Store) templateFuncs() template.FuncMap {
	cluster := s.cfg.Cluster
	return template.FuncMap{
		"table": func(name string) string {
			if cluster == "" {
				return name
			}
			return name + "_local" + s.onCluster()
		},
		"engine": func(family, version string) string {
			if cluster == "" {
				return family + "(" + version + ")"
			}
			arguments := "'/clickhouse/tables/{shard}/" + s.cfg.Database + "/{table}', '{replica}'"
			if version != "" {
				arguments += ", " + version
			}
			return "Replicated" + family + "(" + arguments + ")"
		},
		"distributed": func(name, shardKey string) string {
			if cluster == "" {
				return ""
			}
			return fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s%s AS %s_local ENGINE = Distributed(%s, %s, %[1]s_local, %[6]s);\n",
				name, s.onCluster(), name, cluster, s.cfg.Database, shardKey)
		},
		// codec is for servers from 20.1 on; older ones use their default, LZ4.
		"codec": func(codec string) string {
			if !s.version.AtLeast(20, 1) {
				return ""
			}
			return " CODEC(" + codec + ")"
		},
	}
}

// syncedTables are those whose rows must survive a power cut once confirmed.
var syncedTables = []string{
	"usage_events", "backfilled_values", "backfills", "hourly_usage", "bill_records", "bill_record_hours",
	"bill_record_transitions", "bill_record_marks", "bookings", "booking_settlements", "account_balances", "checkpoint_balances",
	"balance_checkpoints", "adjustments", "covers", "instance_changes", "audit_log", "touches", "event_voids",
}

// syncSettings are the same that the embedded engine's own configuration has: an insert is answered once its part is on
// the disk, and a merged part is on the disk before its sources are deleted.
var syncSettings = []string{"fsync_after_insert", "fsync_part_directory", "min_compressed_bytes_to_fsync_after_merge"}

// syncOnWrite makes servers that can do so write confirmed rows through to the disk. A server that can't (before 20.10)
// is a documented limit.
func (s *Store) syncOnWrite(ctx context.Context) error {
	if s.cfg.DialContext != nil {
		return nil
	}
	var wanted []string
	for _, name := range syncSettings {
		if s.known["merge_tree."+name] {
			wanted = append(wanted, name+" = 1")
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	for _, table := range syncedTables {
		if s.cfg.Cluster != "" {
			table += "_local"
		}
		var create string
		err := s.conn.QueryRow(ctx, "SELECT create_table_query FROM system.tables WHERE database = "+quote(s.cfg.Database)+" AND name = "+quote(table)).Scan(&create)
		if err != nil {
			return fmt.Errorf("read definition of %s: %w", table, err)
		}
		if strings.Contains(create, strings.Join(wanted, ", ")) {
			continue
		}
		if err := s.conn.Exec(ctx, "ALTER TABLE "+table+s.onCluster()+" MODIFY SETTING "+strings.Join(wanted, ", ")); err != nil {
			return fmt.Errorf("sync writes of %s: %w", table, err)
		}
	}
	return nil
}
