package meter_test

import (
	"fmt"
	"time"

	"github.com/meterd/meterd/meter"
)

func ExampleBatch_DecodeJSON() {
	body := `[{"specversion":"1.0","id":"1","source":"chat","type":"prompt","subject":"tenant-42","data":{"tokens":"12.5"}},
	          {"specversion":"1.0","id":"2","source":"chat","type":"prompt"}]`
	b := meter.NewBatch()
	defer b.Release()
	b.DecodeJSON([]byte(body), meter.DecodeOptions{MaxEvents: 1000})
	for _, ev := range b.Events {
		fmt.Printf("%s used %s\n", ev.Subject, ev.Data)
	}
	for _, p := range b.Problems {
		fmt.Println(p.Error())
	}
	// Output:
	// tenant-42 used {"tokens":"12.5"}
	// event 1: subject: missing_attribute: subject is required and must not be empty
}

func ExampleCatalog_Values() {
	catalog, err := meter.NewCatalog([]meter.Meter{{
		Slug: "tokens", EventType: "prompt", Aggregation: meter.Sum, Value: meter.MustParsePath("$.usage.tokens"),
		GroupBy: []meter.Dimension{{Name: "model", Path: meter.MustParsePath("$.model")}}, Scale: meter.NewQuantity(1, 0),
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	values, problem := catalog.Values(&meter.Event{Type: []byte("prompt"), Data: []byte(`{"model":"m-1","usage":{"tokens":1200}}`)})
	fmt.Println(values[0].Quantity, string(values[0].Dimensions[0]), problem)
	_, problem = catalog.Values(&meter.Event{Type: []byte("prompt"), Data: []byte(`{"model":"m-1","usage":{"tokens":-5}}`)})
	fmt.Println(problem.Reason, problem.Field)
	// Output:
	// 1200 m-1 <nil>
	// value_negative $.usage.tokens
}

func ExampleQuantity_DivTruncate() {
	tokens := meter.MustParseQuantity("123456")
	billed, rest := tokens.DivTruncate(meter.MustParseQuantity("1000"), 4)
	fmt.Println(billed, rest)
	billed, rest = tokens.DivTruncate(meter.MustParseQuantity("1000"), 1)
	fmt.Println(billed, rest)
	// Output:
	// 123.456 0
	// 123.4 56
}

func ExampleHourOf() {
	fmt.Println(meter.HourOf(time.Date(2026, 1, 2, 23, 34, 5, 0, time.FixedZone("CST", 8*3600))))
	// Output: 2026-01-02T15:00:00Z/2026-01-02T16:00:00Z
}
