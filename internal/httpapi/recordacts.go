package httpapi

import (
	"net/http"

	"github.com/meterd/meterd/reporter"
)

// recordActBody is the body of an act about records that delivery can't settle.
type recordActBody struct {
	actFields

	SNs []reporter.MeteringSN `json:"sns"`
	To  string                `json:"to"`
}

// state is where the records are to go.
func (b *recordActBody) state() (reporter.State, error) {
	switch b.To {
	case reporter.StatePending.String():
		return reporter.StatePending, nil
	case reporter.StateWrittenOff.String():
		return reporter.StateWrittenOff, nil
	case reporter.StateUnbillable.String():
		return reporter.StateUnbillable, nil
	}
	return 0, invalidRequest("to: must be pending, written_off or unbillable (got %s)", quoteShort(b.To))
}

// postRecordsAct puts records into another state on a person's word: to be sent (again), written off, or unbillable.
func (a *API) postRecordsAct(w *response, r *http.Request) error {
	if a.o.Doors.Desk == nil {
		return errNoDesk
	}
	var body recordActBody
	if err := a.readAct(w, r, &body); err != nil {
		return err
	}
	actor, reason, err := body.person(w)
	if err != nil {
		return err
	}
	if err := checkSNs("sns", body.SNs); err != nil {
		return err
	}
	to, err := body.state()
	if err != nil {
		return err
	}
	ctx, cancel := finishing(r)
	defer cancel()
	records, err := a.o.Doors.Desk.MoveRecords(ctx, reporter.RecordAct{SNs: body.SNs, To: to, Actor: actor, Reason: reason})
	if err != nil {
		return actError(err)
	}
	answer := struct {
		Records []recordView `json:"records"`
	}{make([]recordView, 0, len(records))}
	for i := range records {
		answer.Records = append(answer.Records, viewRecord(&records[i]))
	}
	return writeJSON(w, answer)
}

// Limits of what the marketplace's own books say about a record.
const (
	maxFailureCode    = 32
	maxFailureMessage = 500
)

// resendBody is the body of a resend.
type resendBody struct {
	actFields

	SNs []reporter.MeteringSN `json:"sns"`
	// Failures is what the marketplace's own books say of those that it had accepted.
	Failures []struct {
		SN      reporter.MeteringSN `json:"sn"`
		Code    string              `json:"code"`
		Message string              `json:"message"`
	} `json:"failures"`
}

// failures checks and returns what the marketplace said.
func (b *resendBody) failures() ([]reporter.Failure, error) {
	if err := checkSNs("sns", b.SNs); err != nil {
		return nil, err
	}
	resent := make(map[reporter.MeteringSN]bool, len(b.SNs))
	for _, sn := range b.SNs {
		resent[sn] = true
	}
	var list []reporter.Failure
	for _, f := range b.Failures {
		if !resent[f.SN] {
			return nil, invalidRequest("failures: %s is not among sns, or occurs more than once", quoteShort(string(f.SN)))
		}
		delete(resent, f.SN)
		code, err := plainText("failures: code", f.Code, maxFailureCode)
		if err != nil {
			return nil, err
		}
		if code == "" {
			return nil, invalidRequest("failures: code: is required, as the marketplace's books give it")
		}
		message, err := plainText("failures: message", f.Message, maxFailureMessage)
		if err != nil {
			return nil, err
		}
		list = append(list, reporter.Failure{SN: f.SN, Code: code, Message: message})
	}
	return list, nil
}

// postRecordsResend reports failed records again under new numbers. Those that were accepted are noted as failed first.
func (a *API) postRecordsResend(w *response, r *http.Request) error {
	if a.o.Doors.Desk == nil {
		return errNoDesk
	}
	var body resendBody
	if err := a.readAct(w, r, &body); err != nil {
		return err
	}
	actor, reason, err := body.person(w)
	if err != nil {
		return err
	}
	failures, err := body.failures()
	if err != nil {
		return err
	}
	ctx, cancel := finishing(r)
	defer cancel()
	if len(failures) > 0 {
		if err := a.o.Doors.Desk.Fail(ctx, failures, actor); err != nil {
			return actError(err)
		}
	}
	booking, err := a.o.Doors.Desk.Resend(ctx, reporter.ResendAct{SNs: body.SNs, Actor: actor, Reason: reason})
	if err != nil {
		return actError(err)
	}
	return writeJSON(w, bookingAnswer{viewBooking(&booking)})
}
