// Package embedded runs ClickHouse inside meterd's own installation: the engine's shared library (libchdb) is
// loaded by a child process that serves the part of ClickHouse's HTTP interface clickhouse-go needs, on a unix
// socket in the data directory.
//
// The package has two halves, one for each process:
//
//   - Serve is the child. It holds the lock of the data directory, owns a pool of engine connections and answers
//     requests until its context ends or its parent disappears.
//   - Start and Engine are the parent. They start the child, wait until it answers, start it again after a crash,
//     and hand out connections to its socket.
//
// Invariants:
//
//   - At most one engine works on a data directory (flock on engine.lock).
//   - An insert is answered with 200 only after the engine wrote at least as many rows as the request carried and
//     the new part, its directory entry and the table's directory are on disk.
//   - A request whose client went away is killed inside the engine; a query that cannot be killed ends the child,
//     because a fresh engine is better than one that loses a connection for ever.
//   - Nothing the engine does can take the daemon down: it is another process.
//
// A body of FORMAT Native never travels inside the SQL text: the engine's C interface cuts inline data at the
// first newline byte. It goes to an anonymous file that the engine reads through its file() table function.
package embedded

// Version is the release of the engine's library this package is written and tested against.
const Version = "26.5.3"
