package store

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

// On a cluster, a subquery over a sharded table inside a query of another is refused unless it says GLOBAL.
func TestExceptions_GlobalOnACluster(t *testing.T) {
	t.Parallel()
	from := time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)
	e := exceptions{
		scope: scope{from: from, to: from.Add(time.Hour)}, lookback: 24 * time.Hour, global: "GLOBAL ", conflicts: 1, repeats: 1,
	}
	subquery := regexp.MustCompile(`\S+ (NOT )?IN \(SELECT`)
	found := subquery.FindAllString(strings.Join(e.conditions(), " AND "), -1)
	if len(found) != 5 {
		t.Errorf("subqueries = %q, want 5", found)
	}
	for _, text := range found {
		if !strings.HasPrefix(text, "GLOBAL ") {
			t.Errorf("subquery without GLOBAL: %s", text)
		}
	}
}
