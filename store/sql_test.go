package store

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/shopspring/decimal"
	"pgregory.net/rapid"

	"github.com/meterd/meterd/meter"
)

// This file tests unexported functions: quoting and encoding are where a fault would be silent.

// unquote reads a string literal as ClickHouse's lexer does, strictly.
func unquote(literal string) (string, error) {
	body, ok := strings.CutPrefix(literal, "'")
	if !ok {
		return "", errors.New("no opening quote")
	}
	var out strings.Builder
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case c == '\'':
			if i != len(body)-1 {
				return "", fmt.Errorf("literal ends at %d of %d", i, len(body))
			}
			return out.String(), nil
		case c == '\\':
			var b byte
			if _, err := fmt.Sscanf(body[i:min(i+4, len(body))], `\x%02x`, &b); err != nil {
				return "", fmt.Errorf("escape at %d: %w", i, err)
			}
			out.WriteByte(b)
			i += 3
		case c < 0x20 || c == 0x7f:
			return "", fmt.Errorf("bare control byte at %d", i)
		default:
			out.WriteByte(c)
		}
	}
	return "", errors.New("no closing quote")
}

func FuzzQuote(f *testing.F) {
	for _, seed := range []string{"", "'", `\`, `\'`, "a\x00b", "\n", "名前", "\xff", "'; DROP TABLE x; --"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := unquote(quote(text))
		if err != nil || got != text {
			t.Errorf("quote(%q) = %s, which reads as %q, %v", text, quote(text), got, err)
		}
	})
}

func TestDecimalColumn(t *testing.T) {
	t.Parallel()
	check := func(t interface {
		Helper()
		Errorf(format string, args ...any)
	}, q meter.Quantity,
	) {
		t.Helper()
		var c columnData
		if err := c.decimal(q); err != nil {
			t.Errorf("decimal(%s): %v", q, err)
			return
		}
		n := new(big.Int)
		for _, b := range slices.Backward(c.buf) {
			n.Lsh(n, 8).Or(n, big.NewInt(int64(b)))
		}
		if n.Bit(127) == 1 {
			n.Sub(n, new(big.Int).Lsh(big.NewInt(1), 128))
		}
		if got := decimal.NewFromBigInt(n, -18); len(c.buf) != 16 || !got.Equal(q.Decimal()) {
			t.Errorf("decimal(%s) = % x, which is %s", q, c.buf, got)
		}
	}
	for _, text := range []string{
		"0", "1", "-1", "0.000000000000000001", "-0.000000000000000001", "999999999999999.999999999999999999", "1e3", "1e19", "0e50",
		"99999999999999999999.999999999999999999", "-99999999999999999999.999999999999999999", "123456789012345678", "0.100000000000000000000",
	} {
		d, err := decimal.NewFromString(text)
		if err != nil {
			t.Fatal(err)
		}
		check(t, meter.QuantityFromDecimal(d))
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, meter.NewQuantity(rapid.Int64().Draw(t, "mantissa"), int32(rapid.IntRange(-18, 1).Draw(t, "exponent"))))
	})
	for _, text := range []string{"1e20", "-1e20", "1e-19", "1e9999", "1e-9999", "100000000000000000000"} {
		d, err := decimal.NewFromString(text)
		if err != nil {
			t.Fatal(err)
		}
		var c columnData
		if err := c.decimal(meter.QuantityFromDecimal(d)); !errors.Is(err, errQuantity) || len(c.buf) != 0 {
			t.Errorf("decimal(%s) = %v with %d bytes, want a refusal", text, err, len(c.buf))
		}
	}
}

// TestLocalDay compares the SQL expression's branches with Go's calendar around every change of a zone's offset.
func TestLocalDay(t *testing.T) {
	t.Parallel()
	from, to := time.Date(2025, 12, 1, 0, 0, 0, 0, time.UTC), time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC)
	for _, name := range []string{"UTC", "Asia/Shanghai", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"} {
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		expression := localDay(zone, from, to)
		changes := strings.Count(expression, "time <")
		want := 0
		for at := from; at.Before(to); at = at.Add(time.Hour) {
			_, a := at.In(zone).Zone()
			_, b := at.Add(time.Hour).In(zone).Zone()
			if a != b {
				want++
			}
		}
		if changes != want {
			t.Errorf("localDay(%s) has %d changes of offset, want %d: %s", name, changes, want, expression)
		}
	}
}

func TestClassify(t *testing.T) {
	t.Parallel()
	for code, refused := range map[int32]bool{
		407: true, 69: true, // the rows' own fault
		60: false, 241: false, 252: false, 159: false, 164: false, 210: false, 242: false, 16: false, // a table, memory, parts, time, read only, network
	} {
		err := classify(fmt.Errorf("send: %w", &clickhouse.Exception{Code: code}))
		if got := errors.Is(err, meter.ErrRefused); got != refused {
			t.Errorf("classify(code %d) is refused: %v, want %v", code, got, refused)
		}
	}
}

func TestConfigFaults(t *testing.T) {
	t.Parallel()
	_, err := Config{Addrs: []string{"nowhere"}, Database: "a b", Cluster: "c;d", MaxConns: 1, StampedLookback: -1}.withDefaults()
	if err == nil {
		t.Fatal("withDefaults accepted a faulty configuration")
	}
	for _, part := range []string{"addrs", "database", "cluster", "max conns", "stamped lookback", "now and logger"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error does not name %s: %v", part, err)
		}
	}
	if _, err := (Config{}).withDefaults(); err == nil || !strings.Contains(err.Error(), "addrs: is required") {
		t.Errorf("withDefaults of nothing = %v", err)
	}
}

// TestClusterMigrations shows what the templates say to a cluster.
func TestClusterMigrations(t *testing.T) {
	t.Parallel()
	s := &Store{cfg: Config{Cluster: "main", Database: "meterd"}, version: Version{24, 8, 0}}
	migrations, err := loadMigrations()
	if err != nil {
		t.Fatal(err)
	}
	statements, err := s.expand(migrations[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(statements) != 2 {
		t.Fatalf("expand made %d statements, want 2: %q", len(statements), statements)
	}
	for _, part := range []string{
		"usage_events_local ON CLUSTER main (", "ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/meterd/{table}', '{replica}', version)", "CODEC(T64, LZ4)",
	} {
		if !strings.Contains(statements[0], part) {
			t.Errorf("statement lacks %q:\n%s", part, statements[0])
		}
	}
	want := "CREATE TABLE IF NOT EXISTS usage_events ON CLUSTER main AS usage_events_local ENGINE = Distributed(main, meterd, usage_events_local, cityHash64(subject))"
	if diff := cmp.Diff(want, statements[1]); diff != "" {
		t.Errorf("distributed table (-want +got):\n%s", diff)
	}
	// Every statement may be run again, on every kind of server.
	for _, s := range []*Store{s, {version: Version{18, 16, 1}}} {
		for _, m := range migrations {
			statements, err := s.expand(m)
			if err != nil {
				t.Fatal(err)
			}
			for _, statement := range statements {
				if !strings.HasPrefix(statement, "CREATE TABLE IF NOT EXISTS ") {
					t.Errorf("%s: statement can't be run again: %.80s", m.name, statement)
				}
				if !s.version.AtLeast(20, 1) && strings.Contains(statement, "CODEC") {
					t.Errorf("%s: codec for an old server", m.name)
				}
			}
		}
	}
}

// TestFillColumns_Length proves that a column can't take bytes of another one.
func TestFillColumns_Length(t *testing.T) {
	t.Parallel()
	numbers := newTable("t", "a", "UInt64", "b", "String")
	for name, tc := range map[string]struct {
		fill func(d []columnData)
		want string
	}{
		"exact": {func(d []columnData) { d[0].uint64(1); d[0].uint64(2); d[1].string("x"); d[1].string("") }, ""},
		"short": {func(d []columnData) { d[0].uint64(1); d[1].string("x"); d[1].string("y") }, "encode column a"},
		"long": {func(d []columnData) {
			d[0].uint64(1)
			d[0].uint64(2)
			d[0].uint8(3)
			d[1].string("x")
			d[1].string("y")
		}, "encode column a: it has more bytes"},
		"last": {func(d []columnData) {
			d[0].uint64(1)
			d[0].uint64(2)
			d[1].string("x")
			d[1].string("y")
			d[1].uint8(0)
		}, "encode column b: it has more bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 3 {
				data := make([]columnData, 2)
				tc.fill(data)
				err := fillColumns(newColumns(t, numbers), 2, func(i int, scratch *columnData) ([]byte, error) {
					if len(scratch.buf) != 0 {
						t.Error("the scratch space has bytes of another column")
					}
					scratch.fixed(data[i].buf)
					return scratch.buf, nil
				})
				if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
					t.Errorf("fillColumns = %v, want %q", err, tc.want)
				}
			}
		})
	}
}
