package koogallery

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/meterd/meterd/reporter"
)

// Paths of the two usage pushes (KooGallery usage push, sections 1.1 and 2).
const (
	pathNew = "/api/mkp-openapi-public/global/v1/isv/usage-data"
	pathOld = "/rest/marketplace/v1/isv/usage-data"
)

// wireTimeFormat is the form of all times in a record: UTC, whole seconds, 16 characters (section 1.3).
const wireTimeFormat = "20060102T150405Z"

// newRecord is one record of the new push. Its fields stand in ascending order of their wire names: the body is signed
// "after natural sorting" (section 1.4), and encoding/json keeps the order of fields. All values are strings, so that a
// server that parses and serialises again gets the same text.
type newRecord struct {
	BeginTime         string `json:"begin_time"`
	EndTime           string `json:"end_time"`
	InstanceID        string `json:"instance_id"`
	MeteringSN        string `json:"metering_sn"`
	RecordTime        string `json:"record_time"`
	RelatePkgInstance string `json:"relate_pkg_instance,omitempty"`
	UsageValue        string `json:"usage_value"`
}

// oldRecord is one record of the old push: with the product, without a number of its own (section 2). The order of its
// fields is that of the published table; the AK/SK signature covers the payload whatever its order.
type oldRecord struct {
	InstanceID        string `json:"instance_id"`
	ProductID         string `json:"product_id"`
	RecordTime        string `json:"record_time"`
	BeginTime         string `json:"begin_time"`
	EndTime           string `json:"end_time"`
	UsageValue        string `json:"usage_value"`
	RelatePkgInstance string `json:"relate_pkg_instance,omitempty"`
}

// usageRecords is the body of a push.
type usageRecords[R newRecord | oldRecord] struct {
	UsageRecords []R `json:"usage_records"`
}

func toNewRecord(r reporter.UsageRecord) newRecord {
	return newRecord{
		BeginTime:         wireTime(r.Window.Start),
		EndTime:           wireTime(r.Window.End),
		InstanceID:        r.InstanceID,
		MeteringSN:        string(r.SN),
		RecordTime:        wireTime(r.RecordTime),
		RelatePkgInstance: r.Package,
		UsageValue:        r.Quantity.String(),
	}
}

func toOldRecord(r reporter.UsageRecord) oldRecord {
	return oldRecord{
		InstanceID:        r.InstanceID,
		ProductID:         r.ProductID,
		RecordTime:        wireTime(r.RecordTime),
		BeginTime:         wireTime(r.Window.Start),
		EndTime:           wireTime(r.Window.End),
		UsageValue:        r.Quantity.String(),
		RelatePkgInstance: r.Package,
	}
}

// encodeNew writes the body of the new push for records that passed Check.
func encodeNew(batch []reporter.UsageRecord) ([]byte, error) { return encode(batch, toNewRecord) }

// encodeOld writes the body of the old push for records that passed Check.
func encodeOld(batch []reporter.UsageRecord) ([]byte, error) { return encode(batch, toOldRecord) }

func encode[R newRecord | oldRecord](batch []reporter.UsageRecord, to func(reporter.UsageRecord) R) ([]byte, error) {
	records := make([]R, len(batch))
	for i, r := range batch {
		records[i] = to(r)
	}
	return marshal(usageRecords[R]{UsageRecords: records})
}

// marshal writes compact JSON without HTML escaping and without a newline at the end.
func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode usage records: %w", err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

func wireTime(t time.Time) string { return t.UTC().Format(wireTimeFormat) }
