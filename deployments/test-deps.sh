#!/bin/sh
# Installs what the tests need and this machine lacks: Debian's clickhouse-server, and promtool (Debian's prometheus) for the
# alert rules. Where something can't be installed (no root, no apt-get, no network) it says so; the tests that need it then
# skip with the reason, or fail when METERD_REQUIRE_ENGINES=1.
set -u

have() { command -v "$1" >/dev/null 2>&1; }

missing=""
# Debian puts the server into /usr/sbin, which is not on every user's PATH.
if ! have clickhouse-server && ! [ -x /usr/sbin/clickhouse-server ] && ! have clickhouse; then
	missing="clickhouse-server"
fi
if ! have promtool; then
	missing="${missing:+$missing }prometheus"
fi
if [ -z "$missing" ]; then
	exit 0
fi
if ! have apt-get; then
	echo "test-deps: missing and no apt-get: $missing; tests that need them will be skipped" >&2
	exit 0
fi
if [ "$(id -u)" -eq 0 ]; then
	sudo=""
elif have sudo && sudo -n true 2>/dev/null; then
	sudo="sudo"
else
	echo "test-deps: installing needs root: run 'apt-get install $missing'; tests that need them will be skipped" >&2
	exit 0
fi
echo "test-deps: installing $missing"
log=$(mktemp)
# The packages start a service by themselves on some systems; policy-rc.d is not ours to change, so a started service is left
# alone: the tests use servers of their own on free ports, and of prometheus only promtool.
failed=""
$sudo apt-get update >"$log" 2>&1 || tail -n 5 "$log" >&2
for package in $missing; do
	if ! DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y --no-install-recommends "$package" >"$log" 2>&1; then
		tail -n 15 "$log" >&2
		failed="${failed:+$failed }$package"
	fi
done
rm -f "$log"
if [ -n "$failed" ]; then
	echo "test-deps: could not be installed: $failed; tests that need them will be skipped" >&2
fi
exit 0
