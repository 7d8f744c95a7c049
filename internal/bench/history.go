package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
	"github.com/meterd/meterd/store"
)

// writeHistory writes closed hours into the books before the hour that will be measured: for every instance and hour an event, its usage
// of both meters, and a record that was accepted; for a tenth of them a balance. It goes through the daemon's own store
// package, so that the tables are as a daemon would have left them.
func (h *hour) writeHistory(ctx context.Context, days int) (err error) {
	s, err := h.openStore(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	first := h.begins.Add(-time.Duration(days) * 24 * time.Hour)
	for n := range uint64(24 * days) { //nolint:gosec // positive
		w := meter.HourOf(first.Add(time.Duration(n) * time.Hour))
		if err := h.writeHour(ctx, s, n+1, w); err != nil {
			return fmt.Errorf("hour %s: %w", w, err)
		}
		if n%24 == 23 { // as every close does: it writes the checkpoints of balances
			if _, err := s.Balances(ctx, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// openStore opens the daemon's books beside it.
func (h *hour) openStore(ctx context.Context) (*store.Store, error) {
	config := store.Config{
		Now: clockNow, Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	switch e := h.engine.(type) {
	case *serverEngine:
		config.Addrs = []string{e.address}
	case *embeddedEngine:
		config.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", e.socket)
		}
	}
	return store.Open(ctx, config)
}

// writeHour writes the events and the close of one hour.
func (h *hour) writeHour(ctx context.Context, s *store.Store, number uint64, w meter.Window) error {
	if err := s.InsertEvents(ctx, historyEvents(h.instances, w)); err != nil {
		return err
	}
	touches, err := s.Touches(ctx, w)
	if err != nil {
		return err
	}
	b := reporter.Booking{
		Number: number, Version: uint64(w.End.UnixNano()), Kind: reporter.BookingClose, Window: w, At: w.End,
		Events: uint64(h.instances), //nolint:gosec // positive
	}
	rows, transitions := historyRows(h.instances, b)
	for _, touch := range touches {
		rows.Covers = append(rows.Covers, reporter.Cover{Hour: w, Touch: touch})
	}
	b.Usages, b.Records, b.Balances, b.Covers = uint64(len(rows.Usage)), uint64(len(rows.Records)), uint64(len(rows.Balances)), uint64(len(rows.Covers))
	for _, step := range []func() error{
		func() error { return s.WriteRows(ctx, b, rows) }, func() error { return s.Commit(ctx, b) },
		func() error { return s.AppendTransitions(ctx, transitions) }, func() error { return s.SettleBooking(ctx, b) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func subjectName(i int) string { return fmt.Sprintf("instance-%0*d", subjectDigits, i) }

// historyRows are the rows of one close, and what became of its records.
func historyRows(instances int, b reporter.Booking) (reporter.Rows, []reporter.Transition) {
	var rows reporter.Rows
	transitions := make([]reporter.Transition, 0, 2*instances)
	for i := range instances {
		subject := subjectName(i)
		tokens := meter.NewQuantity(1000+int64(mix(b.Version+uint64(i))%9000), 0)
		r := reporter.BillRecord{
			Seller: "default", InstanceID: subject, Subject: subject, Meter: "tokens", Window: b.Window, Booked: b.Window,
			Usage: tokens, Billed: tokens, Scale: meter.NewQuantity(1, 0), RecordTime: b.Window.End, Version: b.Version,
		}
		r.SN = r.Identity().SN()
		r.Last = reporter.Transition{SN: r.SN, Booked: b.Window, Seq: 1, State: reporter.StatePending, At: b.At}
		rows.Records = append(rows.Records, r)
		rows.Usage = append(rows.Usage,
			reporter.HourlyUsage{Window: b.Window, Subject: subject, Meter: "requests", Quantity: meter.NewQuantity(1, 0), Events: 1, Version: b.Version},
			reporter.HourlyUsage{Window: b.Window, Subject: subject, Meter: "tokens", Quantity: tokens, Events: 1, Version: b.Version})
		if (i+int(b.Number))%10 == 0 { //nolint:gosec // small
			// Below what can be billed, so that the hour that is measured bills exactly what was sent.
			rows.Balances = append(rows.Balances, reporter.Balance{Subject: subject, Meter: "tokens", Quantity: meter.NewQuantity(1, -5)})
		}
		for seq, state := range []reporter.State{reporter.StateSending, reporter.StateAccepted} {
			transitions = append(transitions, reporter.Transition{
				SN: r.SN, Booked: b.Window, Seq: uint32(seq) + 2, State: state, At: b.At.Add(time.Duration(seq+1) * time.Second),
				Attempt: 1, Endpoint: "primary", Code: "MKT.0000",
			})
		}
	}
	return rows, transitions
}

// historyEvents are events of a type that no meter has, one an instance: they are there to be passed over.
func historyEvents(instances int, w meter.Window) *meter.EventRows {
	r := &meter.EventRows{}
	for i := range instances {
		random := mix(uint64(w.Start.Unix())<<24 + uint64(i)) //nolint:gosec // after 1970, positive
		var key meter.EventKey
		binary.LittleEndian.PutUint64(key[:], random)
		binary.LittleEndian.PutUint64(key[8:], mix(random))
		at := w.Start.Add(time.Duration(random % uint64(time.Hour))).UnixNano()
		r.Subject = append(r.Subject, []byte(subjectName(i)))
		r.Source = append(r.Source, []byte("/gateway/eu-1"))
		r.ID = append(r.ID, fmt.Appendf(nil, "0197a5c0-7c1e-7a3b-%016x", random))
		r.Type = append(r.Type, []byte("history"))
		r.Key = append(r.Key, key)
		r.Content = append(r.Content, mix(random+1))
		r.Time, r.Received = append(r.Time, at), append(r.Received, at)
		r.Stamped = append(r.Stamped, false)
		r.Data = append(r.Data, []byte(`{"tokens":1234,"model":"m-large"}`))
		r.Extensions = append(r.Extensions, nil)
	}
	return r
}
