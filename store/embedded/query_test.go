package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/shopspring/decimal"
)

func TestEngine_hello(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := open(t, engine, "")
	if err := conn.Ping(t.Context()); err != nil {
		t.Fatalf("Ping: %v", err)
	}
	version, err := conn.ServerVersion()
	if err != nil {
		t.Fatalf("ServerVersion: %v", err)
	}
	if version.Version.Major != 26 || version.Revision != 0 || version.Timezone.String() != "UTC" {
		t.Errorf("ServerVersion = %+v, want version 26, revision 0, zone UTC", version)
	}
}

func TestEngine_types(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := newDatabase(t, engine)
	mustExec(t, conn, `CREATE TABLE t (
		s String, u8 UInt8, u16 UInt16, u32 UInt32, u64 UInt64, i64 Int64, ts DateTime('UTC'), d Decimal(38, 18),
		f FixedString(16), a Array(String), n Nested(k String, v Decimal(38, 18)), lc LowCardinality(String), nu Nullable(Int64)
	) ENGINE = MergeTree ORDER BY u64`)
	type row struct {
		S    string            `ch:"s"`
		U8   uint8             `ch:"u8"`
		U16  uint16            `ch:"u16"`
		U32  uint32            `ch:"u32"`
		U64  uint64            `ch:"u64"`
		I64  int64             `ch:"i64"`
		TS   time.Time         `ch:"ts"`
		D    decimal.Decimal   `ch:"d"`
		F    string            `ch:"f"`
		A    []string          `ch:"a"`
		NK   []string          `ch:"n.k"`
		NV   []decimal.Decimal `ch:"n.v"`
		LC   string            `ch:"lc"`
		Null *int64            `ch:"nu"`
	}
	minus := int64(-5)
	want := []row{
		{
			S: "line\nnext\x00'\\\"", U8: 255, U16: 65535, U32: 1<<32 - 1, U64: 0, I64: -1 << 63,
			TS: time.Date(2026, 3, 29, 1, 30, 0, 0, time.UTC), D: decimal.RequireFromString("12345678901234567890.123456789012345678"),
			F: "0123456789abcde\n", A: []string{"", "x\ny"}, NK: []string{"a", "b"},
			NV: []decimal.Decimal{decimal.RequireFromString("0.000000000000000001"), decimal.RequireFromString("-3.5")}, LC: "low", Null: &minus,
		},
		{
			U64: 1<<64 - 1, TS: time.Unix(0, 0).UTC(), D: decimal.RequireFromString("-0.1"), F: strings.Repeat("z", 16),
			A: []string{}, NK: []string{}, NV: []decimal.Decimal{}, LC: "",
		},
	}
	batch, err := conn.PrepareBatch(t.Context(), "INSERT INTO t (s, u8, u16, u32, u64, i64, ts, d, f, a, n.k, n.v, lc, nu)")
	if err != nil {
		t.Fatalf("PrepareBatch: %v", err)
	}
	for _, r := range want {
		if err := batch.Append(r.S, r.U8, r.U16, r.U32, r.U64, r.I64, r.TS, r.D, r.F, r.A, r.NK, r.NV, r.LC, r.Null); err != nil {
			t.Fatalf("Append: %v", err)
		}
	}
	if err := batch.Send(); err != nil {
		t.Fatalf("Send: %v", err)
	}
	var got []row
	if err := conn.Select(t.Context(), &got, "SELECT s, u8, u16, u32, u64, i64, ts, d, f, a, n.k, n.v, lc, nu FROM t ORDER BY u64"); err != nil {
		t.Fatalf("Select: %v", err)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b decimal.Decimal) bool { return a.Equal(b) })); diff != "" {
		t.Errorf("rows read differ from rows written (-want +got):\n%s", diff)
	}
}

func TestEngine_parameters(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := open(t, engine, "")
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	hostile := "a'b\\c\nd; DROP TABLE x -- é"
	var (
		s  string
		n  int64
		ts time.Time
		in uint8
	)
	err := conn.QueryRow(t.Context(), "SELECT ?, toInt64(?), toDateTime(?, 'UTC'), 'b' IN (?)", hostile, int64(-7), at, []string{"a", "b"}).Scan(&s, &n, &ts, &in)
	if err != nil {
		t.Fatalf("QueryRow: %v", err)
	}
	if s != hostile || n != -7 || !ts.Equal(at) || in != 1 {
		t.Errorf("parameters came back as %q %d %v %d", s, n, ts, in)
	}
	if got := queryOne[string](t, conn, "SELECT @name", clickhouse.Named("name", hostile)); got != hostile {
		t.Errorf("named parameter came back as %q", got)
	}
}

func TestEngine_errorCodes(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := newDatabase(t, engine)
	for name, tc := range map[string]struct {
		sql  string
		code int32
	}{
		"unknown table":      {"SELECT * FROM missing", 60},
		"syntax":             {"SELECT (", 62},
		"unknown function":   {"SELECT nofunction(1)", 46},
		"at run time":        {"SELECT throwIf(1)", 395},
		"DDL":                {"CREATE TABLE x (a UInt8) ENGINE = NoSuchEngine", 56},
		"client command":     {"exit", 62},
		"empty":              {" -- nothing", 62},
		"two statements":     {"SELECT 1; SELECT 2", 62},
		"two changes":        {"CREATE TABLE x (a UInt8) ENGINE = Memory; DROP TABLE x", 62},
		"rows in the text":   {"INSERT INTO x FORMAT TSV\n1", 48},
		"insert without row": {"INSERT INTO x FORMAT Native", 108},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			err := conn.Exec(t.Context(), tc.sql)
			var ex *clickhouse.Exception
			if !errors.As(err, &ex) || ex.Code != tc.code {
				t.Errorf("Exec(%q) = %v, want code %d", tc.sql, err, tc.code)
			}
		})
	}
}

func TestEngine_newlines(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := newDatabase(t, engine)
	mustExec(t, conn, "CREATE TABLE t (id UInt32, s String) ENGINE = MergeTree ORDER BY id")
	batch, err := conn.PrepareBatch(t.Context(), "INSERT INTO t (id, s)")
	if err != nil {
		t.Fatalf("PrepareBatch: %v", err)
	}
	// 10 is the newline byte: in row counts, lengths, values and strings.
	const rows = 10*256 + 10
	for i := range uint32(rows) {
		if err := batch.Append(i, strings.Repeat("\n", int(i%11))+"; \\n FORMAT Native\n"); err != nil {
			t.Fatalf("Append: %v", err)
		}
	}
	if err := batch.Send(); err != nil {
		t.Fatalf("Send: %v", err)
	}
	if got := queryOne[uint64](t, conn, "SELECT count() FROM t WHERE endsWith(s, ' FORMAT Native\n')"); got != rows {
		t.Errorf("%d rows arrived, want %d", got, rows)
	}
}

func TestEngine_settings(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := open(t, engine, "")
	const sql = "SELECT toUInt64(getSetting('max_block_size'))"
	before := queryOne[uint64](t, conn, sql)
	ctx := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"max_block_size": 1234}))
	var got uint64
	if err := conn.QueryRow(ctx, sql).Scan(&got); err != nil || got != 1234 {
		t.Fatalf("with setting: %d, %v", got, err)
	}
	// A setting ends with its request, on every pooled connection of the engine.
	for range 20 {
		if got := queryOne[uint64](t, conn, sql); got != before {
			t.Fatalf("setting of an earlier request still holds: %d, want %d", got, before)
		}
	}
	for name, code := range map[string]int32{"no_such_setting": 115, "max'; DROP": 36, "log_comment": 48, "param_x": 48} {
		ctx := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{name: "1"}))
		err := conn.QueryRow(ctx, "SELECT 1").Scan(new(uint8))
		var ex *clickhouse.Exception
		if !errors.As(err, &ex) || ex.Code != code {
			t.Errorf("setting %s: %v, want code %d", name, err, code)
		}
	}
	ctx = clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"max_execution_time": 1}))
	err := conn.QueryRow(ctx, "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1").Scan(&got)
	var ex *clickhouse.Exception
	if !errors.As(err, &ex) || ex.Code != 159 {
		t.Errorf("max_execution_time: %v, want code 159", err)
	}
}

func TestEngine_sessionStatements(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := newDatabase(t, engine)
	mine := queryOne[string](t, conn, "SELECT currentDatabase()")
	for range 8 {
		mustExec(t, conn, "USE system")
		mustExec(t, conn, "SET max_block_size = 77")
		mustExec(t, conn, "CREATE TEMPORARY TABLE scratch (a UInt8)")
	}
	for range 8 {
		if got := queryOne[string](t, conn, "SELECT currentDatabase()"); got != mine {
			t.Fatalf("current database = %s, want %s", got, mine)
		}
		if got := queryOne[uint64](t, conn, "SELECT toUInt64(getSetting('max_block_size'))"); got == 77 {
			t.Fatal("SET outlives its request")
		}
		if err := conn.Exec(t.Context(), "SELECT * FROM scratch"); err == nil {
			t.Fatal("temporary table outlives its request")
		}
	}
}

// TestEngine_schemasInTurn would fail if the engine cached the schema of a request's rows under their path, which repeats.
func TestEngine_schemasInTurn(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := newDatabase(t, engine)
	mustExec(t, conn, "CREATE TABLE a (x UInt8) ENGINE = MergeTree ORDER BY x")
	mustExec(t, conn, "CREATE TABLE b (s String, y UInt64) ENGINE = MergeTree ORDER BY y")
	for i := range 20 {
		insertRows(t, conn, "INSERT INTO a (x)", []any{uint8(i)})
		insertRows(t, conn, "INSERT INTO b (s, y)", []any{"s", uint64(i)}, []any{"t", uint64(i)})
	}
	if a, b := queryOne[uint64](t, conn, "SELECT count() FROM a"), queryOne[uint64](t, conn, "SELECT sum(y) FROM b"); a != 20 || b != 2*190 {
		t.Errorf("count(a) = %d, sum(b.y) = %d, want 20 and 380", a, b)
	}
}

func TestEngine_concurrent(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := newDatabase(t, engine)
	mustExec(t, conn, "CREATE TABLE t (w UInt32, i UInt32) ENGINE = MergeTree ORDER BY (w, i)")
	var wg sync.WaitGroup
	for w := range uint32(8) {
		wg.Go(func() {
			for i := range uint32(10) {
				insertRows(t, conn, "INSERT INTO t (w, i)", []any{w, i})
				var n uint64
				if err := conn.QueryRow(t.Context(), "SELECT count() FROM t WHERE w = ?", w).Scan(&n); err != nil || n != uint64(i)+1 {
					t.Errorf("writer %d sees %d rows after %d inserts: %v", w, n, i+1, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestEngine_largeResult(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := open(t, engine, "")
	const rows = 1_000_000 // in many blocks
	r, err := conn.Query(t.Context(), "SELECT number, repeat('x', 20) FROM numbers(?)", rows)
	if err != nil {
		t.Fatalf("Query: %v", err)
	}
	defer r.Close()
	var n, sum, want uint64
	var s string
	for i := uint64(0); r.Next(); i++ {
		if err := r.Scan(&n, &s); err != nil {
			t.Fatalf("Scan: %v", err)
		}
		sum, want = sum+n, want+i
	}
	if err := r.Err(); err != nil || sum != want || sum != rows*(rows-1)/2 {
		t.Errorf("sum = %d, want %d, error %v", sum, uint64(rows*(rows-1)/2), err)
	}
}

// TestEngine_sparseResult makes the engine produce blocks without rows between blocks with some: they must not end the answer.
func TestEngine_sparseResult(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := open(t, engine, "")
	var got []uint64
	if err := conn.Select(t.Context(), &[]struct {
		N uint64 `ch:"n"`
	}{}, "SELECT number AS n FROM numbers(10)"); err != nil {
		t.Fatal(err)
	}
	rows, err := conn.Query(t.Context(), "SELECT number FROM numbers(20000000) WHERE number % 4000000 = 0 ORDER BY number")
	if err != nil {
		t.Fatalf("Query: %v", err)
	}
	defer rows.Close()
	for rows.Next() {
		var n uint64
		if err := rows.Scan(&n); err != nil {
			t.Fatalf("Scan: %v", err)
		}
		got = append(got, n)
	}
	if diff := cmp.Diff([]uint64{0, 4e6, 8e6, 12e6, 16e6}, got); diff != "" || rows.Err() != nil {
		t.Errorf("rows (-want +got):\n%s%v", diff, rows.Err())
	}
	count := 0
	unordered, err := conn.Query(t.Context(), "SELECT number FROM numbers(20000000) WHERE number % 1000000 = 999999 SETTINGS max_threads = 1")
	if err != nil {
		t.Fatalf("Query: %v", err)
	}
	defer unordered.Close()
	for unordered.Next() {
		count++
	}
	if count != 20 || unordered.Err() != nil {
		t.Errorf("unordered: %d rows, want 20: %v", count, unordered.Err())
	}
}

func TestEngine_errorInMidStream(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := open(t, engine, "")
	rows, err := conn.Query(t.Context(), "SELECT throwIf(number = 2000000, 'planned') FROM numbers(3000000) SETTINGS max_threads = 1")
	if err != nil {
		t.Fatalf("Query: %v, want the error after rows", err)
	}
	n := 0
	for rows.Next() {
		n++
	}
	var ex *clickhouse.Exception
	if err := rows.Err(); !errors.As(err, &ex) || ex.Code != 395 || !strings.Contains(ex.Message, "planned") {
		t.Errorf("after %d rows: %v, want code 395", n, err)
	}
	_ = rows.Close()
}

func TestEngine_emptyResult(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := open(t, engine, "")
	err := conn.QueryRow(t.Context(), "SELECT number FROM numbers(0)").Scan(new(uint64))
	if err == nil || !strings.Contains(err.Error(), "no rows") {
		t.Errorf("QueryRow without rows = %v, want no rows", err)
	}
	rows, err := conn.Query(t.Context(), "SHOW TABLES FROM system LIKE 'nothing'")
	if err != nil {
		t.Fatalf("Query: %v", err)
	}
	if rows.Next() || rows.Err() != nil {
		t.Errorf("rows of nothing: %v", rows.Err())
	}
	_ = rows.Close()
}

func TestEngine_databaseMissing(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := open(t, engine, "no such `database`")
	var ex *clickhouse.Exception
	if err := conn.Exec(t.Context(), "SELECT 1"); !errors.As(err, &ex) || ex.Code != 81 {
		t.Errorf("Exec = %v, want code 81", err)
	}
}

func TestEngine_noLogTables(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := open(t, engine, "")
	_ = conn.Exec(t.Context(), "SYSTEM FLUSH LOGS")
	if n := queryOne[uint64](t, conn, "SELECT count() FROM system.tables WHERE database = 'system' AND name LIKE '%\\_log'"); n != 0 {
		t.Errorf("the engine keeps %d log tables that grow without bound", n)
	}
}

func TestEngine_fsyncDefaults(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := open(t, engine, "")
	for _, name := range []string{"fsync_after_insert", "fsync_part_directory", "min_compressed_bytes_to_fsync_after_merge"} {
		if got := queryOne[string](t, conn, "SELECT value FROM system.merge_tree_settings WHERE name = ?", name); got != "1" {
			t.Errorf("%s = %s, want 1", name, got)
		}
	}
}

func TestEngine_clientLeaves(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := open(t, engine, "")
	mark := fmt.Sprintf("left-%d", engine.PID())
	running := func() uint64 {
		return queryOne[uint64](t, conn, "SELECT count() FROM system.processes WHERE query LIKE ? AND query NOT LIKE '%system.processes%'", "%"+mark+"%")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	// More than the engine has connections: all of them must come back.
	for range 12 {
		wg.Go(func() {
			other := open(t, engine, "")
			err := other.Exec(ctx, "SELECT count(), '"+mark+"' FROM numbers(1000000000000) WHERE sipHash64(number) = 1")
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Exec = %v, want %v", err, context.Canceled)
			}
		})
	}
	probe, err := clickhouse.Open(engine.ClientOptions(""))
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	// All connections are busy, but the health probe is answered.
	eventually(t, 20*time.Second, "a query is running", func() bool { return pingHTTP(t, engine) })
	cancel()
	wg.Wait()
	eventually(t, 20*time.Second, "the engine dropped the queries", func() bool { return running() == 0 })
}
