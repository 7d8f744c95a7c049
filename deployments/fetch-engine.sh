#!/bin/sh
# Fetches the library of the embedded ClickHouse engine (libchdb.so) into a directory.
#
#   deployments/fetch-engine.sh [DIR]
#
# DIR defaults to the place where meterd looks first after its own directory:
# ${XDG_CACHE_HOME:-~/.cache}/meterd/engine/26.5.3. Does nothing when the right library is there already.
#
# Needs: npm (its configured registry is used), tar, sha512sum, 800 MB of free space in DIR.
# Without network: set METERD_ENGINE_TARBALL to the package's tarball, made elsewhere with
#   npm pack @chdb/lib-linux-x64-gnu@26.5.3
#
# Exit codes: 0 the library is there, 1 it could not be fetched, 2 wrong usage or this machine is not supported.
set -eu

version=26.5.3

say() { printf '%s\n' "fetch-engine: $*" >&2; }
die() { code=$1; shift; say "$@"; exit "$code"; }

case "${1:-}" in
-h | --help)
	sed -n '2,/^set -eu/{/^#/s/^# \{0,1\}//p;}' "$0"
	exit 0
	;;
-*) die 2 "unknown option $1; usage: $0 [DIR]" ;;
esac
[ $# -le 1 ] || die 2 "too many arguments; usage: $0 [DIR]"
if [ -n "${1:-}" ]; then
	dir=$1
elif [ -n "${XDG_CACHE_HOME:-}" ]; then
	dir=$XDG_CACHE_HOME/meterd/engine/$version
elif [ -n "${HOME:-}" ]; then
	dir=$HOME/.cache/meterd/engine/$version
else
	die 2 "neither HOME nor XDG_CACHE_HOME is set: name the directory, usage: $0 DIR"
fi

[ "$(uname -s)" = Linux ] || die 2 "the embedded engine runs on Linux only; use a ClickHouse server (store.addrs) instead"
case $(uname -m) in
x86_64 | amd64)
	package=@chdb/lib-linux-x64-gnu
	tarball_sum=7cfacb991b79328a2bf721b3e266b36eb3637b8b7b5fd281da64c6917156471441b3688acbcca1ea3c75d71b1ad10af788314c53fc87a9df9b55d6095eedd069
	library_sum=8beee42fa445c752373f7d8224effc54ee1acba5c639340d72564abfa90ab971fa7aadbeb6793766319d4c00c981f638f56373210de78bef5ba38f387a89c2f4
	library_size=559044752
	;;
*) die 2 "no package of engine $version for $(uname -m); use a ClickHouse server (store.addrs) instead" ;;
esac

library=$dir/libchdb.so
stamp=$dir/libchdb.so.sha512

# The stamp is written after the library was checked and moved into place, so both together mean "this very file";
# the size tells a file replaced by hand. Reading 559 MB at every build would be slow.
if [ -f "$library" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$library_sum" ] &&
	[ "$(wc -c <"$library")" -eq "$library_size" ]; then
	exit 0
fi

mkdir -p "$dir" || die 1 "cannot create $dir"
# Inside DIR: the rename at the end must not cross file systems.
work=$(mktemp -d "$dir/.fetch.XXXXXX") || die 1 "cannot write to $dir"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

sum_of() { sha512sum "$1" | cut -d' ' -f1; }

if [ -n "${METERD_ENGINE_TARBALL:-}" ]; then
	tarball=$METERD_ENGINE_TARBALL
	[ -f "$tarball" ] || die 1 "METERD_ENGINE_TARBALL: no file $tarball"
else
	command -v npm >/dev/null 2>&1 ||
		die 1 "npm is missing: install Node.js, or set METERD_ENGINE_TARBALL to the tarball of $package@$version"
	say "fetching $package@$version (167 MB)"
	(cd "$work" && npm pack --silent "$package@$version" >/dev/null) ||
		die 1 "npm pack $package@$version failed: see its message above; npm's proxy and registry settings apply"
	set -- "$work"/*.tgz
	tarball=$1
	[ -f "$tarball" ] || die 1 "npm pack left no tarball"
fi

got=$(sum_of "$tarball")
[ "$got" = "$tarball_sum" ] || die 1 "checksum of $tarball is wrong
  want $tarball_sum
  got  $got
nothing was installed"

tar -xzf "$tarball" -C "$work" package/libchdb.so || die 1 "cannot unpack $tarball (disk full?)"
got=$(sum_of "$work/package/libchdb.so")
[ "$got" = "$library_sum" ] || die 1 "checksum of the unpacked library is wrong (disk full or damaged?)"

rm -f "$stamp"
chmod 0644 "$work/package/libchdb.so"
mv -f "$work/package/libchdb.so" "$library"
printf '%s\n' "$library_sum" >"$work/stamp"
mv -f "$work/stamp" "$stamp"
say "installed $library"
