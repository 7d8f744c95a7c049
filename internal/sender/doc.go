// Package sender reads usage events from files and sends them to a meterd daemon in batches.
//
// A [Source] gives events one by one: [CSVSource] maps the rows of a table, [JSONSource] reads CloudEvents as an object, an
// array or NDJSON, [FileSource] opens files and picks one of the two. [Send] batches a source's events and posts them.
//
// Invariants:
//
//   - Memory is bounded by batches and the largest event, whatever the size of the input.
//   - An event has the same id whenever the same input is sent with the same mapping, and a batch is repeated with
//     identical bytes. So anything can be sent again: the daemon counts each event once.
//   - Nothing is skipped: the first event that can't be read, or that the daemon refuses, ends the sending with an error
//     that names its file and line.
package sender
