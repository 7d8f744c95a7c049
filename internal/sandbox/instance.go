package sandbox

import (
	"errors"
	"fmt"
	"time"
	"unicode/utf8"
)

// InstanceState is the state of a declared instance's resource.
type InstanceState string

// States of an instance.
const (
	// InstanceOpen is in use; the empty state means the same.
	InstanceOpen InstanceState = "open"
	// InstanceFrozen was frozen (arrears, violation): usage after FrozenAt, or any if that is not set, is 013.
	InstanceFrozen InstanceState = "frozen"
	// InstanceClosed was released: usage after ClosedAt is 011, any usage is 013 if ClosedAt is not set.
	InstanceClosed InstanceState = "closed"
	// InstanceAbnormal is in a state in which nothing can be billed: 013.
	InstanceAbnormal InstanceState = "abnormal"
	// InstanceUnknown declares that there is no such instance, whatever Options.Strict says.
	InstanceUnknown InstanceState = "unknown"
)

// Instance declares one instance. What is not set is not checked.
type Instance struct {
	// ID is the instance id, at most 64 characters.
	ID string `json:"instance_id"`
	// Seller owns the instance; empty: whoever reports it.
	Seller string `json:"seller,omitempty"`
	// ProductID is compared with the old API's product_id.
	ProductID string `json:"product_id,omitempty"`
	// State is the resource's state; empty means open.
	State InstanceState `json:"state,omitempty"`
	// Start is when the resource was opened.
	Start time.Time `json:"start,omitzero"`
	// ClosedAt is when the resource was released. Usage up to it may still be reported.
	ClosedAt time.Time `json:"closed_at,omitzero"`
	// FrozenAt is when the resource was frozen.
	FrozenAt time.Time `json:"frozen_at,omitzero"`
	// Foreign makes the instance another seller's for everybody.
	Foreign bool `json:"foreign,omitempty"`
	// Package makes the instance a package, which must not be reported as instance_id (012).
	Package bool `json:"package,omitempty"`
	// Delisted says that the product was taken off the shelf (006).
	Delisted bool `json:"delisted,omitempty"`
	// StopBeforeExcess demands relate_pkg_instance in every record (MKT.9002 at upload).
	StopBeforeExcess bool `json:"stop_before_excess,omitempty"`
}

// validate reports what is wrong with a declaration.
func (i Instance) validate() error {
	if i.ID == "" {
		return errors.New("instance: instance_id is empty")
	}
	if utf8.RuneCountInString(i.ID) > limitID {
		return fmt.Errorf("instance %q: instance_id is longer than %d characters", clip(i.ID, 80), limitID)
	}
	switch i.State {
	case "", InstanceOpen, InstanceFrozen, InstanceClosed, InstanceAbnormal, InstanceUnknown:
	default:
		return fmt.Errorf("instance %q: state must be open, frozen, closed, abnormal or unknown (got %q)", i.ID, clip(string(i.State), 40))
	}
	if !i.ClosedAt.IsZero() && i.ClosedAt.Before(i.Start) {
		return fmt.Errorf("instance %q: closed_at is before start", i.ID)
	}
	return nil
}

// known gives what is declared about an instance, and whether the instance exists at all.
func (s *Sandbox) known(id string) (Instance, bool) {
	inst, declared := s.instances[id]
	if !declared {
		return Instance{ID: id}, !s.opts.Strict
	}
	return inst, inst.State != InstanceUnknown
}

// foreignTo reports whether the instance belongs to somebody else than the caller.
func (i Instance) foreignTo(caller string) bool {
	return i.Foreign || (i.Seller != "" && i.Seller != caller)
}

// checkInstances makes the checks of an upload that need to know instances: 9001 and 0150 where asked for, and the
// fields that contradict a declaration.
func (s *Sandbox) checkInstances(caller string, api API, list []usage) *refusal {
	for n, u := range list {
		if code, problem := s.checkInstance(caller, api, u); code != "" {
			return refuse(code, fmt.Sprintf("usage_records[%d]: instance %s %s", n, quoteClip(u.InstanceID), problem))
		}
	}
	return nil
}

// checkInstance makes these checks for one record; the code is empty if all is well.
func (s *Sandbox) checkInstance(caller string, api API, u usage) (code, problem string) {
	inst, exists := s.known(u.InstanceID)
	pkg, pkgDeclared := s.instances[u.RelatePkgInstance]
	switch {
	case s.opts.InstancesAtUpload && !exists:
		return CodeUnknownInstance, "is not known"
	case s.opts.InstancesAtUpload && inst.foreignTo(caller):
		return CodeIllegalOperation, "belongs to another seller"
	case inst.StopBeforeExcess && u.RelatePkgInstance == "":
		return CodeInvalidEntity, "has stop-before-excess packages: relate_pkg_instance is mandatory"
	case api == APIOld && inst.ProductID != "" && inst.ProductID != u.ProductID:
		return CodeInvalidEntity, "has another product_id"
	case pkgDeclared && !pkg.Package:
		return CodeInvalidEntity, "is reported with a relate_pkg_instance that is not a package"
	default:
		return "", ""
	}
}

// unusable tells the reasons that lie in the instance alone for which usage ending at end cannot be billed: it belongs
// to another seller, it is no pay-per-use resource, or its resource is in no state to have used anything.
func (i Instance) unusable(caller string, end time.Time) (foreign, notPayPerUse, badState bool) {
	badState = i.State == InstanceAbnormal ||
		(i.State == InstanceClosed && i.ClosedAt.IsZero()) ||
		(i.State == InstanceFrozen && (i.FrozenAt.IsZero() || end.After(i.FrozenAt)))
	return i.foreignTo(caller), i.Package, badState
}
