// Package reporter keeps the books and reports usage to the marketplace: it closes hour windows, writes hourly usage and
// bill records to a ledger before anything is sent, delivers them on schedule behind a circuit breaker, and records
// every transition of a bill record as an appended row.
//
// Marketplaces are reached through [Marketplace], the store through [Ledger]; wire names live in the marketplace's own
// package (reporter/koogallery), SQL lives in the store's.
package reporter
