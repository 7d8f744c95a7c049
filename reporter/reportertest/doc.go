// Package reportertest holds what tests of the books need: [Books], a correct reference implementation of the ledger in
// memory that also checks every rule of the contract and can fail on purpose; [Marketplace], a marketplace with a script
// and a memory; and [Clock], a clock that only moves when somebody waits.
//
// Nothing here is meant for production. The types are safe for concurrent use.
package reportertest
