package store

import "context"

// Parts of Commit, for tests of what happens between them.
var (
	TakeNumber   = (*Store).take
	FinishCommit = (*Store).finish
)

// Exec executes a statement, for tests that damage the tables.
func Exec(ctx context.Context, s *Store, statement string) error { return s.conn.Exec(ctx, statement) }
