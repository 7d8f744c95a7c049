package meter

import "github.com/meterd/meterd/meter/spool"

// Position is a place in the spool, opaque to everybody but the spool. Positions are ordered.
type Position = spool.Position
