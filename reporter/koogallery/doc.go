// Package koogallery pushes usage records to KooGallery, Huawei Cloud's marketplace. Its wire names stay in here; the
// rest of meterd knows [reporter.Marketplace] only.
//
// [New] builds a [Client] from [Options]. [Sign] is the signature of the new usage push, [SDKSigner] the AK/SK signature
// of the old one and of KooGallery's other open APIs.
//
// Invariants:
//
//   - The bytes of a record depend on the record alone, so a retry carries the same records byte for byte. Only the
//     headers ts, nonce and signature are made afresh for every attempt.
//   - What was signed is what is transmitted.
//   - A request is never transmitted twice behind the caller's back. The HTTP transport is kept from repeating a request
//     by itself, and a call is made a second time only where provably nothing was taken: before a connection existed, on
//     a connection that carried not one byte of the request, or after the answer "signature refused".
//   - An answer counts as success only with an explicit success code.
//   - Keys and signatures never appear in results, errors or logs.
package koogallery
