// Package store keeps usage events and the books in ClickHouse: one SQL code path through clickhouse-go for every server
// from 18.16 (native protocol) to the embedded engine (HTTP over a unix socket).
//
// [Store] implements the interfaces that packages meter and reporter declare. Its tables are described in
// docs/formats/tables.md, the choice of their layout in docs/adr/0004-event-table-layout.md and the SQL subset in
// docs/adr/0002-portable-sql.md.
//
// Invariants:
//
//   - An event counts once per (subject, hour, source, id), whatever the number of inserts and whether the engine has
//     merged its parts or not. Of several contents under one key, the one received first counts; the others stay in the
//     table and are listed by [Store.Conflicts].
//   - Every reader of events uses the same rule, built in one place (counted.go).
//   - Rows of the books count only under the version of a committed booking (docs/adr/0009-log-of-bookings.md).
//   - What happens to an hour that ended is stored first and announced by a touch then, before anybody forgets it: an hour
//     without uncovered touches is booked as it is stored.
//   - Quantities are Decimal(38,18) in SQL and [meter.Quantity] in Go; no float touches one.
//   - Every time of day is UTC: DateTime('UTC') for hours, nanoseconds since 1970 for instants.
//   - Text from outside reaches SQL only as a quoted literal (sql.go) or inside a binary block.
package store
