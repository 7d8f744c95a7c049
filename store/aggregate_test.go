package store

import (
	"errors"
	"testing"

	"github.com/shopspring/decimal"

	"github.com/meterd/meterd/meter"
)

// A sum wraps around silently at both ends of its type.
func TestAggregates_Overflow(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		whole    string
		count    uint64
		overflow bool
	}{
		"far below":      {"1000", 3, false},
		"just below":     {"99999999999999999996", 3, false},
		"at the limit":   {"99999999999999999997", 3, true},
		"negative below": {"-99999999999999999996", 3, false},
		"negative":       {"-99999999999999999997", 3, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := aggregates{whole: decimal.RequireFromString(tt.whole), count: tt.count}
			if _, err := g.of(meter.Sum); errors.Is(err, ErrOverflow) != tt.overflow {
				t.Errorf("of(Sum) = %v, want ErrOverflow: %v", err, tt.overflow)
			}
		})
	}
}
