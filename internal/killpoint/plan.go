package killpoint

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// plan says at which hit of which point a process ends. A nil plan never ends it.
type plan struct {
	mu     sync.Mutex
	left   map[string]int // hits until the end, by name
	random *rand.Rand     // nil: no random ends
	chance float64        // of each hit
}

// parsePlan reads the value of METERD_KILL_AT; "" gives nil.
func parsePlan(text string) (*plan, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // no plan is no fault
	}
	p := &plan{left: map[string]int{}}
	for part := range strings.SplitSeq(text, ",") {
		if err := p.add(part); err != nil {
			return nil, fmt.Errorf("%q: %w", part, err)
		}
	}
	return p, nil
}

func (p *plan) add(part string) error {
	name, rest, _ := strings.Cut(part, ":")
	if name == "random" {
		return p.addRandom(rest)
	}
	if !slices.Contains(names[:], name) {
		return errors.New("there is no such point")
	}
	n, err := strconv.Atoi(rest)
	if err != nil || n < 1 {
		return errors.New("want name:n with n from 1 on")
	}
	p.left[name] = n
	return nil
}

func (p *plan) addRandom(rest string) error {
	first, second, _ := strings.Cut(rest, ":")
	seed, err := strconv.ParseUint(first, 10, 64)
	if err != nil {
		return errors.New("want random:seed:probability with a whole number as seed")
	}
	p.chance, err = strconv.ParseFloat(second, 64)
	if err != nil || !(p.chance > 0 && p.chance <= 1) {
		return errors.New("want random:seed:probability with a probability above 0 and up to 1")
	}
	p.random = rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test's random numbers, reproducible by their seed
	return nil
}

// hit counts a hit and reports whether the process ends here.
func (p *plan) hit(name string) bool {
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if n, ok := p.left[name]; ok {
		p.left[name] = n - 1
		if n == 1 {
			return true
		}
	}
	return p.random != nil && p.random.Float64() < p.chance
}
