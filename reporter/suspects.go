package reporter

// suspects remembers batches that got no usable answer although the endpoint answered others. One record on which the
// marketplace stumbles (KooGallery's MKT.0999 names no record) would otherwise keep its whole batch from being
// delivered for ever; smaller and smaller batches find it. The memory is lost with the process, which only costs calls.
type suspects struct {
	healthy uint64 // healthy answers so far
	seen    map[MeteringSN]suspicion
	// probes are records that went out alone, as a probe, and got no useful answer since the last one that was.
	probes map[MeteringSN]struct{}
}

type suspicion struct {
	healthy uint64 // healthy answers when the record's batch last failed
	level   uint8  // how often it failed while others did not
}

// maxSuspects bounds the memory. It is only reached when many batches fail while others go through.
const maxSuspects = 100_000

// maxProbes bounds how many records are passed over in search of another probe.
const maxProbes = 1000

func newSuspects() suspects {
	return suspects{seen: map[MeteringSN]suspicion{}, probes: map[MeteringSN]struct{}{}}
}

// probed notes that a probe with this record got no useful answer: the next one carries another record, because this one
// may be the reason.
func (s *suspects) probed(sn MeteringSN) {
	if len(s.probes) >= maxProbes {
		clear(s.probes)
	}
	s.probes[sn] = struct{}{}
}

// untried cuts off the records at the beginning that have been a probe in vain.
func (s *suspects) untried(recs []BillRecord) []BillRecord {
	for len(recs) > 0 {
		if _, tried := s.probes[recs[0].SN]; !tried {
			break
		}
		recs = recs[1:]
	}
	return recs
}

// failed notes that the records' batch got no usable answer.
func (s *suspects) failed(recs []BillRecord) {
	if len(s.seen)+len(recs) > maxSuspects {
		clear(s.seen)
	}
	for i := range recs {
		old, again := s.seen[recs[i].SN]
		if again && s.healthy > old.healthy && old.level < 30 {
			old.level++
		}
		old.healthy = s.healthy
		s.seen[recs[i].SN] = old
	}
}

// answered notes that the endpoint is healthy as far as these records go.
func (s *suspects) answered(recs []BillRecord) {
	s.healthy++
	if len(s.seen) == 0 {
		return
	}
	for i := range recs {
		delete(s.seen, recs[i].SN)
	}
}

// limit returns how many of the records may go into one batch of at most limit.
func (s *suspects) limit(recs []BillRecord, limit int) int {
	limit = min(limit, len(recs))
	if len(s.seen) == 0 {
		return limit
	}
	full := limit
	for i := 0; i < limit; i++ {
		limit = min(limit, max(1, full>>s.seen[recs[i].SN].level))
	}
	return limit
}
