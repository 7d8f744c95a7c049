package embedded_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/meterd/meterd/store/embedded"
)

func insertRows(tb testing.TB, conn driver.Conn, sql string, rows ...[]any) {
	tb.Helper()
	batch, err := conn.PrepareBatch(tb.Context(), sql)
	if err != nil {
		tb.Errorf("PrepareBatch: %v", err)
		return
	}
	for _, row := range rows {
		if err := batch.Append(row...); err != nil {
			tb.Errorf("Append: %v", err)
			return
		}
	}
	if err := batch.Send(); err != nil {
		tb.Errorf("Send: %v", err)
	}
}

func TestEngine_inlineInserts(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := newDatabase(t, engine)
	mustExec(t, conn, "CREATE TABLE t (id UInt32, s String) ENGINE = MergeTree ORDER BY id")
	mustExec(t, conn, "INSERT INTO t (id, s) VALUES (?, ?), (?, ?)", 1, "a\nb;c", 2, "'; --")
	mustExec(t, conn, "INSERT INTO t (id, s) VALUES (3, 'x\ny'),\n(4, 'z')")
	mustExec(t, conn, "INSERT INTO t (id, s) SELECT id + 10, s FROM t")
	if got := queryOne[uint64](t, conn, "SELECT sum(id) FROM t"); got != 10+50 {
		t.Errorf("sum(id) = %d, want 60", got)
	}
	if got := queryOne[string](t, conn, "SELECT s FROM t WHERE id = 1"); got != "a\nb;c" {
		t.Errorf("s = %q", got)
	}
}

// TestEngine_materializedView shows that rows written into views do not disturb the comparison with rows sent.
func TestEngine_materializedView(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := newDatabase(t, engine)
	mustExec(t, conn, "CREATE TABLE t (id UInt32) ENGINE = MergeTree ORDER BY id")
	mustExec(t, conn, "CREATE TABLE even (id UInt32) ENGINE = MergeTree ORDER BY id")
	mustExec(t, conn, "CREATE MATERIALIZED VIEW v TO even AS SELECT id FROM t WHERE id % 2 = 0")
	insertRows(t, conn, "INSERT INTO t (id)", []any{uint32(1)}, []any{uint32(2)})
	if got := queryOne[uint64](t, conn, "SELECT count() FROM even"); got != 1 {
		t.Errorf("count(even) = %d, want 1", got)
	}
}

func TestEngine_badInserts(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := newDatabase(t, engine)
	mustExec(t, conn, "CREATE TABLE t (id UInt32, s String) ENGINE = MergeTree ORDER BY id")
	mustExec(t, conn, "CREATE TABLE strict (id UInt32, CONSTRAINT small CHECK id < 10) ENGINE = MergeTree ORDER BY id")
	batch, err := conn.PrepareBatch(t.Context(), "INSERT INTO strict (id)")
	if err != nil {
		t.Fatalf("PrepareBatch: %v", err)
	}
	for _, id := range []uint32{1, 99} {
		if err := batch.Append(id); err != nil {
			t.Fatalf("Append: %v", err)
		}
	}
	var ex *clickhouse.Exception
	if err := batch.Send(); !errors.As(err, &ex) || ex.Code != 469 {
		t.Errorf("Send of a row against the constraint = %v, want code 469", err)
	}
	database := queryOne[string](t, conn, "SELECT currentDatabase()")
	url := "/?default_format=Native&database=" + database + "&query=" + "INSERT+INTO+t+(id,s)+FORMAT+"
	for name, tc := range map[string]struct {
		url, body string
		status    int
		want      string
	}{
		"no body":          {url + "Native", "", 400, "without rows"},
		"not native":       {url + "Native", "\x00\x00", 400, "not in FORMAT Native"},
		"cut in the head":  {url + "Native", "\x02\xff", 400, "no row count"},
		"cut in a column":  {url + "Native", "\x02\x02\x02id\x06UInt32\x01\x00", 500, "Code:"},
		"cut after column": {url + "Native", "\x02\x01\x02id\x06UInt32\x01\x00\x00\x00", 500, "Code:"},
		"fewer columns":    {url + "Native", "\x01\x01\x02id\x06UInt32\x01\x00\x00\x00", 400, "2 columns"},
		"other name":       {url + "Native", "\x02\x01\x02id\x06UInt32\x01\x00\x00\x00\x01r\x06String\x01x", 500, "Code: 47."},
		"other type":       {url + "Native", "\x02\x01\x02id\x06String\x01x\x01s\x06String\x01x", 500, "Code:"},
		"unknown type":     {url + "Native", "\x02\x01\x02id\x06NoType\x01\x00\x00\x00", 500, "Code:"},
		"other format":     {url + "TSV", "1\tx\n", 400, "only Native"},
		"garbage":          {url + "Native", "\x02\x01" + strings.Repeat("\xfe\x01garbage", 1000), 500, "Code:"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			status, answer := post(t, engine, tc.url, tc.body)
			if status != tc.status || !strings.Contains(answer, tc.want) {
				t.Errorf("status %d %.300q, want %d with %q", status, answer, tc.status, tc.want)
			}
		})
	}
	if got := queryOne[uint64](t, conn, "SELECT (SELECT count() FROM t) + (SELECT count() FROM strict)"); got != 0 {
		t.Errorf("%d rows were stored, want none", got)
	}
	// Two blocks in one body, as a client other than clickhouse-go may send them.
	block := "\x02\x01\x02id\x06UInt32\x01\x00\x00\x00\x01s\x06String\x01x"
	if status, answer := post(t, engine, url+"Native", block+block); status != 200 {
		t.Errorf("two blocks: status %d %q", status, answer)
	}
	if got := queryOne[uint64](t, conn, "SELECT count() FROM t"); got != 2 {
		t.Errorf("%d rows of two blocks, want 2", got)
	}
}

// TestEngine_largeInsert passes the size at which bodies move from memory to disk.
func TestEngine_largeInsert(t *testing.T) {
	t.Parallel()
	engine := shared(t)
	conn := newDatabase(t, engine)
	mustExec(t, conn, "CREATE TABLE t (id UInt64, s String) ENGINE = MergeTree ORDER BY id")
	batch, err := conn.PrepareBatch(t.Context(), "INSERT INTO t (id, s)")
	if err != nil {
		t.Fatalf("PrepareBatch: %v", err)
	}
	const rows = 200_000
	text := strings.Repeat("\ny", 200)
	ids := make([]uint64, rows)
	texts := make([]string, rows)
	for i := range ids {
		ids[i], texts[i] = uint64(i), text
	}
	if err := errors.Join(batch.Column(0).Append(ids), batch.Column(1).Append(texts)); err != nil {
		t.Fatalf("Append: %v", err)
	}
	if err := batch.Send(); err != nil {
		t.Fatalf("Send: %v", err)
	}
	if got := queryOne[uint64](t, conn, "SELECT sum(id) FROM t WHERE length(s) = 400"); got != rows*(rows-1)/2 {
		t.Errorf("sum(id) = %d, want %d", got, uint64(rows*(rows-1)/2))
	}
}

func TestInsertLimit(t *testing.T) {
	t.Parallel()
	engine := start(t, embedded.Options{MaxInsertBytes: 100_000, NoFsync: true})
	conn := newDatabase(t, engine)
	mustExec(t, conn, "CREATE TABLE t (s String) ENGINE = MergeTree ORDER BY s")
	send := func(size int) error {
		batch, err := conn.PrepareBatch(t.Context(), "INSERT INTO t (s)")
		if err != nil {
			return err
		}
		return errors.Join(batch.Append(strings.Repeat("x", size)), batch.Send())
	}
	if err := send(99_000); err != nil {
		t.Errorf("below the limit: %v", err)
	}
	var ex *clickhouse.Exception
	if err := send(100_001); !errors.As(err, &ex) || ex.Code != 307 {
		t.Errorf("above the limit: %v, want code 307", err)
	}
	if got := queryOne[uint64](t, conn, "SELECT count() FROM t"); got != 1 {
		t.Errorf("%d rows, want 1", got)
	}
}
