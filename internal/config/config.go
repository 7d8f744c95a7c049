package config

import (
	"time"

	"github.com/meterd/meterd/reporter"
)

// Config is the whole configuration. Field tags declare the key, its limits (min, max, oneof, pattern; optional permits "") and whether it is a path
// (path:"yes", resolved against the file's directory); [Config.Validate] enforces them together with the rules across fields.
type Config struct {
	// DataDir holds the spool, the embedded engine's data and the dead letters.
	DataDir    string     `path:"yes" required:"yes" toml:"data_dir"`
	Server     Server     `toml:"server"`
	Ingest     Ingest     `toml:"ingest"`
	Spool      Spool      `toml:"spool"`
	Loader     Loader     `toml:"loader"`
	Store      Store      `toml:"store"`
	Closing    Closing    `toml:"closing"`
	Reporting  Reporting  `toml:"reporting"`
	KooGallery KooGallery `toml:"koogallery"`
	Verify     Verify     `toml:"verify"`
	Telemetry  Telemetry  `toml:"telemetry"`
	Products   []Product  `toml:"products"`
	Meters     []Meter    `toml:"meters"`
	Mappings   []Mapping  `toml:"mappings"`

	warnings []string
}

// Server is the API's listener.
type Server struct {
	Listen            string   `required:"yes" toml:"listen"`
	TLSCertFile       string   `path:"yes" toml:"tls_cert_file"`
	TLSKeyFile        string   `path:"yes" toml:"tls_key_file"`
	ClientCAFile      string   `path:"yes" toml:"client_ca_file"`
	ReadHeaderTimeout Duration `max:"1m" min:"100ms" toml:"read_header_timeout"`
	IdleTimeout       Duration `max:"1h" min:"1s" toml:"idle_timeout"`
	RequestTimeout    Duration `max:"10m" min:"1s" toml:"request_timeout"`
	ShutdownTimeout   Duration `max:"10m" min:"1s" toml:"shutdown_timeout"`
	Keys              []Key    `toml:"keys"`
}

// Key is one API key. Exactly one of File and Env names where the key itself is.
type Key struct {
	Name   string   `toml:"name"`
	File   string   `path:"yes" toml:"key_file"`
	Env    string   `toml:"key_env"`
	Scopes []string `toml:"scopes"`
	// Value is the key, read from File or Env.
	Value Secret `toml:"-"`
}

// The scopes of an API key.
const (
	ScopeIngest   = "ingest"   // send events
	ScopeQuery    = "query"    // read usage, the books and the audit log
	ScopeBackfill = "backfill" // send events that the ordinary door refuses as too old
	ScopeVoid     = "void"     // make stored events count no more
	ScopeOperate  = "operate"  // decide about held usage and records, resend, lives of instances, the breaker
	ScopeAdmin    = "admin"    // close windows, replay refused events, read the status
)

// scopes lists them as in a oneof tag.
const scopes = ScopeIngest + " " + ScopeQuery + " " + ScopeBackfill + " " + ScopeVoid + " " + ScopeOperate + " " + ScopeAdmin

// Ingest bounds what the API takes.
type Ingest struct {
	MaxBody   Size     `max:"1GiB" min:"1KiB" toml:"max_body"`
	MaxEvent  Size     `max:"4MiB" min:"256B" toml:"max_event"`
	MaxBatch  int      `max:"1000000" min:"1" toml:"max_batch"`
	MaxFuture Duration `max:"1h" min:"0s" toml:"max_future"`
	MaxAge    Duration `max:"87600h" min:"1h" toml:"max_age"`
	// BackfillMaxAge is the same bound for the backfill door, which takes what the ordinary one refuses as too old.
	BackfillMaxAge     Duration `max:"87600h" min:"1h" toml:"backfill_max_age"`
	Ack                string   `oneof:"spool store" toml:"ack"`
	StreamChunkEvents  int      `max:"100000" min:"1" toml:"stream_chunk_events"`
	StreamChunkDelay   Duration `max:"1m" min:"1ms" toml:"stream_chunk_delay"`
	DeadLetterMaxBytes Size     `max:"1TiB" min:"0B" toml:"dead_letter_max"`
}

// Spool bounds the durable queue in front of the store. A segment has room for several records of a request, which are cut
// at 4 MiB.
type Spool struct {
	MaxBytes     Size `max:"1024TiB" min:"16MiB" toml:"max_bytes"`
	SegmentBytes Size `max:"1GiB" min:"8MiB" toml:"segment_bytes"`
}

// Loader shapes the inserts into the store.
type Loader struct {
	BatchEvents int      `max:"10000000" min:"1" toml:"batch_events"`
	BatchDelay  Duration `max:"1m" min:"10ms" toml:"batch_delay"`
	Inserters   int      `max:"64" min:"1" toml:"inserters"`
}

// Store says where ClickHouse is: a child process (Embedded) or servers (Addrs).
type Store struct {
	Embedded          bool     `toml:"embedded"`
	EngineLibrary     string   `path:"yes" toml:"engine_library"`
	EngineConnections int      `max:"64" min:"1" toml:"engine_connections"`
	Addrs             []string `toml:"addrs"`
	Database          string   `pattern:"^[A-Za-z_][A-Za-z0-9_]{0,63}$" toml:"database"`
	Username          string   `toml:"username"`
	PasswordFile      string   `path:"yes" toml:"password_file"`
	TLS               bool     `toml:"tls"`
	TLSCAFile         string   `path:"yes" toml:"tls_ca_file"`
	Cluster           string   `pattern:"^[A-Za-z0-9_.-]{0,64}$" toml:"cluster"`
	DialTimeout       Duration `max:"5m" min:"100ms" toml:"dial_timeout"`
	QueryTimeout      Duration `max:"1h" min:"1s" toml:"query_timeout"`
	// Password comes from PasswordFile or METERD_STORE_PASSWORD.
	Password Secret `toml:"-"`
}

// Closing says when a window is closed.
type Closing struct {
	Schedule        string   `required:"yes" toml:"schedule"`
	Grace           Duration `max:"59m59s" min:"0s" toml:"grace"`
	FlushTimeout    Duration `max:"1h" min:"1s" toml:"flush_timeout"`
	StampedLookback Duration `max:"480h" min:"1h" toml:"stamped_lookback"`
	// DayZone is where the billing days of daily products begin; "" means the site's. See [Config.DayZone].
	DayZone string `toml:"day_zone"`
	// LateMargin is how long before the marketplace's oldest age a late window is no longer made a record of its own.
	LateMargin Duration `max:"240h" min:"0s" toml:"late_margin"`
	// Jitter is by how much closing and pushing come later than scheduled, at random, at most.
	Jitter Duration `max:"5m" min:"0s" toml:"jitter"`
}

// Reporting says how bill records are delivered.
type Reporting struct {
	Enabled         bool     `toml:"enabled"`
	Marketplace     string   `oneof:"koogallery" toml:"marketplace"`
	Seller          string   `pattern:"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$" toml:"seller"`
	RetryMin        Duration `max:"10m" min:"10ms" toml:"retry_min"`
	RetryMax        Duration `max:"1h" min:"10ms" toml:"retry_max"`
	BreakerFailures int      `max:"1000" min:"1" toml:"breaker_failures"`
	BreakerTimeout  Duration `max:"1h" min:"100ms" toml:"breaker_timeout"`
	// LeaseTTL is how long another daemon on the same store waits before it takes over from one that is gone.
	LeaseTTL Duration `max:"10m" min:"3s" toml:"lease_ttl"`
	// Preflight is how long before the end of the hour the checks are made; 0 means never. They must not come while the hour before
	// is reported.
	Preflight Duration `max:"40m" min:"0s" toml:"preflight"`
	// Currency of the meters' prices, for example "CNY"; only a label.
	Currency string `pattern:"^([A-Z]{3})?$" toml:"currency"`
	// ShadowBaseURL is where records of products in mode shadow go; "" means nowhere.
	ShadowBaseURL string `toml:"shadow_base_url"`
	ShadowKeyFile string `path:"yes" toml:"shadow_key_file"`
	// ShadowKey comes from ShadowKeyFile or METERD_REPORTING_SHADOW_KEY.
	ShadowKey Secret `toml:"-"`
}

// Verify says how often the daemon verifies the books by itself, and over which time.
type Verify struct {
	Every  Duration `max:"168h" min:"0s" toml:"every"`   // 0 means never
	Window Duration `max:"8760h" min:"1h" toml:"window"` // hours whose events are counted again
}

// KooGallery is the marketplace account.
type KooGallery struct {
	Site      string `oneof:"china international europe" toml:"site"`
	BaseURL   string `toml:"base_url"`
	AllowHTTP bool   `toml:"allow_http"`
	Fallback  bool   `toml:"fallback"`
	// FallbackAcrossSites permits the documented fallback domain where it belongs to another site.
	FallbackAcrossSites bool     `toml:"fallback_across_sites"`
	API                 string   `oneof:"new old" toml:"api"`
	SellerKeyFile       string   `path:"yes" toml:"seller_key_file"`
	AccessKey           string   `toml:"access_key"`
	SecretKeyFile       string   `path:"yes" toml:"secret_key_file"`
	Timeout             Duration `max:"5m" min:"1s" toml:"timeout"`
	Spacing             Duration `max:"1m" min:"0s" toml:"spacing"`
	MaxBatch            int      `max:"1000" min:"1" toml:"max_batch"`
	CAFile              string   `path:"yes" toml:"ca_file"`
	// ProfileFile holds the marketplace's limits and addresses in place of the built-in ones; see [Config.Profile].
	ProfileFile string `path:"yes" toml:"profile_file"`
	// SellerKey comes from SellerKeyFile or METERD_KOOGALLERY_SELLER_KEY, SecretKey from SecretKeyFile or
	// METERD_KOOGALLERY_SECRET_KEY.
	SellerKey Secret `toml:"-"`
	SecretKey Secret `toml:"-"`
}

// Telemetry is what meterd says about itself.
type Telemetry struct {
	Listen       string  `toml:"listen"`
	OTLPEndpoint string  `toml:"otlp_endpoint"`
	TraceRatio   float64 `max:"1" min:"0" toml:"trace_ratio"`
	LogLevel     string  `oneof:"debug info warn error" toml:"log_level"`
	LogFormat    string  `oneof:"text json" toml:"log_format"`
}

// Meter declares a meter as written in the file; [Config.MeterList] converts it.
type Meter struct {
	Slug        string            `toml:"slug"`
	Description string            `toml:"description"`
	EventType   string            `toml:"event_type"`
	Aggregation string            `toml:"aggregation"`
	Value       string            `toml:"value"`
	GroupBy     map[string]string `toml:"group_by"`
	Unit        string            `toml:"unit"`
	Scale       string            `toml:"scale"`
	Billed      bool              `toml:"billed"`
	Instance    string            `toml:"instance"`
	ProductID   string            `toml:"product_id"`
	Product     string            `toml:"product"`
	Late        string            `oneof:"carry hold write_off" optional:"yes" toml:"late"`
	Price       string            `toml:"price"`
}

// Product is what meters are billed as; [Config.Terms] converts it.
type Product struct {
	Name  string `toml:"name"`
	Mode  string `oneof:"live shadow dry_run" toml:"mode"`
	Cycle string `oneof:"hourly daily" toml:"cycle"`
}

// setDefaults gives a new entry of the list the values of the keys that are left out.
func (p *Product) setDefaults() {
	p.Mode = reporter.ModeLive.String()
	p.Cycle = reporter.CycleHourly.String()
}

// setDefaults gives a new entry of the list the values of the keys that are left out.
func (m *Meter) setDefaults() {
	m.Scale = "1"
	m.Billed = true
	m.Instance = "{subject}"
	m.Late = reporter.LateCarry.String()
}

// Mapping gives the usage of one subject and meter to one instance of the marketplace.
type Mapping struct {
	Subject    string `toml:"subject"`
	Meter      string `toml:"meter"`
	InstanceID string `toml:"instance_id"`
	ProductID  string `toml:"product_id"`
}

// Default returns the configuration of an empty file. It has no meters and no secrets, so it doesn't pass
// [Config.Validate] by itself while reporting is enabled.
func Default() Config {
	return Config{
		DataDir: "meterd-data",
		Server: Server{
			Listen:            "127.0.0.1:8080",
			ReadHeaderTimeout: Duration(5 * time.Second),
			IdleTimeout:       Duration(2 * time.Minute),
			RequestTimeout:    Duration(30 * time.Second),
			ShutdownTimeout:   Duration(30 * time.Second),
		},
		Ingest: Ingest{
			MaxBody: 16 * MiB, MaxEvent: 256 * KiB, MaxBatch: 10000,
			MaxFuture: Duration(10 * time.Minute), MaxAge: Duration(480 * time.Hour), BackfillMaxAge: Duration(8760 * time.Hour),
			Ack:               "spool",
			StreamChunkEvents: 1000, StreamChunkDelay: Duration(200 * time.Millisecond),
			DeadLetterMaxBytes: 256 * MiB,
		},
		Spool:  Spool{MaxBytes: 8 * GiB, SegmentBytes: 64 * MiB},
		Loader: Loader{BatchEvents: 100000, BatchDelay: Duration(time.Second), Inserters: 2},
		Store: Store{
			Embedded: true, EngineConnections: 4, Database: "meterd", Username: "default",
			DialTimeout: Duration(5 * time.Second), QueryTimeout: Duration(time.Minute),
		},
		Closing: Closing{
			Schedule: "5 * * * *", Grace: Duration(5 * time.Minute),
			FlushTimeout: Duration(2 * time.Minute), StampedLookback: Duration(24 * time.Hour),
			LateMargin: Duration(24 * time.Hour), Jitter: Duration(20 * time.Second),
		},
		Reporting: Reporting{
			Enabled: true, Marketplace: "koogallery", Seller: "default",
			RetryMin: Duration(2 * time.Second), RetryMax: Duration(time.Minute),
			BreakerFailures: 5, BreakerTimeout: Duration(30 * time.Second),
			LeaseTTL: Duration(30 * time.Second), Preflight: Duration(5 * time.Minute),
		},
		KooGallery: KooGallery{
			Site: "china", Fallback: true, API: "new",
			Timeout: Duration(30 * time.Second), Spacing: Duration(200 * time.Millisecond), MaxBatch: 1000,
		},
		Verify:    Verify{Every: Duration(time.Hour), Window: Duration(6 * time.Hour)},
		Telemetry: Telemetry{Listen: "127.0.0.1:9464", LogLevel: "info", LogFormat: "text"},
	}
}

// Warnings are findings that don't keep the configuration from being used, such as a secret that other users can read.
func (c Config) Warnings() []string { return append([]string(nil), c.warnings...) }
