package store

// Parts of Commit, for tests of what happens between them.
var (
	TakeNumber   = (*Store).take
	FinishCommit = (*Store).finish
)
