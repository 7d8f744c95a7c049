// Package simulation runs the books through random histories in virtual time. It holds tests only.
//
// A world has usage events on their way through a spool into the reference books, one or two daemons (the real closer,
// reporter and service loop, with the real KooGallery client) and the real marketplace sandbox, whose handler is called
// without a network. Everything that happens is drawn from a seed: late events, duplicates, conflicts, voids, lives of
// instances, decisions of people, outages, lost answers, and processes that end at any call. Tasks take turns, one at a time,
// at the calls of the books, of the marketplace and of the clock, so that one seed gives one history.
//
// What is checked is computed here from what was sent and written, not by the code under test: the law of conservation after
// each booking, the marketplace's rules at each call, and at the end that every accepted event is accounted for and that the
// sandbox's books equal ours, record by record.
//
//	go test ./internal/simulation -run 'Simulation/seed=17$'   # one seed, with its history when it fails
//	go test ./internal/simulation -run Soak -simulation.soak=10m
package simulation
