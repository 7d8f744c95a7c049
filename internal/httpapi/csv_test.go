package httpapi_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/meterd/meterd/meter"
	"github.com/meterd/meterd/reporter"
)

// Subjects come from senders, messages from the marketplace, reasons from people: none may run in somebody's spreadsheet.
func TestCSV_NoFormulas(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.books.records = []reporter.BillRecord{{
		Subject: `=HYPERLINK("http://evil.example")`, Meter: "tokens_total", InstanceID: "@i", Billed: meter.Quantity{},
		CarriedIn: meter.NewQuantity(-5, 0), Last: reporter.Transition{State: reporter.StateHeld, Message: "+1", Actor: "-x"},
	}}
	body := b.do(t, http.MethodGet, "/api/v1/bill-records", queryKey, "", "Accept: text/csv").body
	_, row, _ := strings.Cut(body, "\n")
	for _, want := range []string{`'@i,"'=HYPERLINK(""http://evil.example"")",`, ",-5,", ",'+1,"} {
		if !strings.Contains(row, want) {
			t.Errorf("row = %s, want %s in it", row, want)
		}
	}
	for cell := range strings.SplitSeq(row, ",") {
		if strings.HasPrefix(cell, "=") || strings.HasPrefix(cell, "@") || strings.HasPrefix(cell, "+") {
			t.Errorf("the cell %q is a formula", cell)
		}
	}
}
