#!/bin/sh
# Installs what the tests need and this machine lacks: Debian's clickhouse-server. Where it can't be installed (no root, no
# apt-get, no network) it says so; the tests that need it then skip with the reason, or fail when METERD_REQUIRE_ENGINES=1.
set -u

have() { command -v "$1" >/dev/null 2>&1; }

# Debian puts the server into /usr/sbin, which is not on every user's PATH.
if have clickhouse-server || [ -x /usr/sbin/clickhouse-server ] || have clickhouse; then
	exit 0
fi
if ! have apt-get; then
	echo "test-deps: no clickhouse-server and no apt-get: tests against a real server will be skipped" >&2
	exit 0
fi
if [ "$(id -u)" -eq 0 ]; then
	sudo=""
elif have sudo && sudo -n true 2>/dev/null; then
	sudo="sudo"
else
	echo "test-deps: clickhouse-server is missing and installing it needs root: run 'apt-get install clickhouse-server'; tests against a real server will be skipped" >&2
	exit 0
fi
echo "test-deps: installing clickhouse-server"
log=$(mktemp)
# The package starts a service by itself on some systems; policy-rc.d is not ours to change, so a started service is left alone:
# the tests use servers of their own on free ports.
if $sudo apt-get update >"$log" 2>&1 &&
	DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y --no-install-recommends clickhouse-server >>"$log" 2>&1; then
	rm -f "$log"
	exit 0
fi
tail -n 15 "$log" >&2
rm -f "$log"
echo "test-deps: clickhouse-server could not be installed: tests against a real server will be skipped" >&2
exit 0
