package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/meterd/meterd/internal/config"
	"github.com/meterd/meterd/store"
	"github.com/meterd/meterd/store/embedded"
)

// storeCheck is the check of whichever ClickHouse is configured.
func (d *doctor) storeCheck() check {
	if d.cfg.Store.Embedded {
		return check{name: "engine", timeout: d.EngineTimeout, run: d.checkEngine}
	}
	return check{name: "server", run: d.checkServers}
}

// checkEngine starts the engine on a directory of its own and asks it something.
func (d *doctor) checkEngine(ctx context.Context) []Finding {
	const name = "engine"
	library, err := embedded.FindLibrary(d.cfg.Store.EngineLibrary)
	if err != nil {
		return []Finding{fail(name, err.Error(), "fetch the library with deployments/fetch-engine.sh, or name it in store.engine_library")}
	}
	findings := []Finding{ok(name, "library "+library)}
	began := d.Now()
	version, err := d.askEngine(ctx, library)
	if err != nil {
		return append(findings, fail(name, "doesn't start: "+err.Error(),
			"the library must be of this machine's architecture, with a C library as new as it wants, and have about 500 MB of memory"))
	}
	found := fmt.Sprintf("ClickHouse %s started on a scratch directory and answered after %s", version, d.Now().Sub(began).Round(10*time.Millisecond))
	// The package's release and the engine's differ in the last numbers.
	if release(version) != release(embedded.Version) {
		return append(findings, warn(name, found, "meterd was tested with release "+embedded.Version+"; fetch that one with deployments/fetch-engine.sh"))
	}
	return append(findings, ok(name, found))
}

// release is major.minor of a version.
func release(version string) string {
	parts := strings.SplitN(version, ".", 3)
	return strings.Join(parts[:min(len(parts), 2)], ".")
}

// askEngine returns the version that a freshly started engine answers.
func (d *doctor) askEngine(ctx context.Context, library string) (version string, err error) {
	dir, err := os.MkdirTemp("", "meterd-doctor-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	engine, err := embedded.Start(ctx, embedded.Options{
		Executable: d.Executable, Args: d.EngineArgs, DataDir: dir, Library: library, Connections: 1, MemoryLimit: 1 << 30,
		NoFsync: true, StartTimeout: d.EngineTimeout,
	})
	if err != nil {
		return "", err
	}
	defer func() {
		// Stopping has time of its own: the check's may be used up.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, engine.Close(ctx))
	}()
	conn, err := clickhouse.Open(engine.ClientOptions(""))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	err = conn.QueryRow(ctx, "SELECT version()").Scan(&version)
	return version, err
}

// checkServers asks every configured server.
func (d *doctor) checkServers(ctx context.Context) []Finding {
	const name = "server"
	tlsConfig, err := storeTLS(d.cfg.Store, d.Now)
	if err != nil {
		return []Finding{fail(name, err.Error(), "name a PEM file in store.tls_ca_file")}
	}
	var findings []Finding
	for _, addr := range d.cfg.Store.Addrs {
		findings = append(findings, d.checkServer(ctx, addr, tlsConfig)...)
	}
	return findings
}

func storeTLS(s config.Store, now func() time.Time) (*tls.Config, error) {
	if !s.TLS {
		return nil, nil //nolint:nilnil // no TLS is no fault
	}
	roots, err := rootsWith(s.TLSCAFile, false)
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Time: now}, err
}

// rootsWith returns the authorities of a PEM file, beside the system's ones if system; nil without a file.
func rootsWith(file string, system bool) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil //nolint:nilnil // nil is the system's pool for package tls
	}
	pem, err := os.ReadFile(file) //nolint:gosec // the operator chose the path
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if system {
		if p, err := x509.SystemCertPool(); err == nil {
			pool = p
		}
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", file)
	}
	return pool, nil
}

// checkServer asks one server for version, clock, database and disks.
func (d *doctor) checkServer(ctx context.Context, addr string, tlsConfig *tls.Config) []Finding {
	const name = "server"
	s := d.cfg.Store
	conn, err := clickhouse.Open(&clickhouse.Options{
		Addr: []string{addr}, TLS: tlsConfig, DialTimeout: s.DialTimeout.Std(), ReadTimeout: d.Timeout,
		Auth: clickhouse.Auth{Database: "default", Username: s.Username, Password: s.Password.Reveal()},
	})
	if err != nil {
		return []Finding{fail(name, addr+": "+err.Error(), "mend the section [store]")}
	}
	defer conn.Close()
	if err := conn.Ping(ctx); err != nil {
		return []Finding{fail(name, fmt.Sprintf("%s: %v", addr, err), connectAdvice(err))}
	}
	v, err := conn.ServerVersion()
	if err != nil {
		return []Finding{fail(name, fmt.Sprintf("%s: %v", addr, err), connectAdvice(err))}
	}
	version := store.Version{Major: v.Version.Major, Minor: v.Version.Minor, Patch: v.Version.Patch}
	findings := []Finding{versionFinding(addr, version)}
	findings = append(findings, d.serverClock(ctx, conn, addr), d.serverDatabase(ctx, conn, addr))
	if s.Cluster != "" {
		findings = append(findings, d.serverCluster(ctx, conn, addr))
	}
	findings = append(findings, d.serverLease(ctx, conn, addr)...)
	return append(findings, serverDisks(ctx, conn, addr)...)
}

func versionFinding(addr string, v store.Version) Finding {
	found := addr + ": ClickHouse " + v.String()
	switch {
	case !v.AtLeast(18, 16):
		return fail("server", found+" is too old", "18.16 or newer is needed, 24.8 LTS or newer recommended")
	case !v.AtLeast(24, 8):
		return warn("server", found+" works, but is old", "24.8 LTS or newer is recommended")
	}
	return ok("server", found)
}

// connectAdvice says what to do about a server that can't be used.
func connectAdvice(err error) string {
	var exception *clickhouse.Exception
	switch {
	case errors.As(err, &exception) && (exception.Code == 516 || exception.Code == 192 || exception.Code == 193 || exception.Code == 194):
		return "check store.username and the password in store.password_file or METERD_STORE_PASSWORD"
	case strings.Contains(err.Error(), "tls:"), strings.Contains(err.Error(), "x509:"):
		return "check store.tls and store.tls_ca_file: the native port with TLS is usually 9440"
	}
	return "check store.addrs (host and native port, usually 9000, not the HTTP port 8123), the firewall, and that the server runs"
}

// serverClock compares the server's clock with ours.
func (d *doctor) serverClock(ctx context.Context, conn driver.Conn, addr string) Finding {
	var unix uint32
	before := d.Now()
	if err := conn.QueryRow(ctx, "SELECT toUInt32(toUnixTimestamp(now()))").Scan(&unix); err != nil {
		return warn("server", fmt.Sprintf("%s: its clock can't be read: %v", addr, err), "see the server's log")
	}
	return offsetFinding("server", addr, time.Unix(int64(unix), 0), before, d.Now())
}

// serverDatabase looks whether the database is there, or else whether it may be created. It creates nothing.
func (d *doctor) serverDatabase(ctx context.Context, conn driver.Conn, addr string) Finding {
	const name = "server"
	database := d.cfg.Store.Database
	var n uint64
	if err := conn.QueryRow(ctx, "SELECT count() FROM system.databases WHERE name = '"+database+"'").Scan(&n); err != nil {
		return warn(name, fmt.Sprintf("%s: its databases can't be listed: %v", addr, err), "grant the user SHOW DATABASES")
	}
	if n > 0 {
		return ok(name, fmt.Sprintf("%s: database %s is there", addr, database))
	}
	create := "let an administrator run: CREATE DATABASE " + database
	var readonly string
	if err := conn.QueryRow(ctx, "SELECT value FROM system.settings WHERE name = 'readonly'").Scan(&readonly); err == nil && readonly != "0" {
		return fail(name, fmt.Sprintf("%s: the user may only read (readonly = %s)", addr, readonly), "give the user a profile with readonly = 0")
	}
	grants, err := texts(ctx, conn, "SHOW GRANTS")
	if err != nil {
		// Servers before 20.5 have no grants: whoever isn't read-only may create.
		return ok(name, fmt.Sprintf("%s: database %s isn't there yet; meterd serve will create it", addr, database))
	}
	if !mayCreate(grants, database) {
		return warn(name, fmt.Sprintf("%s: database %s isn't there, and no grant to create it was found", addr, database), create)
	}
	return ok(name, fmt.Sprintf("%s: database %s isn't there yet; meterd serve may and will create it", addr, database))
}

// mayCreate looks for a grant that permits to create the database. Roles are not followed.
func mayCreate(grants []string, database string) bool {
	for _, grant := range grants {
		rest, ok := strings.CutPrefix(grant, "GRANT ")
		privileges, target, ok2 := strings.Cut(rest, " ON ")
		if !ok || !ok2 {
			continue
		}
		target, _, _ = strings.Cut(target, " ")
		if target = strings.ReplaceAll(target, "`", ""); target != "*.*" && target != database+".*" {
			continue
		}
		for privilege := range strings.SplitSeq(privileges, ", ") {
			switch strings.TrimSpace(privilege) {
			case "ALL", "CREATE", "CREATE DATABASE":
				return true
			}
		}
	}
	return false
}

// serverCluster looks whether the server knows the cluster and reaches its coordination service.
func (d *doctor) serverCluster(ctx context.Context, conn driver.Conn, addr string) Finding {
	const name = "server"
	cluster := d.cfg.Store.Cluster
	var n, shards uint64
	query := "SELECT count(), uniqExact(shard_num) FROM system.clusters WHERE cluster = '" + cluster + "'"
	if err := conn.QueryRow(ctx, query).Scan(&n, &shards); err != nil {
		return fail(name, fmt.Sprintf("%s: its clusters can't be listed: %v", addr, err), "see the server's log")
	}
	if n == 0 {
		return fail(name, fmt.Sprintf("%s: knows no cluster %q", addr, cluster), "set store.cluster to one of: SELECT DISTINCT cluster FROM system.clusters")
	}
	if _, err := texts(ctx, conn, "SELECT name FROM system.zookeeper WHERE path = '/' LIMIT 1"); err != nil {
		return fail(name, fmt.Sprintf("%s: ClickHouse Keeper or ZooKeeper doesn't answer: %v", addr, err), "replicated tables and ON CLUSTER need it")
	}
	return ok(name, fmt.Sprintf("%s: cluster %s with %d replicas in %d shards, its Keeper or ZooKeeper answers", addr, cluster, n, shards))
}

// serverDisks looks at the space of the server's disks; servers before 19.15 don't tell.
func serverDisks(ctx context.Context, conn driver.Conn, addr string) []Finding {
	const name = "server"
	rows, err := conn.Query(ctx, "SELECT name, free_space, total_space FROM system.disks")
	if err != nil {
		return []Finding{ok(name, addr+": doesn't tell the space of its disks, not checked")}
	}
	defer rows.Close()
	var findings []Finding
	for rows.Next() {
		var disk string
		var free, total uint64
		if err := rows.Scan(&disk, &free, &total); err != nil {
			return append(findings, warn(name, fmt.Sprintf("%s: %v", addr, err), "see the server's log"))
		}
		findings = append(findings, diskFinding(addr, disk, free, total))
	}
	if err := rows.Err(); err != nil {
		findings = append(findings, warn(name, fmt.Sprintf("%s: %v", addr, err), "see the server's log"))
	}
	return findings
}

func diskFinding(addr, disk string, free, total uint64) Finding {
	const most = 1 << 62
	found := fmt.Sprintf("%s: disk %s has %s free of %s", addr, disk, size(int64(min(free, most))), size(int64(min(total, most))))
	switch {
	case free < uint64(minFree):
		return fail("server", found, "make room: inserts soon fail, and the spool fills")
	case free < total/10:
		return warn("server", found, "make room: below a tenth merges may fail")
	}
	return ok("server", found)
}

// texts reads the only column of a query.
func texts(ctx context.Context, conn driver.Conn, query string) ([]string, error) {
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var values []string
	for rows.Next() {
		var value string
		if err := rows.Scan(&value); err != nil {
			return nil, err
		}
		values = append(values, value)
	}
	return values, rows.Err()
}
