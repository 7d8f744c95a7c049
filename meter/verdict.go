package meter

import (
	"bytes"
	"hash/maphash"
	"time"
)

// Status is what became of one event of a request.
type Status uint8

// Statuses.
const (
	// StatusRefused: good, but refused together with others of its request that were bad: not stored.
	StatusRefused Status = iota
	// StatusRejected: bad; see the problem with its index. Not stored.
	StatusRejected
	// StatusAccepted: durable.
	StatusAccepted
	// StatusDuplicate: durable, but the same as an earlier event of this request: it counts once.
	StatusDuplicate
	// StatusConflict: durable, but an earlier event of this request has the same subject, source and id and other content.
	// The store decides which counts: the first, if both belong to one hour.
	StatusConflict
	// StatusWithoutMeter: durable, but no meter has its type; kept so that a later meter can count it.
	StatusWithoutMeter
)

// String is the name used in the API. An event without a meter is accepted like any other.
func (s Status) String() string {
	switch s {
	case StatusRefused:
		return "refused"
	case StatusRejected:
		return "rejected"
	case StatusAccepted, StatusWithoutMeter:
		return "accepted"
	case StatusDuplicate:
		return "duplicate"
	case StatusConflict:
		return "conflict"
	}
	return "unknown"
}

// Verdicts are the answer to a batch. They belong to the Batch and are valid until it is released.
type Verdicts struct {
	// Statuses has one entry for each event of the request, by its index.
	Statuses []Status
	// Problems are those of the batch and those found here, by Index.
	Problems []Problem
	// Stored says that the accepted events are durable. It is false if the request was refused as a whole or had no
	// good event.
	Stored bool
	// Accepted counts the events that are durable, of whatever status. Duplicates, Conflicts, WithoutMeter and Stamped
	// (came without a time) are parts of it. Rejected counts the bad events and Refused the good ones that were not
	// stored because of them.
	Accepted, Duplicates, Conflicts, WithoutMeter, Stamped, Rejected, Refused int
	// Position is where the events are in the spool; for [Confirmer.WaitConfirmed].
	Position Position
	// ReceivedAt is the time of receipt of the first event.
	ReceivedAt time.Time
}

// scratch is what Accept needs for one batch, reused with it.
type scratch struct {
	statuses  []Status
	extractor *Extractor
	payload   []byte
	table     []dedupeSlot
	seed      maphash.Seed // drawn at random, so that nobody can choose ids that collide
	seeded    bool
}

func (v *scratch) begin(b *Batch, c *Catalog) {
	v.statuses = growTo(v.statuses, b.Total)
	if v.extractor == nil || v.extractor.catalog != c {
		v.extractor = c.NewExtractor()
	}
}

// release drops references into the batch's body and what is too large to keep.
func (v *scratch) release() {
	if v.extractor != nil {
		v.extractor.x.data = nil
	}
	if cap(v.payload) > keepCapacity {
		v.payload = nil
	}
}

// dedupeSlot is one entry of the hash table of a batch's identities. index is that of the event + 1, 0 if free.
type dedupeSlot struct {
	hash  uint32
	index int32
}

// findDuplicates marks events that share subject, source and id with an earlier one of the batch. Both are stored
// nevertheless: only the store may decide what counts.
func (b *Batch) findDuplicates() {
	if len(b.Events) < 2 {
		return
	}
	v := &b.verdict
	if !v.seeded {
		v.seed, v.seeded = maphash.MakeSeed(), true
	}
	size := 4
	for size < 2*len(b.Events) {
		size *= 2
	}
	v.table = growTo(v.table, size)
	mask := uint32(size - 1) //nolint:gosec // a batch has far fewer than 2^31 events
	for i := range b.Events {
		ev := &b.Events[i]
		hash := identityHash(v.seed, ev)
		at := hash & mask
		for ; v.table[at].index != 0; at = (at + 1) & mask {
			if v.table[at].hash != hash {
				continue
			}
			if first := &b.Events[v.table[at].index-1]; sameIdentity(first, ev) {
				v.statuses[b.spans[i].index] = StatusConflict
				if sameContent(first, ev) {
					v.statuses[b.spans[i].index] = StatusDuplicate
				}
				break
			}
		}
		if v.table[at].index == 0 {
			v.table[at] = dedupeSlot{hash: hash, index: int32(i) + 1}
		}
	}
}

func identityHash(seed maphash.Seed, ev *Event) uint32 {
	h := maphash.Bytes(seed, ev.ID)
	h = h*31 + maphash.Bytes(seed, ev.Subject)
	h = h*31 + maphash.Bytes(seed, ev.Source)
	return uint32(h ^ h>>32) //nolint:gosec // truncation is what a hash is for
}

func sameIdentity(a, b *Event) bool {
	return bytes.Equal(a.ID, b.ID) && bytes.Equal(a.Subject, b.Subject) && bytes.Equal(a.Source, b.Source)
}

// sameContent compares everything that [ContentDigest] covers.
func sameContent(a, b *Event) bool {
	return a.Stamped == b.Stamped && (a.Stamped || a.Time == b.Time) &&
		bytes.Equal(a.Type, b.Type) && bytes.Equal(a.Data, b.Data) && bytes.Equal(a.Extensions, b.Extensions)
}

// verdicts sums up what Accept found.
func (b *Batch) verdicts() Verdicts {
	v := Verdicts{Statuses: b.verdict.statuses, Problems: b.Problems}
	for _, s := range v.Statuses {
		switch s {
		case StatusRejected:
			v.Rejected++
			continue
		case StatusRefused:
			v.Refused++
			continue
		case StatusDuplicate:
			v.Duplicates++
		case StatusConflict:
			v.Conflicts++
		case StatusWithoutMeter:
			v.WithoutMeter++
		case StatusAccepted:
		}
		v.Accepted++
	}
	for i := range b.Events {
		if b.Events[i].Stamped {
			v.Stamped++
		}
	}
	return v
}
