// Package e2e holds the tests of the built program: daemon, embedded engine, marketplace sandbox and ClickHouse server run
// as processes of their own, are killed, filled up, stopped and cut off, and are spoken to as their users do, over HTTP and
// by the command line. docs/reliability.md says what is tested how.
//
// METERD_BINARY names the program; without it the tests build it once. Engines and tools that are missing make tests skip
// with the reason, or fail when METERD_REQUIRE_ENGINES=1. Random choices come from a seed that is printed; METERD_TEST_SEED
// repeats a run's choices (not its timing).
package e2e
