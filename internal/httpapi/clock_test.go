package httpapi_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/meterd/meterd/internal/httpapi"
	"github.com/meterd/meterd/reporter"
)

// TestClock shows the clock's guard, and a person's word ends its refusal: an act like any other.
func TestClock(t *testing.T) {
	t.Parallel()
	b := setup(t, nil)
	b.doors.clock = reporter.ClockState{Ahead: 2*time.Hour + 500*time.Millisecond, Refusing: true, Since: testNow, Trust: reporter.TrustMarketplace, Steps: 1}
	golden(t, "clock.json", b.do(t, http.MethodGet, "/api/v1/clock", queryKey, "").body)
	wantProblem(t, b.operate(t, "/api/v1/clock:trust", `{}`), 400, "invalid-request")
	b.wantAsked(t)
	a := b.operate(t, "/api/v1/clock:trust", `{"reason":"the proxy's clock is wrong"}`)
	if a.status != http.StatusOK || !strings.Contains(a.body, `"refusing":false`) {
		t.Errorf("trust: %d %s", a.status, a.body)
	}
	b.wantAsked(t, "clock trusted")
	if e := b.doors.audit; len(e) != 1 || e[0].Action != "clock_trust" || e[0].Actor != "billing" || e[0].Detail != "ahead by 2h0m1s" {
		t.Errorf("audit = %+v", e)
	}
	b.doors.auditEr = errors.New("away")
	wantProblem(t, b.operate(t, "/api/v1/clock:trust", `{"reason":"r"}`), 503, "unavailable")
	b.wantAsked(t)
}

// TestBreaker_Standby: whoever resets the breaker of a daemon that doesn't deliver is told so.
func TestBreaker_Standby(t *testing.T) {
	t.Parallel()
	b := setup(t, func(o *httpapi.Options) { o.Doors.Standby = func() bool { return true } })
	if a := b.do(t, http.MethodGet, "/api/v1/breaker", queryKey, ""); !strings.Contains(a.body, `"standby":true`) {
		t.Errorf("breaker of a standby = %s", a.body)
	}
	wantProblem(t, b.operate(t, "/api/v1/breaker:reset", `{"reason":"r"}`), 409, "not-allowed")
	b.wantAsked(t)
	if len(b.doors.audit) != 0 {
		t.Errorf("audit = %+v", b.doors.audit)
	}
}
