// Package sandbox simulates the marketplace side of KooGallery's usage reporting: the usage-data API in its new form
// (HMAC-signed body) and its old form (AK/SK), the background validation of what was uploaded, the duplicate rules and
// the collection into bills. It serves demonstrations, integration tests, and vendors before they go live.
//
// The main types are [Sandbox], an http.Handler with an in-process API, [Options], [Record] and [Fault].
//
// Invariants:
//
//   - The package shares no code with the client: it imports neither meter nor reporter, and has its own signature,
//     number and time code, so that a mistake in one of them shows up as a disagreement.
//   - No record is forgotten once its upload was answered (or was accepted and the answer dropped); with a state log
//     it also survives the process.
//   - Correctness needs no timer. State advances to the clock on every request and on [Sandbox.Advance], and the
//     result does not depend on how often that happens.
//   - A collected record never changes.
//
// Where the published pages leave something open, the choice made here is written beside the code and in
// docs/sandbox.md.
package sandbox
