// Package storetest is the conformance suite of package store, and starts the real engines it runs on.
//
// [Run] runs every test on one engine. The suite also writes down what the store answered; [Run] compares that with
// testdata/results.golden, one file for all engines, so that two engines that both pass gave the same answers. Run the
// tests with -update to write the file anew.
//
// [StartServer] starts a clickhouse-server of the machine, [StartEngine] the embedded engine. Without them tests are
// skipped, or fail when METERD_REQUIRE_ENGINES=1 declares them required.
package storetest
