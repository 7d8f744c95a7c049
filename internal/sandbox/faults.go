package sandbox

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// FaultKind says what goes wrong.
type FaultKind string

// Kinds of faults. Unless said otherwise they strike before the call is processed; with Fault.After they strike when
// it was processed, and the answer is what goes wrong.
const (
	// FaultLatency waits Delay.
	FaultLatency FaultKind = "latency"
	// FaultHTTPStatus answers with Status and Body (none by default).
	FaultHTTPStatus FaultKind = "http_status"
	// FaultErrorCode answers with Code, and with Status if it is given instead of the documented one.
	FaultErrorCode FaultKind = "error_code"
	// FaultThrottle answers MKT.0250 with HTTP 406.
	FaultThrottle FaultKind = "throttle"
	// FaultDropRequest closes the connection before the body is read.
	FaultDropRequest FaultKind = "drop_request"
	// FaultDropAnswer closes the connection after the call was processed, without an answer.
	FaultDropAnswer FaultKind = "drop_answer"
	// FaultSlowBody sends the answer's body byte by byte, Delay apart.
	FaultSlowBody FaultKind = "slow_body"
	// FaultGarbage answers HTTP 200, or Status, with Body instead of JSON, after processing.
	FaultGarbage FaultKind = "garbage"
	// FaultTruncate sends half of the answer's body and closes the connection, after processing.
	FaultTruncate FaultKind = "truncate"
	// FaultReject makes the background validation fail a record of Instance with Code. It counts records.
	FaultReject FaultKind = "reject"
	// FaultAbnormalList lists the call's records of Instance in the answer as abnormal_usage_data with Code (KooGallery
	// usage push, section 11) and keeps them as abnormal. It counts calls.
	FaultAbnormalList FaultKind = "abnormal_list"
)

// Bounds of a fault.
const (
	maxFaults     = 1000
	maxFaultDelay = 10 * time.Minute
	maxFaultBody  = 64 << 10
)

// garbageBody is what FaultGarbage sends unless told otherwise: a proxy's page.
const garbageBody = "<html><head><title>502 Bad Gateway</title></head><body>\x00\x01 not json {"

// Duration is a time.Duration that is written as text such as "1m30s".
type Duration time.Duration

// String prints the duration like time.Duration.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText prints the duration like time.Duration.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return err
	}
	*d = Duration(v)
	return nil
}

// Fault is one injected fault. The same faults with the same seeds strike the same calls of the same sequence.
type Fault struct {
	// ID names the fault for its removal; Inject fills it in.
	ID string `json:"id,omitempty"`
	// Kind is mandatory.
	Kind FaultKind `json:"kind"`
	// Path is a prefix of the paths concerned; empty: every marketplace path.
	Path string `json:"path,omitempty"`
	// Skip lets that many matching calls pass first.
	Skip int `json:"skip,omitempty"`
	// Count ends the fault after that many strikes; 0: never.
	Count int `json:"count,omitempty"`
	// Probability of a strike for each matching call, above 0 and at most 1; 0 means 1.
	Probability float64 `json:"probability,omitempty"`
	// Seed of the fault's own random numbers.
	Seed uint64 `json:"seed,omitempty"`
	// Delay of latency and slow_body, at most 10 minutes.
	Delay Duration `json:"delay,omitempty"`
	// Status of http_status (mandatory), error_code and garbage.
	Status int `json:"status,omitempty"`
	// Body of http_status and garbage.
	Body string `json:"body,omitempty"`
	// Code is an answer code for error_code, a record code for reject and abnormal_list; mandatory there.
	Code string `json:"code,omitempty"`
	// Instance of reject and abnormal_list: an instance id, a prefix ending in *, or empty for any.
	Instance string `json:"instance,omitempty"`
	// Nested puts the list of abnormal_list into an object "data" instead of the top level.
	Nested bool `json:"nested,omitempty"`
	// After makes latency, http_status, error_code and throttle strike after the call was processed.
	After bool `json:"after,omitempty"`
	// Fired counts the strikes so far; Inject ignores it.
	Fired int `json:"fired"`
}

// answers reports whether the fault decides what becomes of a call; of these only one strikes a call.
func (k FaultKind) answers() bool {
	switch k {
	case FaultHTTPStatus, FaultErrorCode, FaultThrottle, FaultDropRequest, FaultDropAnswer, FaultSlowBody, FaultGarbage, FaultTruncate:
		return true
	default:
		return false
	}
}

// late reports whether the fault strikes after processing.
func (f *Fault) late() bool {
	switch f.Kind {
	case FaultDropAnswer, FaultSlowBody, FaultGarbage, FaultTruncate:
		return true
	default:
		return f.After
	}
}

// validate reports everything that is wrong with a fault.
func (f *Fault) validate() error {
	var errs []error
	add := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("fault "+string(f.Kind)+": "+format, args...))
	}
	switch f.Kind {
	case FaultLatency, FaultSlowBody:
		if f.Delay <= 0 || time.Duration(f.Delay) > maxFaultDelay {
			add("delay must be above 0 and at most %s (got %s)", maxFaultDelay, f.Delay)
		}
	case FaultHTTPStatus:
		if f.Status == 0 {
			add("status is missing")
		}
	case FaultErrorCode:
		if f.Code == "" {
			add("code is missing, such as MKT.0999")
		}
	case FaultReject, FaultAbnormalList:
		if f.Code == "" {
			add("code is missing, such as 013")
		}
	case FaultThrottle, FaultDropRequest, FaultDropAnswer, FaultGarbage, FaultTruncate:
	default:
		return fmt.Errorf("fault: kind must be latency, http_status, error_code, throttle, drop_request, drop_answer, slow_body, garbage, truncate, reject or abnormal_list (got %q)", clip(string(f.Kind), 40))
	}
	if f.Count < 0 || f.Skip < 0 {
		add("count and skip must not be negative")
	}
	if !(f.Probability >= 0 && f.Probability <= 1) { // Written so that NaN fails too.
		add("probability must be above 0 and at most 1 (got %v)", f.Probability)
	}
	if f.Status != 0 && (f.Status < 200 || f.Status > 599) {
		add("status must be 200 to 599 (got %d)", f.Status)
	}
	if len(f.Body) > maxFaultBody || len(f.Code) > limitID || len(f.Instance) > 4*limitID || len(f.Path) > maxFaultBody {
		add("body, code, instance or path is too long")
	}
	return errors.Join(errs...)
}

// ParseFault reads the form of the command line: kind=latency,delay=2s,count=3,… with the names of Fault's JSON form.
func ParseFault(text string) (Fault, error) {
	var f Fault
	for part := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			return f, fmt.Errorf("fault %q: expected name=value, got %q", text, part)
		}
		if err := f.set(strings.TrimSpace(name), value); err != nil {
			return f, fmt.Errorf("fault %q: %s: %w", text, name, err)
		}
	}
	return f, f.validate()
}

// set sets one field from text.
func (f *Fault) set(name, value string) (err error) {
	switch name {
	case "kind":
		f.Kind = FaultKind(value)
	case "path":
		f.Path = value
	case "body":
		f.Body = value
	case "code":
		f.Code = value
	case "instance":
		f.Instance = value
	case "skip":
		f.Skip, err = strconv.Atoi(value)
	case "count":
		f.Count, err = strconv.Atoi(value)
	case "status":
		f.Status, err = strconv.Atoi(value)
	case "probability":
		f.Probability, err = strconv.ParseFloat(value, 64)
	case "seed":
		f.Seed, err = strconv.ParseUint(value, 10, 64)
	case "delay":
		err = f.Delay.UnmarshalText([]byte(value))
	case "nested":
		f.Nested, err = strconv.ParseBool(value)
	case "after":
		f.After, err = strconv.ParseBool(value)
	default:
		err = errors.New("unknown name; known are kind, path, skip, count, probability, seed, delay, status, body, code, instance, nested, after")
	}
	return err
}

// activeFault is an injected fault and its progress.
type activeFault struct {
	Fault
	seen   int
	random *rand.Rand
}

// strikes decides about one matching call.
func (f *activeFault) strikes() bool {
	if f.Count > 0 && f.Fired >= f.Count {
		return false
	}
	f.seen++
	if f.seen <= f.Skip {
		return false
	}
	if f.Probability > 0 && f.Probability < 1 && f.random.Float64() >= f.Probability {
		return false
	}
	f.Fired++
	return true
}

// concerns reports whether the fault is about an instance.
func (f *activeFault) concerns(instance string) bool {
	if prefix, ok := strings.CutSuffix(f.Instance, "*"); ok {
		return strings.HasPrefix(instance, prefix)
	}
	return f.Instance == "" || f.Instance == instance
}

// faultSet is the list of injected faults. Its lock may be taken while Sandbox.mu is held, not the other way round.
type faultSet struct {
	mu     sync.Mutex
	next   int
	active []*activeFault
}

// inject adds a fault.
func (s *faultSet) inject(f Fault) (Fault, error) {
	if err := f.validate(); err != nil {
		return Fault{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.active) >= maxFaults {
		return Fault{}, fmt.Errorf("fault: there are %d already; remove some", maxFaults)
	}
	s.next++
	f.Fired = 0
	if f.ID == "" {
		f.ID = "f" + strconv.Itoa(s.next)
	}
	if slices.ContainsFunc(s.active, func(a *activeFault) bool { return a.ID == f.ID }) {
		return Fault{}, fmt.Errorf("fault: there is one with the id %q already", clip(f.ID, 80))
	}
	// The kind takes part, so that two faults of one seed do not always strike together.
	h := fnv.New64a()
	_, _ = h.Write([]byte(f.Kind))
	random := rand.New(rand.NewPCG(f.Seed, h.Sum64())) // #nosec G404 -- reproducible on purpose.
	s.active = append(s.active, &activeFault{Fault: f, random: random})
	return f, nil
}

// list gives the faults in the order of their injection, those used up included.
func (s *faultSet) list() []Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Fault, len(s.active))
	for i, f := range s.active {
		out[i] = f.Fault
	}
	return out
}

// remove removes the fault with an id, or all for "", and tells how many.
func (s *faultSet) remove(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.active)
	s.active = slices.DeleteFunc(s.active, func(f *activeFault) bool { return id == "" || f.ID == id })
	return before - len(s.active)
}

// faultPlan is what goes wrong with one call.
type faultPlan struct {
	before, after time.Duration
	answer        *Fault // nil: the true answer
	struck        []string
}

// plan decides what goes wrong with a call. Every latency adds up; of the other faults the one injected first strikes.
func (s *faultSet) plan(path string) faultPlan {
	s.mu.Lock()
	defer s.mu.Unlock()
	var p faultPlan
	for _, f := range s.active {
		if !strings.HasPrefix(path, f.Path) {
			continue
		}
		switch {
		case f.Kind == FaultLatency && f.strikes():
			if f.After {
				p.after += time.Duration(f.Delay)
			} else {
				p.before += time.Duration(f.Delay)
			}
		case f.Kind.answers() && p.answer == nil && f.strikes():
			once := f.Fault
			p.answer = &once
		default:
			continue
		}
		p.struck = append(p.struck, string(f.Kind)+" "+f.ID)
	}
	return p
}

// reject gives the code with which the background fails a record that is otherwise valid, or "".
func (s *faultSet) reject(r *Record) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.active {
		if f.Kind == FaultReject && f.concerns(r.InstanceID) && f.strikes() {
			return f.Code
		}
	}
	return ""
}

// abnormal gives the codes that the answer to a call lists, by the record's index.
func (s *faultSet) abnormal(path string, list []usage) (codes map[int]string, nested bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.active {
		if f.Kind != FaultAbnormalList || !strings.HasPrefix(path, f.Path) {
			continue
		}
		found := map[int]string{}
		for i, u := range list {
			if f.concerns(u.InstanceID) {
				found[i] = f.Code
			}
		}
		if len(found) > 0 && f.strikes() {
			return found, f.Nested
		}
	}
	return nil, false
}
