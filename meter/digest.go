package meter

import (
	"crypto/sha256"
	"encoding/binary"
)

// digester computes SHA-256 over length-prefixed fields without allocating. The prefixes make the input unambiguous: no
// two lists of fields give the same bytes.
type digester struct{ buf []byte }

func (d *digester) reset(domain string) { d.buf = append(d.buf[:0], domain...) }

func (d *digester) field(b []byte) {
	d.buf = binary.AppendUvarint(d.buf, uint64(len(b)))
	d.buf = append(d.buf, b...)
}

func (d *digester) sum() [sha256.Size]byte { return sha256.Sum256(d.buf) }

// key is [KeyOf].
func (d *digester) key(ev *Event) EventKey {
	d.reset("meterd/key/1")
	d.field(ev.Source)
	d.field(ev.ID)
	sum := d.sum()
	return EventKey(sum[:16])
}

// content is [ContentDigest].
func (d *digester) content(ev *Event) uint64 {
	d.reset("meterd/content/1")
	d.field(ev.Type)
	if ev.Stamped {
		d.buf = append(d.buf, 0)
	} else {
		d.buf = append(d.buf, 1)
		d.buf = binary.BigEndian.AppendUint64(d.buf, uint64(ev.Time)) //nolint:gosec // any fixed mapping will do
	}
	d.field(ev.Data)
	sum := d.sum()
	return binary.BigEndian.Uint64(sum[:8])
}

// KeyOf identifies an event within its subject, by source and id.
func KeyOf(ev *Event) EventKey {
	var d digester
	return d.key(ev)
}

// ContentDigest tells whether two events with one identity say the same: it covers what can be metered, that is type, time
// (unless we stamped it) and data, byte by byte as they were sent. A retry repeats its data; a sender who writes the same
// numbers in another way has changed the event as far as anybody can prove. Extensions are left out: no meter reads them,
// SDKs write them in any order, and tracing gives each attempt another one.
func ContentDigest(ev *Event) uint64 {
	var d digester
	return d.content(ev)
}

// digest64 is a digest of some fields.
func digest64(fields ...[]byte) uint64 {
	var d digester
	for _, f := range fields {
		d.field(f)
	}
	sum := d.sum()
	return binary.BigEndian.Uint64(sum[:8])
}
