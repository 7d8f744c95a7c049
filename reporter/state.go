package reporter

import (
	"fmt"
	"slices"
)

// State is where a bill record stands. The numbers are stored: never renumber, only add.
type State uint8

// The states. Which may follow which is decided by [State.CanBecome] alone.
const (
	// StatePending: in the ledger, to be sent.
	StatePending State = 1
	// StateSending: a call that carries it is about to be or has been made; found after a restart it means StateUnknown.
	StateSending State = 2
	// StateAccepted: the marketplace said it received it. It may still fail in its background validation.
	StateAccepted State = 3
	// StateConfirmed: found in the marketplace's own books.
	StateConfirmed State = 4
	// StateFailed: refused later, by the marketplace's background validation.
	StateFailed State = 5
	// StateUnknown: sent, and no answer came. It is sent again with the same number and the same bytes.
	StateUnknown State = 6
	// StateRejected: refused by the marketplace for a reason that repeating can't cure. A person must act.
	StateRejected State = 7
	// StateExpired: older than the marketplace takes. Revenue lost; a person must know.
	StateExpired State = 8
	// StateHeld: waits for a person, with the reason in the transition's message.
	StateHeld State = 9
	// StateWrittenOff: given up by a person or policy, with the reason.
	StateWrittenOff State = 10
	// StateUnbillable: fits nowhere within the marketplace's rules, with the reason.
	StateUnbillable State = 11
	// StateCarried: nothing to send, the whole amount went into the remainder of the next window.
	StateCarried State = 12
	// StateShadowed: mode shadow; it went to the shadow destination and never to the marketplace.
	StateShadowed State = 13
	// StateDryRun: mode dry-run; it went nowhere.
	StateDryRun State = 14
	// StateReplaced: failed, and reported again as another record (BillRecord.Replaces).
	StateReplaced State = 15
)

var stateNames = map[State]string{
	StatePending: "pending", StateSending: "sending", StateAccepted: "accepted", StateConfirmed: "confirmed",
	StateFailed: "failed", StateUnknown: "unknown", StateRejected: "rejected", StateExpired: "expired",
	StateHeld: "held", StateWrittenOff: "written_off", StateUnbillable: "unbillable", StateCarried: "carried",
	StateShadowed: "shadowed", StateDryRun: "dry_run", StateReplaced: "replaced",
}

// transitions is the one table of permitted transitions. A state that isn't a key here is final.
var transitions = map[State][]State{
	0: {StatePending, StateHeld, StateUnbillable, StateCarried, StateWrittenOff, StateDryRun},
	StatePending: {
		StateSending, StateExpired, StateHeld, StateWrittenOff, StateUnbillable, StateShadowed, StateDryRun,
	},
	StateSending: {
		StateAccepted, StatePending, StateUnknown, StateRejected, StateExpired, StateHeld, StateShadowed,
	},
	StateUnknown: {
		StateSending, StateExpired, StateHeld, StateWrittenOff, StateAccepted, StateConfirmed, StateFailed, StateShadowed,
	},
	StateAccepted: {StateConfirmed, StateFailed},
	StateRejected: {StatePending, StateWrittenOff, StateUnbillable, StateHeld, StateReplaced},
	// A held record without an instance is replaced by one with the instance, once there is a mapping.
	StateHeld:   {StatePending, StateWrittenOff, StateUnbillable, StateExpired, StateReplaced},
	StateFailed: {StateWrittenOff, StateUnbillable, StateConfirmed, StateReplaced},
	// A person who knows better (the marketplace's clock or ours was wrong) can have it sent after all.
	StateExpired: {StateWrittenOff, StateUnbillable, StatePending},
}

// States lists every state in order of its number.
func States() []State {
	all := make([]State, 0, len(stateNames))
	for s := StatePending; s <= StateReplaced; s++ {
		all = append(all, s)
	}
	return all
}

// String is the name shown to people and used in APIs.
func (s State) String() string { return stateNames[s] }

// MarshalText writes [State.String].
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what [State.MarshalText] writes.
func (s *State) UnmarshalText(text []byte) error {
	parsed, err := ParseState(string(text))
	if err != nil {
		return err
	}
	*s = parsed
	return nil
}

// ParseState reads a name.
func ParseState(name string) (State, error) {
	for s, n := range stateNames {
		if n == name {
			return s, nil
		}
	}
	return 0, fmt.Errorf("unknown state %q", name)
}

// CanBecome reports whether a record in state s may go to next. The zero State is "not in the ledger yet".
func (s State) CanBecome(next State) bool {
	return slices.Contains(transitions[s], next)
}

// Due reports whether the reporter has to send a record in this state.
func (s State) Due() bool { return s == StatePending || s == StateSending || s == StateUnknown }

// Settled reports whether delivery has nothing more to do by itself: everything that is not [State.Due]. A held or
// rejected record is settled for the reporter although a person still has to act.
func (s State) Settled() bool { return s != 0 && !s.Due() }
