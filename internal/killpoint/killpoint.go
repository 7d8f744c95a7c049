// Package killpoint marks the places at which a crash is worth trying: before and after each step that makes something
// durable, and before and after each send. In a usual build [Hit] is empty and costs nothing. In a build with the tag
// killpoints the environment variable METERD_KILL_AT chooses where the process ends itself with SIGKILL, as a power cut
// or the kernel's memory killer would:
//
//	METERD_KILL_AT=commit.before:3                   at the third hit of commit.before
//	METERD_KILL_AT=push.before:1,push.after:2        at whichever comes first
//	METERD_KILL_AT=random:42:0.01                    at each hit of any point with a chance of 1 %, from seed 42
//
// The last thing that such a process writes to standard error is a line "killpoint NAME". A wrong value ends it with exit
// code 2 at the first hit. The engine's child process inherits the variable; points of its own begin with "engine.".
package killpoint

import (
	"slices"
)

// Names lists every point of the program, sorted. A test checks that it is complete, and the kill loop of internal/e2e
// that each of them is reached.
func Names() []string { return slices.Clone(names[:]) }
