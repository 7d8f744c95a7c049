package httpapi

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// API serves the routes. It is safe for concurrent use.
type API struct {
	o       Options
	keys    *keyRing
	mux     *http.ServeMux
	ids     *requestIDs
	origins *http.CrossOriginProtection

	verifying sync.Mutex // held while a verification runs

	drain     chan struct{} // closed by Drain
	drainOnce sync.Once
}

var _ http.Handler = (*API)(nil)

// handler answers a request or returns why it can't.
type handler func(w *response, r *http.Request) error

// route is one line of the API.
type route struct {
	method, path string
	scope        Scope // "" needs no key
	// timeout bounds the handler; 0 means Options.RequestTimeout, negative that the handler bounds itself.
	timeout time.Duration
	handle  handler
}

// closeTimeout bounds a close by hand: an hour of 10 million events takes about a minute.
const closeTimeout = 15 * time.Minute

func (a *API) routes() []route {
	return []route{
		{"POST", "/api/v1/events", ScopeIngest, -1, a.postEvents},
		{"POST", "/api/v1/events:backfill", ScopeBackfill, actTimeout, a.postBackfill},
		{"POST", "/api/v1/events:void", ScopeVoid, actTimeout, a.postVoid},
		{"POST", "/report", ScopeIngest, 0, a.postReport},
		{"GET", "/api/v1/meters", ScopeQuery, 0, a.listMeters},
		{"GET", "/api/v1/meters/{slug}", ScopeQuery, 0, a.getMeter},
		{"GET", "/api/v1/meters/{slug}/query", ScopeQuery, 0, a.queryMeter},
		{"GET", "/api/v1/bill-records", ScopeQuery, 0, a.listRecords},
		{"GET", "/api/v1/bill-records/{sn}", ScopeQuery, 0, a.getRecord},
		{"GET", "/api/v1/bill-records/{sn}/explain", ScopeQuery, 0, a.explainRecord},
		{"GET", "/api/v1/bill-records/{sn}/explain/events", ScopeQuery, 0, a.explainEvents},
		{"POST", "/api/v1/bill-records:act", ScopeOperate, actTimeout, a.postRecordsAct},
		{"POST", "/api/v1/bill-records:resend", ScopeOperate, actTimeout, a.postRecordsResend},
		{"GET", "/api/v1/windows", ScopeQuery, 0, a.listWindows},
		{"GET", "/api/v1/bookings", ScopeQuery, 0, a.listBookings},
		{"GET", "/api/v1/adjustments", ScopeQuery, 0, a.listAdjustments},
		{"GET", "/api/v1/held-usage", ScopeQuery, 0, a.listHeld},
		{"POST", "/api/v1/held-usage:decide", ScopeOperate, actTimeout, a.postDecide},
		{"GET", "/api/v1/instances/{id}/life", ScopeQuery, 0, a.getLife},
		{"POST", "/api/v1/instances/{id}/life", ScopeOperate, actTimeout, a.postLife},
		{"GET", "/api/v1/audit", ScopeQuery, 0, a.listAudit},
		{"GET", "/api/v1/verify", ScopeQuery, verifyTimeout, a.getVerify},
		{"GET", "/api/v1/breaker", ScopeQuery, 0, a.getBreaker},
		{"POST", "/api/v1/breaker:reset", ScopeOperate, 0, a.postBreakerReset},
		{"GET", "/api/v1/clock", ScopeQuery, 0, a.getClock},
		{"POST", "/api/v1/clock:trust", ScopeOperate, 0, a.postClockTrust},
		{"POST", "/api/v1/admin/close", ScopeAdmin, closeTimeout, a.postClose},
		{"GET", "/api/v1/admin/status", ScopeAdmin, 0, a.getStatus},
		{"GET", "/api/v1/dead-letters", ScopeAdmin, 0, a.listDeadLetters},
		{"POST", "/api/v1/dead-letters:replay", ScopeAdmin, 0, a.replayDeadLetters},
		{"GET", "/api/v1/openapi.yaml", "", 0, a.getOpenAPI},
		{"GET", "/{$}", "", 0, a.getIndex},
	}
}

// New returns the API.
func New(o Options) (*API, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	keys, err := newKeyRing(o.Keys)
	if err != nil {
		return nil, err
	}
	a := &API{
		o: o, keys: keys, mux: http.NewServeMux(), ids: newRequestIDs(),
		origins: http.NewCrossOriginProtection(), drain: make(chan struct{}),
	}
	methods := map[string][]string{}
	for _, rt := range a.routes() {
		a.mux.Handle(rt.method+" "+rt.path, a.wrap(rt))
		methods[rt.path] = append(methods[rt.path], rt.method)
	}
	for _, path := range slices.Sorted(maps.Keys(methods)) {
		allow := methods[path]
		if slices.Contains(allow, http.MethodGet) {
			allow = append(allow, http.MethodHead)
		}
		a.mux.Handle(path, a.wrap(route{path: path, handle: methodNotAllowed(strings.Join(allow, ", "))}))
	}
	a.mux.Handle("/", a.wrap(route{path: "other", handle: func(_ *response, r *http.Request) error {
		return notFound("there is no %s; GET /api/v1/openapi.yaml lists what there is", quoteShort(r.URL.Path))
	}}))
	return a, nil
}

func methodNotAllowed(allow string) handler {
	return func(w *response, r *http.Request) error {
		w.Header().Set("Allow", allow)
		return &problem{Status: http.StatusMethodNotAllowed, Code: "method-not-allowed", Detail: "use " + allow + ", not " + quoteShort(r.Method)}
	}
}

// ServeHTTP answers one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

// Drain ends open streams after their current chunk, so that a server's Shutdown doesn't wait for them; give it to
// http.Server.RegisterOnShutdown.
func (a *API) Drain() { a.drainOnce.Do(func() { close(a.drain) }) }
