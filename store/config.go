package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"time"

	"github.com/meterd/meterd/meter"
)

// Config says where ClickHouse is and how to talk to it. Now and Logger are required, and Addrs or DialContext.
type Config struct {
	// Addrs are host:port of the native protocol. Ignored with DialContext.
	Addrs []string
	// DialContext connects to the embedded engine: HTTP over what it returns, without compression. embedded.Engine's
	// method of the same name fits. Nil: a server at Addrs.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// Database is created when it is missing; "" means "meterd".
	Database string
	// Username and Password; "" means "default" without a password.
	Username, Password string
	// TLS enables TLS towards Addrs; nil: plain.
	TLS *tls.Config
	// Cluster is the name of the cluster for ON CLUSTER; "" means a single server.
	Cluster string
	// DialTimeout bounds connecting; 0 means 5 s. QueryTimeout bounds the silence of a server while it works on a query;
	// 0 means 60 s. The embedded engine answers without signs of progress: there it is at least 11 minutes.
	DialTimeout, QueryTimeout time.Duration
	// MaxConns bounds open connections; 0 means 12. A reader whose callback writes needs two.
	MaxConns int
	// StampedLookback is how far back an event that came without a time is recognised as a retry of an earlier hour's;
	// 0 means 24 h.
	StampedLookback time.Duration
	// Values computes the values of raw events for meters that were declared after them; *meter.Catalog fits. Nil: such
	// events make closing fail with ErrNotBackfilled until BackfillMeters ran.
	Values ValueReader
	Now    func() time.Time
	Logger *slog.Logger
}

// ValueReader computes an event's values for the meters of its type, as *meter.Catalog does.
type ValueReader interface {
	Values(ev *meter.Event) ([]meter.EventValue, *meter.Problem)
}

var namePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// withDefaults checks the configuration, reporting every fault at once, and fills in defaults.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	if len(c.Addrs) == 0 && c.DialContext == nil {
		errs = append(errs, errors.New("addrs: is required without an embedded engine, for example [\"127.0.0.1:9000\"]"))
	}
	for _, addr := range c.Addrs {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			errs = append(errs, fmt.Errorf("addrs: must be host:port of the native protocol (got %q)", addr))
		}
	}
	setDefault(&c.Database, "meterd")
	setDefault(&c.Username, "default")
	setDefault(&c.DialTimeout, 5*time.Second)
	setDefault(&c.QueryTimeout, time.Minute)
	setDefault(&c.MaxConns, 12)
	setDefault(&c.StampedLookback, 24*time.Hour)
	if c.DialContext != nil {
		c.QueryTimeout = max(c.QueryTimeout, 11*time.Minute)
	}
	if !namePattern.MatchString(c.Database) {
		errs = append(errs, fmt.Errorf("database: must match %s (got %q)", namePattern, c.Database))
	}
	if c.Cluster != "" && !namePattern.MatchString(c.Cluster) {
		errs = append(errs, fmt.Errorf("cluster: must match %s (got %q)", namePattern, c.Cluster))
	}
	if c.MaxConns < 2 {
		errs = append(errs, fmt.Errorf("max conns: must be at least 2 (got %d)", c.MaxConns))
	}
	if c.StampedLookback < 0 {
		errs = append(errs, fmt.Errorf("stamped lookback: must not be negative (got %s)", c.StampedLookback))
	}
	if c.Now == nil || c.Logger == nil {
		errs = append(errs, errors.New("now and logger: are required"))
	}
	if err := errors.Join(errs...); err != nil {
		return Config{}, fmt.Errorf("store: %w", err)
	}
	return c, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
