package main

import (
	"testing"

	"github.com/meterd/meterd/internal/config"
)

// TestMemoryGoal keeps the goal below what a closing daemon may use, and in step with what the loader holds.
func TestMemoryGoal(t *testing.T) {
	t.Parallel()
	cfg := config.Default()
	usual := memoryGoal(cfg)
	if usual < 300e6 || usual > 450e6 {
		t.Errorf("memoryGoal by default = %d, want room for two batches and less than 450 MB", usual)
	}
	cfg.Loader.BatchEvents = 1000
	if small := memoryGoal(cfg); small != usual {
		t.Errorf("memoryGoal with small batches = %d, want %d: an answer may need as much", small, usual)
	}
	cfg.Loader.BatchEvents, cfg.Loader.Inserters = 500_000, 4
	if large := memoryGoal(cfg); large < 2_500e6 {
		t.Errorf("memoryGoal with 4 batches of 500,000 = %d: the collector would never rest", large)
	}
}
