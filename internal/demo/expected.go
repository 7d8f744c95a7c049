package demo

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/shopspring/decimal"
)

// The slugs of the demo's meters.
const (
	MeterRequests  = "requests"
	MeterPrompt    = "prompt_tokens"
	MeterGenerated = "generated_tokens"
	MeterLongest   = "longest_prompt"
)

// InstanceID is the marketplace's instance of a subject's meter in the demo: each meter is a billing item of its own.
func InstanceID(subject, meter string) string { return subject + "." + meter }

// Expected is what must come out, summed from the file itself with no code of the pipeline.
type Expected struct {
	Events      int64
	First, Last time.Time // as in the file
	ByMeter     map[string]decimal.Decimal
	// ByInstance is keyed by InstanceID.
	ByInstance map[string]decimal.Decimal
	Records    int // instance-hours with usage, that is bill records
}

type hourKey struct {
	instance string
	hour     time.Time
}

// Expect reads a trace. Rows must be ordered by hour. A fault is reported with its line.
func Expect(r io.Reader, instances int) (Expected, error) {
	rows := csv.NewReader(r)
	rows.ReuseRecord = true
	header, err := rows.Read()
	if err != nil {
		return Expected{}, fmt.Errorf("read trace: %w", err)
	}
	columns := [3]int{}
	for i, name := range []string{TimeColumn, PromptColumn, GeneratedColumn} {
		if columns[i] = slices.Index(header, name); columns[i] < 0 {
			return Expected{}, fmt.Errorf("read trace: no column %q in the first line (columns: %q)", name, header)
		}
	}
	e := Expected{ByMeter: map[string]decimal.Decimal{}, ByInstance: map[string]decimal.Decimal{}}
	sums := map[hourKey]decimal.Decimal{}
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Expected{}, fmt.Errorf("read trace: %w", err)
		}
		line, _ := rows.FieldPos(0)
		if err := e.add(sums, row, columns, instances); err != nil {
			return Expected{}, fmt.Errorf("read trace: line %d: %w", line, err)
		}
	}
	if e.Events == 0 {
		return Expected{}, errors.New("read trace: it has no rows")
	}
	e.total(sums)
	return e, nil
}

func (e *Expected) add(sums map[hourKey]decimal.Decimal, row []string, columns [3]int, instances int) error {
	at, err := time.ParseInLocation(TimeLayout, row[columns[0]], time.UTC)
	if err != nil {
		return err
	}
	prompt, err := decimal.NewFromString(row[columns[1]])
	if err != nil {
		return err
	}
	generated, err := decimal.NewFromString(row[columns[2]])
	if err != nil {
		return err
	}
	hour := at.Truncate(time.Hour)
	if e.Events > 0 && hour.Before(e.Last.Truncate(time.Hour)) {
		return fmt.Errorf("its hour %s comes after a later one; sort the file by time", hour.Format(time.RFC3339))
	}
	if e.Events == 0 {
		e.First = at
	}
	e.Last = at
	subject := Subject(int(e.Events), instances)
	e.Events++
	for meter, v := range map[string]decimal.Decimal{MeterRequests: decimal.NewFromInt(1), MeterPrompt: prompt, MeterGenerated: generated} {
		k := hourKey{InstanceID(subject, meter), hour}
		sums[k] = sums[k].Add(v)
	}
	k := hourKey{InstanceID(subject, MeterLongest), hour}
	if prompt.GreaterThan(sums[k]) {
		sums[k] = prompt
	}
	return nil
}

// total adds the hours up. A quantity of zero is not reported, so it is no record.
func (e *Expected) total(sums map[hourKey]decimal.Decimal) {
	for k, v := range sums {
		if v.IsZero() {
			continue
		}
		e.Records++
		e.ByInstance[k.instance] = e.ByInstance[k.instance].Add(v)
		meter := MeterOf(k.instance)
		e.ByMeter[meter] = e.ByMeter[meter].Add(v)
	}
}

// MeterOf is the slug in an InstanceID.
func MeterOf(instance string) string {
	for i := len(instance) - 1; i >= 0; i-- {
		if instance[i] == '.' {
			return instance[i+1:]
		}
	}
	return ""
}
