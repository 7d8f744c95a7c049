package spool_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/meterd/meterd/meter/spool"
)

// An event is acknowledged when Append has returned; the consumer confirms what
// it has stored. What was not confirmed is delivered again after a restart.
func Example() {
	dir, err := os.MkdirTemp("", "spool")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ctx := context.Background()

	s, err := spool.Open(spool.Options{Dir: dir, MaxBytes: 1 << 30, Now: time.Now})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, batch := range []string{"first batch", "second batch"} {
		if _, err := s.Append(ctx, []byte(batch), 1000); err != nil {
			fmt.Println("tell the sender to come back:", err)
		}
	}

	r := s.NewReader(s.Confirmed())
	rec, err := r.Next(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("store %q of %d events\n", rec.Payload, rec.Events)
	if err := s.Confirm(rec.End); err != nil {
		fmt.Println(err)
	}
	if err := s.Close(); err != nil { // Or a crash.
		fmt.Println(err)
	}

	s, err = spool.Open(spool.Options{Dir: dir, MaxBytes: 1 << 30, Now: time.Now})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = s.Close() }()
	fmt.Println("records left:", s.Recovery().Records)
	r = s.NewReader(s.Confirmed())
	if rec, err = r.Next(ctx); err == nil {
		fmt.Printf("store %q of %d events\n", rec.Payload, rec.Events)
	}
	// Output:
	// store "first batch" of 1000 events
	// records left: 1
	// store "second batch" of 1000 events
}
